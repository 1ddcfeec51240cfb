r"""How much of a measure's variance is the architecture's, the hyperparameters', the seed's, the measuring's.

Factors are taken in the order given, as far as each adds to those before it; then what the cells of all
factors together add (their interactions), then the runs within cells (the seed). With :math:`Q_f` an
orthonormal basis of the :math:`r_f` dimensions that f adds, :math:`S_f = \| Q_f^\top y \|^2`, n runs of
means :math:`\mu_i`, a spread :math:`\sigma^2` from seed to seed and known errors :math:`e_i` of the single
values,

.. math:: \mathrm{E} S_f = \| Q_f^\top \mu \|^2 + r_f \sigma^2 + \sum_i (Q_f Q_f^\top)_{ii}\, e_i^2

:math:`\| Q_f^\top \mu \|^2 / n` is the variance over the runs of the grid that f makes; those of all
factors sum to that of :math:`\mu`. Estimated by what the equation gives, with :math:`\sigma^2` by the same
of the runs within cells, each component is unbiased, and its share is known as omega squared. Balanced,
that is the analysis of variance; in an unbalanced crossed design the factors depend on their order.
Estimates may be negative, where levels differ by less than seeds make them, and are given so: set to
nought, small ones would be too large in the mean.

**The grid is held constant.** A component is the variance of the levels that are there, which for two
architectures is their difference, and other seeds would give another estimate. The random-effects model, in
which levels are drawn from a population, asks for the variance over others; from two or three levels no
interval says anything of that.

**Intervals** are generalized ones. For normal values :math:`S_\varepsilon / \sigma^2` is chi-squared and
:math:`S_f / \sigma^2` noncentral chi-squared, so that draws of :math:`\sigma^2` and, by inverting the
second, of :math:`\| Q_f^\top \mu \|^2` follow, and of every function of them, which a share is. They cover
where a parametric bootstrap does not (`docs/statistics.md`), and lie within the possible: an estimate below
nought lies outside. Where nothing but the seed matters, its share's upper end is below one more often than
it should.

References
----------
Olejnik and Algina (2003), Psychological Methods 8(4), 434-447; Searle, Casella and McCulloch (1992), Variance
Components, chapter 4; Weerahandi (1993), J. American Statistical Association 88, 899-905.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_count, check_fraction
from thalweg.stats.cells import Cells, run_errors, run_labels, run_values

Array = NDArray[np.float64]
INTERACTIONS, SEED, MEASUREMENT = "interactions", "seed", "measurement"


@dataclass(frozen=True)
class Component:
    """One source of variance.

    Parameters
    ----------
    name
        Of the factor; ``"interactions"``, ``"seed"``, ``"measurement"``.
    variance, low, high
        In the squared unit of the values, and its interval. The measuring's is the mean square of the errors
        given, taken as known.
    share, share_low, share_high
        Of the total of all components.
    dof
        r: dimensions that it adds, levels less one; of the seed runs less cells; of the measuring nought.
    """

    name: str
    variance: float
    low: float
    high: float
    share: float
    share_low: float
    share_high: float
    dof: int


@dataclass(frozen=True)
class VarianceComponents:
    """All sources, in the order of the factors, then interactions (if any), seed, measurement (if known).

    Parameters
    ----------
    components
        Their variances sum to `total`, their shares to one.
    total
        Variance of the value of a run, over the grid's runs and over seeds.
    level
        Of the intervals.
    num_runs, num_cells
        n and C.
    """

    components: tuple[Component, ...]
    total: float
    level: float
    num_runs: int
    num_cells: int


def variance_components(
    values: ArrayLike,
    factors: Mapping[str, Sequence[Hashable]],
    *,
    errors: ArrayLike | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int,
) -> VarianceComponents:
    """Decompose the variance of one value a run.

    Parameters
    ----------
    values
        ``(n,)``; logarithms, where a measure's spread grows with its size.
    factors
        Of each name the ``n`` levels, in the order in which they are taken. A factor is nested in another by
        labels of its own for each level of that one, pairs say; else they are crossed.
    errors
        ``(n,)`` standard errors of the values, independent from run to run.
    level
        Of the intervals.
    num_resamples, seed
        Of the simulated values.

    Raises
    ------
    ValueError
        If values are not finite or not one a run, no cell has two runs, a factor adds no level to those
        before it, or all values are equal.

    Examples
    --------
    >>> found = variance_components([1.0, 2.0, 5.0, 6.0, 3.0, 4.0], {"lr": "aabbcc"}, seed=0)
    >>> [(c.name, round(c.variance, 3), round(c.share, 3)) for c in found.components]
    [('lr', 2.5, 0.833), ('seed', 0.5, 0.167)]
    """
    check_fraction("level", level, "0.95 is customary")
    check_count("num_resamples", num_resamples, 100)
    y = run_values("values", values)
    n = len(y)
    columns = run_labels("factors", factors, n)
    e = run_errors("errors", errors, n)
    cells = Cells.of(zip(*columns.values(), strict=True))
    if not cells.dof:
        raise ValueError(
            "`factors` must leave two runs in one cell at least, got one in each: no seed to see."
        )
    if (y == y[0]).all():
        raise ValueError(f"`values` must not all be equal, got {y[0]}: there is no variance to part.")
    bases = _bases(columns, cells)
    scale = float(np.ptp(y))
    y, e = (y - y.mean()) / scale, e / scale  # so that squares of small values do not underflow

    Q = list(bases.values())
    # Last the seed, which is what the cells leave: its n - C directions need no basis.
    within = y - (np.bincount(cells.index, y) / cells.sizes)[cells.index]
    alone = 1 - 1 / cells.sizes[cells.index]
    ranks = np.array([*(q.shape[1] for q in Q), n - len(cells.sizes)])
    squares = np.array([*(np.square(q.T @ y).sum() for q in Q), np.square(within).sum()])
    by_errors = np.array(
        [*(np.square(q * e[:, None]).sum() for q in Q), np.square(e) @ alone],
    )
    spread = (squares[-1] - by_errors[-1]) / ranks[-1]
    found = np.append((squares - by_errors - ranks * spread)[:-1] / n, spread)
    drawn = _draws(squares, ranks, by_errors, n, num_resamples, seed)
    names, dofs = [*bases, SEED], ranks.tolist()
    if errors is not None:
        measured = float(np.square(e).mean())
        found = np.append(found, measured)
        drawn = np.concatenate([drawn, np.full((num_resamples, 1), measured)], axis=1)
        names, dofs = [*names, MEASUREMENT], [*dofs, 0]
    total = float(found.sum())
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, tails, axis=0)
    share_low, share_high = np.quantile(drawn / drawn.sum(1, keepdims=True), tails, axis=0)
    return VarianceComponents(
        components=tuple(
            Component(
                name=name,
                variance=float(found[i]) * scale**2,
                low=float(low[i]) * scale**2,
                high=float(high[i]) * scale**2,
                share=float(found[i]) / total,
                share_low=float(share_low[i]),
                share_high=float(share_high[i]),
                dof=dofs[i],
            )
            for i, name in enumerate(names)
        ),
        total=total * scale**2,
        level=level,
        num_runs=n,
        num_cells=len(cells.sizes),
    )


def _bases(columns: Mapping[str, Sequence[Hashable]], cells: Cells) -> dict[str, Array]:
    """Orthonormal ``(n, r)`` of what each component but the seed adds to the mean and those before it."""
    n = len(cells.index)
    indicators = {name: _indicators(Cells.of(labels)) for name, labels in columns.items()}
    so_far, bases = np.full((n, 1), 1 / math.sqrt(n)), {}
    for name, Z in (indicators | {INTERACTIONS: _indicators(cells)}).items():
        basis = _added(so_far, Z)
        if basis.shape[1]:
            bases[name] = basis
        elif name in columns:
            raise ValueError(
                f"`factors[{name!r}]` must add levels to the factors before it, got none: it is constant, or "
                "they tell it already."
            )
        so_far = np.concatenate([so_far, basis], axis=1)
    return bases


def _indicators(cells: Cells) -> Array:
    return np.eye(len(cells.sizes))[cells.index]


def _added(basis: Array, Z: Array) -> Array:
    """Orthonormal basis of what the columns of Z add to it."""
    rest = Z - basis @ (basis.T @ Z)
    rest -= basis @ (basis.T @ rest)
    U, s, _ = np.linalg.svd(rest, full_matrices=False)
    return U[:, s > 1e-8 * math.sqrt(len(Z))]


def _draws(squares: Array, ranks: Array, by_errors: Array, num_runs: int, num: int, seed: int) -> Array:
    """``(num, F)`` draws of all components, by the distributions of their sums of squares."""
    rng = np.random.default_rng(seed)
    spread = np.maximum(squares[-1] / rng.chisquare(ranks[-1], num) - by_errors[-1] / ranks[-1], 0.0)
    drawn = []
    for square, rank, errors in zip(squares[:-1], ranks[:-1], by_errors[:-1], strict=True):
        unit = spread + errors / rank
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(unit > 0, square / unit, 0.0)
        uniform = rng.uniform(size=num)
        # What no noncentrality explains, nought explains best.
        central = scipy.special.chdtr(rank, ratio)
        noncentrality = np.zeros(num)
        inside = uniform < central
        noncentrality[inside] = _noncentrality(ratio[inside], rank, uniform[inside])
        # Without any spread the sum of squares is the effects' own.
        drawn.append(np.where(unit > 0, noncentrality * unit, square) / num_runs)
    return np.stack([*drawn, spread], axis=1)


def _noncentrality(x: Array, dof: float, level: Array) -> Array:
    """By which a noncentral chi-squared number is below x with the probability `level`."""
    large = x > 1e8  # where the inversion gives out, and the root is normal
    found = np.square(np.sqrt(x) - scipy.special.ndtri(level)) - (dof - 1)
    found[~large] = scipy.special.chndtrinc(x[~large], dof, level[~large])
    return found
