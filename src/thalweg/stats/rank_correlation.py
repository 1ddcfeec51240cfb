r"""Kendall's tau between a measure and the gap over a grid of runs: overall, and axis by axis.

Tau-b of a set of pairs of runs is

.. math:: \tau = \frac{\sum \mathrm{sgn}(m_i - m_j)\, \mathrm{sgn}(g_i - g_j)}
    {\sqrt{\#\{m_i \ne m_j\}\, \#\{g_i \ne g_j\}}}

**Overall**: over all pairs of runs. It rewards a measure for whatever goes along with the gap over the
grid, and width alone may do that.

**Granulated** (Jiang et al. 2020): :math:`\psi_a` is the mean of the taus of groups of runs that agree in
all hyperparameters but a; :math:`\Psi` the mean of :math:`\psi_a` over the axes. Where a cell holds several
seeds the pairs of a group are those that differ in a, each run of one level with each of the other: two
seeds of one cell differ in nothing that is asked about. With one seed a cell it is the definition of Jiang
et al. Groups in which one of the two is constant order nothing, and are left out.

**Intervals** are Student's, with the standard error by resampling seeds within cells
(`thalweg.stats.cells`) on as many degrees of freedom as the cells have; cut off at one, where no tau can be
above. They are about the mean of the coefficient over seeds, on this grid.

**P-values** are of the null that a cell's gap has nothing to do with its measure: the cells' gaps are
exchanged among each other, all seeds of one together. Runs are not exchangeable, for those of a cell hang
together. What is compared is the coefficient of the cells' mutual order, the mean sign over pairs of their
seeds (Daniels 1944), which with one seed a cell is tau-b.

**Errors of measuring** are in the spread of the seeds already; only in cells of one run is noise of that size
added. Besides, they blur the order of any two runs and so draw tau towards nought. By how much
follows in closed form from adding them once more, since of normal errors e

.. math:: \mathrm{E}\, \mathrm{sgn}(m_i - m_j + e_i - e_j)
    = \mathrm{erf}\Bigl( \frac{m_i - m_j}{\sqrt{2 (s_i^2 + s_j^2)}} \Bigr)

and to first order in their variance, what they take when added is what they have taken already.

References ---------- Kendall (1945), Biometrika 33(3), 239-251; Daniels (1944), Biometrika 33(2), 129-135;
Jiang, Neyshabur, Mobahi, Krishnan and Bengio (2020), Fantastic Generalization Measures and Where to Find
Them, ICLR; Cook and Stefanski (1994), J. American Statistical Association 89, 1314-1328.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from thalweg.core.arguments import check_count, check_fraction
from thalweg.stats.cells import Cells, Group, axis_groups, run_errors, run_values
from thalweg.stats.permutation import ROUNDING

Array = NDArray[np.float64]

# All exchanges of cells are gone through up to this many, which are those of seven.
MOST_EXCHANGES = 5040


@dataclass(frozen=True)
class Correlation:
    """One coefficient.

    Parameters
    ----------
    value
        In [-1, 1]; NaN where no pair of runs speaks of it.
    standard_error, low, high
        By the seeds; NaN where no cell has two, and no error of a value was given.
    p_value
        Two-sided, of no relation between the cells.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class AxisCorrelation:
    """Along one hyperparameter, the others equal.

    Parameters
    ----------
    name
        Of the hyperparameter.
    tau
        Mean over the groups; NaN if there are none.
    num_groups, num_pairs
        Groups of runs that differ in nothing else and are ordered by both, and pairs of runs in them.
    """

    name: str
    tau: Correlation
    num_groups: int
    num_pairs: int


@dataclass(frozen=True)
class RankCorrelation:
    """What a grid of runs says of a measure and the gap.

    Parameters
    ----------
    overall, granulated, axes
        Tau-b over all runs; the mean over the axes that have groups; each axis.
    level
        Of the intervals.
    num_runs, num_cells
        n runs in C cells.
    num_fixed_cells
        Cells of which nothing says how uncertain they are, one run without an error: taken as exact.
    smallest_p
        What the p-values cannot go below with so few cells.
    measurement_loss
        What errors of measuring have taken from the overall tau, to first order; NaN if none were given.
    """

    overall: Correlation
    granulated: Correlation
    axes: tuple[AxisCorrelation, ...]
    level: float
    num_runs: int
    num_cells: int
    num_fixed_cells: int
    smallest_p: float
    measurement_loss: float


def rank_correlation(
    measure: ArrayLike,
    gap: ArrayLike,
    hyperparameters: Mapping[str, Sequence[Hashable]],
    *,
    errors: ArrayLike | None = None,
    gap_errors: ArrayLike | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int,
) -> RankCorrelation:
    """How a measure ranks runs by their gap, overall and along each hyperparameter.

    Takes memory for a few matrices of n by n.

    Parameters
    ----------
    measure, gap
        ``(n,)``, one value a run.
    hyperparameters
        Of each name the ``n`` values; runs that agree in all are seeds of one cell.
    errors, gap_errors
        ``(n,)`` standard errors of the values, independent from run to run.
    level
        Of the intervals.
    num_resamples
        Of the seeds, and of the cells where there are more than seven.
    seed
        Of both.

    Raises
    ------
    ValueError
        If values are not finite or not one a run, there are fewer than three cells, or one of the two is
        constant.
    """
    check_fraction("level", level, "0.95 is customary")
    check_count("num_resamples", num_resamples, 100)
    m = run_values("measure", measure)
    g = run_values("gap", gap, len(m))
    cells, axes = axis_groups("hyperparameters", hyperparameters, len(m))
    grid = _Grid(cells, axes)
    num_cells = len(grid.cells.sizes)
    if num_cells < 3:
        raise ValueError(
            f"`hyperparameters` must make at least three cells, got {num_cells}: no order to see."
        )
    for name, values in (("measure", m), ("gap", g)):
        if (values == values[0]).all():
            raise ValueError(
                f"`{name}` must not be constant, got {values[0]} of all runs: it orders nothing."
            )
    noise_m, noise_g = run_errors("errors", errors, len(m)), run_errors("gap_errors", gap_errors, len(m))

    signs_m, signs_g = _signs(m), _signs(g)
    grid = grid.ordered_by(signs_m, signs_g)
    found = grid.coefficients(signs_m, signs_g, np.ones((1, len(m))))[0]
    alone = grid.cells.is_alone
    noisy = alone & ((noise_m > 0) | (noise_g > 0))
    variance = np.zeros(len(found))
    quantile = float(stats.norm.ppf(0.5 + level / 2))
    if grid.cells.dof:
        weights = grid.cells.weights(num_resamples, seed)
        variance += grid.coefficients(signs_m, signs_g, weights).var(0, ddof=1)
        quantile = float(stats.t.ppf(0.5 + level / 2, grid.cells.dof))
    if noisy.any():
        variance += grid.variance_by_noise(m, g, noise_m * noisy, noise_g * noisy, num_resamples, seed)
    known = bool(grid.cells.dof) or bool(noisy.any())
    p_values, smallest_p = grid.p_values(signs_m, signs_g, num_resamples, seed)

    def correlation(i: int) -> Correlation:
        value = float(found[i])
        error = math.sqrt(variance[i]) if known and not math.isnan(value) else math.nan
        # In this order NaN stays.
        low, high = max(value - quantile * error, -1.0), min(value + quantile * error, 1.0)
        return Correlation(value, error, low, high, float(p_values[i]))

    loss = math.nan
    if errors is not None or gap_errors is not None:
        loss = float(found[0]) - grid.noisier(m, g, noise_m, noise_g)
    return RankCorrelation(
        overall=correlation(0),
        granulated=correlation(1),
        axes=tuple(
            AxisCorrelation(name, correlation(2 + a), len(groups), sum(int(k.sum()) // 2 for _, k in groups))
            for a, (name, groups) in enumerate(grid.axes.items())
        ),
        level=level,
        num_runs=len(m),
        num_cells=num_cells,
        num_fixed_cells=int((alone & ~noisy).sum()),
        smallest_p=smallest_p,
        measurement_loss=loss,
    )


@dataclass(frozen=True)
class _Grid:
    """The runs, and along each axis the groups of them that differ in nothing else."""

    cells: Cells
    axes: dict[str, list[Group]]

    def ordered_by(self, signs_m: Array, signs_g: Array) -> _Grid:
        """Without groups in which either is constant."""

        def is_ordered(runs: NDArray[np.intp], counted: Array) -> bool:
            block = np.ix_(runs, runs)
            return bool((signs_m[block] * counted).any() and (signs_g[block] * counted).any())

        return _Grid(
            self.cells, {n: [g for g in groups if is_ordered(*g)] for n, groups in self.axes.items()}
        )

    def coefficients(self, signs_m: Array, signs_g: Array, weights: Array) -> Array:
        """``(B, 2 + A)``: overall, granulated and each axis, with weights ``(B, n)`` of the runs."""
        overall = _tau(signs_m, signs_g, weights)
        axes = []
        for groups in self.axes.values():
            taus = []
            for runs, counted in groups:
                block = np.ix_(runs, runs)
                taus.append(_tau(signs_m[block] * counted, signs_g[block] * counted, weights[:, runs]))
            axes.append(_mean(taus, len(weights)))
        return np.stack(
            [overall, _mean([a for a in axes if not np.isnan(a).any()], len(weights)), *axes], axis=1
        )

    def variance_by_noise(
        self, m: Array, g: Array, noise_m: Array, noise_g: Array, num_draws: int, seed: int
    ) -> Array:
        """``(2 + A,)``: of the coefficients, by normal errors of the values."""
        rng = np.random.default_rng([seed, 1])
        ones, drawn = np.ones((1, len(m))), []
        for _ in range(num_draws):
            moved_m, moved_g = (v + s * rng.normal(size=len(v)) for v, s in ((m, noise_m), (g, noise_g)))
            drawn.append(self.coefficients(_signs(moved_m), _signs(moved_g), ones)[0])
        return np.var(drawn, axis=0, ddof=1)

    def p_values(self, signs_m: Array, signs_g: Array, num_exchanges: int, seed: int) -> tuple[Array, float]:
        """``(2 + A,)``, and what they cannot go below."""
        num_cells = len(self.cells.sizes)
        by_cell = _Grid(Cells.of(range(num_cells)), self._cell_axes())
        share = np.eye(num_cells)[self.cells.index] / self.cells.sizes  # (n, C)
        order_m, order_g = share.T @ signs_m @ share, share.T @ signs_g @ share
        np.fill_diagonal(order_m, 0.0)
        np.fill_diagonal(order_g, 0.0)
        by_cell = by_cell.ordered_by(order_m, order_g)
        if math.factorial(num_cells) <= MOST_EXCHANGES:
            exchanges = np.array(list(itertools.permutations(range(num_cells))))
        else:
            rng = np.random.default_rng([seed, 2])
            drawn = rng.permuted(np.tile(np.arange(num_cells), (num_exchanges, 1)), axis=1)
            exchanges = np.concatenate([np.arange(num_cells)[None], drawn])
        null = np.abs(
            np.concatenate(
                [by_cell._orders(order_m, order_g, e) for e in np.array_split(exchanges, _parts(exchanges))]
            )
        )
        p = np.where(np.isnan(null[0]), math.nan, (null >= null[0] * (1 - ROUNDING)).mean(0))
        return p, 2 / len(exchanges) if num_cells <= 7 else 1 / len(exchanges)

    def _cell_axes(self) -> dict[str, list[Group]]:
        """The groups, of cells for runs."""
        axes: dict[str, list[Group]] = {}
        for name, groups in self.axes.items():
            axes[name] = []
            for runs, counted in groups:
                cells, first = np.unique(self.cells.index[runs], return_index=True)
                axes[name].append((cells, counted[np.ix_(first, first)]))
        return axes

    def _orders(self, order_m: Array, order_g: Array, exchanges: NDArray[np.intp]) -> Array:
        """``(E, 2 + A)``: Daniels' coefficients with the cells' gaps exchanged."""

        def of(cells: NDArray[np.intp], counted: Array) -> Array:
            a = order_m[np.ix_(cells, cells)] * counted
            moved = exchanges[:, cells]
            b = order_g[moved[:, :, None], moved[:, None, :]] * counted
            return _ratio(np.einsum("cd,ecd->e", a, b), np.square(a).sum() * np.square(b).sum((1, 2)))

        everything = np.arange(len(order_m))
        overall = of(everything, np.ones_like(order_m))
        axes = [_mean([of(*group) for group in groups], len(exchanges)) for groups in self.axes.values()]
        return np.stack(
            [overall, _mean([a for a in axes if not np.isnan(a).any()], len(exchanges)), *axes], 1
        )

    def noisier(self, m: Array, g: Array, noise_m: Array, noise_g: Array) -> float:
        """The mean overall tau with the errors added once more."""
        blurred = [_blurred_signs(v, s) for v, s in ((m, noise_m), (g, noise_g))]
        pairs = [float((_signs(v) != 0).sum()) for v in (m, g)]
        return float((blurred[0] * blurred[1]).sum()) / math.sqrt(pairs[0] * pairs[1])


def _tau(signs_m: Array, signs_g: Array, weights: Array) -> Array:
    """``(B,)`` tau-b of pairs that weigh the product of their runs' weights ``(B, n)``."""
    concordance, pairs_m, pairs_g = (
        ((weights @ k) * weights).sum(1) for k in (signs_m * signs_g, np.square(signs_m), np.square(signs_g))
    )
    return _ratio(concordance, pairs_m * pairs_g)


def _ratio(product: Array, squares: Array) -> Array:
    """Over the root; nought where nothing is ordered, as resampling may leave it."""
    return np.where(squares > 0, product / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)


def _mean(rows: list[Array], length: int) -> Array:
    return np.mean(rows, axis=0) if rows else np.full(length, math.nan)


def _parts(exchanges: NDArray[np.intp]) -> int:
    """So many that one takes some ten million numbers at most."""
    return max(1, math.ceil(exchanges.size * exchanges.shape[1] / 1e7))


def _signs(values: Array) -> Array:
    return np.sign(values[:, None] - values)


def _blurred_signs(values: Array, errors: Array) -> Array:
    difference, spread = (
        values[:, None] - values,
        np.sqrt(2 * (np.square(errors)[:, None] + np.square(errors))),
    )
    return np.where(
        spread > 0, special.erf(difference / np.where(spread > 0, spread, 1.0)), np.sign(difference)
    )
