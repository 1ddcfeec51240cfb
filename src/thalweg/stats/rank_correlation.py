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

**P-values** exchange whole levels along each axis, or cells where there is no grid: see
`thalweg.stats.cell_exchange`.

**Errors of measuring** are in the spread of the seeds already; only in cells of one run is noise of that size
added. Besides, they blur the order of any two runs and so draw tau towards nought. By how much
follows in closed form from adding them once more, since of normal errors e

.. math:: \mathrm{E}\, \mathrm{sgn}(m_i - m_j + e_i - e_j)
    = \mathrm{erf}\Bigl( \frac{m_i - m_j}{\sqrt{2 (s_i^2 + s_j^2)}} \Bigr)

and to first order in their variance, what they take when added is what they have taken already.

References
----------
Kendall (1945), Biometrika 33(3), 239-251; Daniels (1944), Biometrika 33(2), 129-135; Jiang, Neyshabur,
Mobahi, Krishnan and Bengio (2020), Fantastic Generalization Measures and Where to Find Them, ICLR; Cook and
Stefanski (1994), J. American Statistical Association 89, 1314-1328.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_count, check_flag, check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.stats.cell_exchange import Exchanges, exchange_p_values, ordered_groups, over_root, with_means
from thalweg.stats.cells import Cells, Group, axis_groups, run_errors, run_values

Array = NDArray[np.float64]


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
    dof
        Of the standard error.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float
    dof: float = math.inf


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
        What the p-values cannot go below with so few levels, or cells.
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
    by_axis: bool = True,
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
        Of the seeds, and of the exchanges where there are more.
    by_axis
        Whether it is asked for along each axis; else overall alone, in less time.
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
    check_flag("by_axis", by_axis)
    m = run_values("measure", measure)
    g = run_values("gap", gap, len(m))
    cells, axes = axis_groups("hyperparameters", hyperparameters, len(m))
    axes = axes if by_axis else {}
    num_cells = len(cells.sizes)
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

    signs_m, signs_g = signs_of(m), signs_of(g)
    grid = Grid(cells, ordered_groups(axes, signs_m, signs_g))
    found = grid.coefficients(signs_m, signs_g, np.ones((1, len(m))))[0]
    alone = cells.is_alone
    noisy = alone & ((noise_m > 0) | (noise_g > 0))
    variance = np.zeros(len(found))
    dof = float(cells.dof) or math.inf
    quantile = float(student_quantile(0.5 + level / 2, dof))
    if cells.dof:
        weights = cells.weights(num_resamples, seed)
        variance += grid.coefficients(signs_m, signs_g, weights).var(0, ddof=1)
    if noisy.any():
        variance += grid.variance_by_noise(m, g, noise_m * noisy, noise_g * noisy, num_resamples, seed)
    known = bool(cells.dof) or bool(noisy.any())
    exchanges = Exchanges.of(hyperparameters, cells, (m, g), num_resamples, seed)
    p_values = exchange_p_values(cells, grid.axes, signs_m, signs_g, exchanges)

    def correlation(i: int) -> Correlation:
        value = float(found[i])
        error = math.sqrt(variance[i]) if known and not math.isnan(value) else math.nan
        # In this order NaN stays.
        low, high = max(value - quantile * error, -1.0), min(value + quantile * error, 1.0)
        return Correlation(value, error, low, high, float(p_values[i]), dof)

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
        smallest_p=exchanges.smallest_p,
        measurement_loss=loss,
    )


@dataclass(frozen=True)
class Grid:
    """The runs, and along each axis the groups of them that differ in nothing else."""

    cells: Cells
    axes: dict[str, list[Group]]

    def coefficients(self, signs_m: Array, signs_g: Array, weights: Array) -> Array:
        """``(B, 2 + A)``: overall, granulated and each axis, with weights ``(B, n)`` of the runs."""
        overall = _tau(signs_m, signs_g, weights)
        axes = []
        for groups in self.axes.values():
            axes.append([])
            for runs, counted in groups:
                block = np.ix_(runs, runs)
                axes[-1].append(_tau(signs_m[block] * counted, signs_g[block] * counted, weights[:, runs]))
        return with_means(overall, axes)

    def variance_by_noise(
        self, m: Array, g: Array, noise_m: Array, noise_g: Array, num_draws: int, seed: int
    ) -> Array:
        """``(2 + A,)``: of the coefficients, by normal errors of the values."""
        rng = np.random.default_rng([seed, 1])
        ones, drawn = np.ones((1, len(m))), []
        for _ in range(num_draws):
            moved_m, moved_g = (v + s * rng.normal(size=len(v)) for v, s in ((m, noise_m), (g, noise_g)))
            drawn.append(self.coefficients(signs_of(moved_m), signs_of(moved_g), ones)[0])
        return np.var(drawn, axis=0, ddof=1)

    def noisier(self, m: Array, g: Array, noise_m: Array, noise_g: Array) -> float:
        """The mean overall tau with the errors added once more."""
        blurred = [_blurred_signs(v, s) for v, s in ((m, noise_m), (g, noise_g))]
        pairs = [float((signs_of(v) != 0).sum()) for v in (m, g)]
        return float((blurred[0] * blurred[1]).sum()) / math.sqrt(pairs[0] * pairs[1])


def _tau(signs_m: Array, signs_g: Array, weights: Array) -> Array:
    """``(B,)`` tau-b of pairs that weigh the product of their runs' weights ``(B, n)``."""
    concordance, pairs_m, pairs_g = (
        ((weights @ k) * weights).sum(1) for k in (signs_m * signs_g, np.square(signs_m), np.square(signs_g))
    )
    return over_root(concordance, pairs_m * pairs_g)


def signs_of(values: Array) -> Array:
    """``(n, n)`` signs of the differences between values ``(n,)``."""
    return np.sign(values[:, None] - values)


def _blurred_signs(values: Array, errors: Array) -> Array:
    difference = values[:, None] - values
    spread = np.sqrt(2 * (np.square(errors)[:, None] + np.square(errors)))
    return np.where(
        spread > 0, scipy.special.erf(difference / np.where(spread > 0, spread, 1.0)), np.sign(difference)
    )
