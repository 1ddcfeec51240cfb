r"""Correlation of a measure with the gap at equal training loss, or whatever else is held equal.

Of the covariance matrix of measure, gap and k covariates, :math:`S_{zz}` that of the covariates,

.. math:: R = S_{xx} - S_{xz} S_{zz}^{-1} S_{zx}, \qquad \rho = R_{mg} / \sqrt{R_{mm} R_{gg}}

which is the correlation of what a linear fit on the covariates leaves of either. Of ranks it is Spearman's:
then any monotone relation with a single covariate is taken out about, with a linear one of the ranks exactly.

**Intervals** go by Fisher's :math:`\operatorname{artanh} \rho`. Of independent runs its variance is
:math:`1 / (n - 3 - k)`, times :math:`1 + \rho^2 / 2` for ranks (Bonett and Wright 2000). Runs of a grid are
not independent, for those of a cell hang together; there seeds are resampled within cells
(`thalweg.stats.cells`), ranks taken anew each time, and Student's quantiles taken: the interval is about
other seeds on the same grid, and says nothing of whether the cells could as well be so by chance.

**P-values** of a grid say that: of the cells' means, ranks or values, what a linear fit on the covariates'
leaves of the gaps' is exchanged between levels or cells as in `thalweg.stats.cell_exchange`, the covariates
are taken out of it again, and the correlation with what they leave of the measure's is compared (Freedman
and Lane 1983): about, since what is left is no longer free.

A covariate that is itself measured with error is held equal in part only. So is one whose relation bends,
unless ranks make it straight.

References
----------
Fisher (1924), Metron 3, 329-332; Bonett and Wright (2000), Psychometrika 65(1), 23-28; Anderson (2003), An
Introduction to Multivariate Statistical Analysis, section 4.3; Freedman and Lane (1983), J. Business and
Economic Statistics 1(4), 292-298.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_count, check_fraction, check_one_of
from thalweg.core.distributions import student_quantile, student_tail
from thalweg.stats.cell_exchange import Exchanges, two_sided
from thalweg.stats.cells import Cells, run_labels, run_values

METHODS = ("rank", "linear")
Array = NDArray[np.float64]

# A column of which so little of the variance is left is a combination of the covariates, up to rounding.
NOTHING_LEFT = 1e-12


@dataclass(frozen=True)
class PartialCorrelation:
    """A correlation given covariates.

    Parameters
    ----------
    value, low, high
        And its interval, in [-1, 1].
    standard_error
        Of the value, by that of its artanh.
    dof
        Of its artanh.
    p_value, smallest_p
        Two-sided, of nought: by Student's distribution on n - 2 - k degrees of freedom for independent runs,
        else by exchange; and what that cannot go below.
    plain
        The correlation with nothing held equal.
    method, level
        As asked.
    num_runs, num_covariates, num_cells
        n, k, and the cells; None for independent runs.
    """

    value: float
    standard_error: float
    low: float
    high: float
    dof: float
    p_value: float
    smallest_p: float
    plain: float
    method: str
    level: float
    num_runs: int
    num_covariates: int
    num_cells: int | None


def partial_correlation(
    measure: ArrayLike,
    gap: ArrayLike,
    covariates: ArrayLike,
    *,
    hyperparameters: Mapping[str, Sequence[Hashable]] | None = None,
    method: str = "rank",
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int,
) -> PartialCorrelation:
    """Correlation of measure and gap given the covariates.

    Parameters
    ----------
    measure, gap
        ``(n,)``, one value a run.
    covariates
        ``(n,)`` or ``(n, k)``: training losses, say.
    hyperparameters
        Of each name the ``n`` values; runs that agree in all are seeds of one cell. Without, runs are taken
        as independent of each other, as those of a random search over everything are.
    method
        ``"rank"`` or ``"linear"``.
    level
        Of the interval.
    num_resamples, seed
        Of the seeds within cells, and of the exchanges where there are more.

    Raises
    ------
    ValueError
        If values are not finite or not one a run, there are fewer than k + 4 of them, the covariates leave
        nothing of one, no cell has two runs, or there are fewer than k + 3 cells.

    Examples
    --------
    >>> loss = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    >>> found = partial_correlation([1, 3, 2, 4, 6, 5, 7, 8], [2, 1, 3, 4, 5, 6, 8, 7], loss, seed=0)
    >>> round(found.plain, 2), round(found.value, 2)
    (0.88, -0.28)
    """
    check_one_of("method", method, METHODS)
    check_fraction("level", level, "0.95 is customary")
    check_count("num_resamples", num_resamples, 100)
    m = run_values("measure", measure)
    n = len(m)
    g = run_values("gap", gap, n)
    z = np.asarray(covariates, dtype=np.float64)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2 or z.shape[1] == 0:
        raise ValueError(f"`covariates` must be of shape (n,) or (n, k), k >= 1, got {z.shape}.")
    columns = [m, g, *(run_values(f"covariates[:, {j}]", column, n) for j, column in enumerate(z.T))]
    k = z.shape[1]
    if n < k + 4:
        raise ValueError(f"`measure` must hold at least {k + 4} runs with {k} covariates, got {n}.")
    is_rank = method == "rank"
    ones = np.ones((1, n))
    covariance = _covariances(columns, ones, is_rank)
    _check_something_left(covariance[0])
    value = float(_partial(covariance)[0])
    plain = float(_ratio(covariance[:, :2, :2])[0])
    z_value = math.atanh(max(-1 + 1e-15, min(value, 1 - 1e-15)))
    grid, smallest = None, 0.0
    if hyperparameters is None:
        error = math.sqrt((1 + value**2 / 2 if is_rank else 1.0) / (n - 3 - k))
        quantile = float(scipy.special.ndtri(0.5 + level / 2))
        dof = n - 2 - k
        t = value * math.sqrt(dof / max(1 - value**2, 1e-300))
        p_value = 2 * float(student_tail(abs(t), dof))
        dof = math.inf  # of Fisher's z
    else:
        labels = run_labels("hyperparameters", hyperparameters, n)
        grid = Cells.of(zip(*labels.values(), strict=True))
        if not grid.dof:
            raise ValueError(
                "`hyperparameters` must leave two runs in one cell at least, got one in each: no spread."
            )
        if len(grid.sizes) < k + 3:
            raise ValueError(
                f"`hyperparameters` must make at least {k + 3} cells with {k} covariates, got "
                f"{len(grid.sizes)}."
            )
        drawn = _partial(_covariances(columns, grid.weights(num_resamples, seed), is_rank))
        error = float(drawn.std(ddof=1)) / max(1 - value**2, 1e-15)
        dof = grid.dof
        quantile = float(student_quantile(0.5 + level / 2, dof))
        pair = [np.column_stack([x, *columns[2:]]) for x in columns[:2]]
        exchanges = Exchanges.of(labels, grid, pair, num_resamples, seed)
        p_value, smallest = _exchange_p(columns, is_rank, grid, exchanges), exchanges.smallest_p
    return PartialCorrelation(
        value=value,
        standard_error=error * (1 - value**2),
        low=math.tanh(z_value - quantile * error),
        high=math.tanh(z_value + quantile * error),
        dof=float(dof),
        p_value=p_value,
        smallest_p=smallest,
        plain=plain,
        method=method,
        level=level,
        num_runs=n,
        num_covariates=k,
        num_cells=None if grid is None else len(grid.sizes),
    )


def _exchange_p(columns: list[Array], is_rank: bool, cells: Cells, exchanges: Exchanges) -> float:
    """See the module's text."""
    share = np.eye(len(cells.sizes))[cells.index] / cells.sizes  # (n, C)
    m, g, *z = (
        share.T @ (_below(x).sum(1) + 0.5 if is_rank else (x - x.mean()) / np.ptp(x)) for x in columns
    )
    basis = np.linalg.qr(np.column_stack([np.ones(len(m)), *z]))[0]

    def left(x: Array) -> Array:
        return x - (x @ basis) @ basis.T

    m, g = left(m), left(g)
    # What is missing from a grid stands at the mean, which is nought.
    moved = left(np.where(exchanges.moved >= 0, g[exchanges.moved], 0.0))
    squares = np.square(m).sum() * np.square(moved).sum(1)
    # Against what rounding leaves of nothing.
    there = squares > 1e-24 * max(float(squares.max()), 1e-300)
    null = np.where(there, moved @ m / np.sqrt(np.where(there, squares, 1.0)), 0.0)
    return float(two_sided(null))


def _below(x: Array) -> Array:
    """``(n, n)``: whether the second lies below the first, a half where they are equal."""
    return (x[:, None] > x) + 0.5 * (x[:, None] == x)


def _covariances(columns: list[Array], weights: Array, is_rank: bool) -> Array:
    """``(B, 2 + k, 2 + k)`` with weights ``(B, n)``, of values or of their ranks among the weighted runs."""
    share = weights / weights.sum(1, keepdims=True)
    drawn = []
    for x in columns:
        rows = (
            share @ _below(x).T  # mid-ranks, over n
            if is_rank
            else np.broadcast_to((x - x.mean()) / (np.ptp(x) or 1.0), share.shape)
        )
        drawn.append(rows - (share * rows).sum(1, keepdims=True))
    x = np.stack(drawn, axis=1)  # (B, 2 + k, n)
    return (x * share[:, None]) @ x.transpose(0, 2, 1)


def _partial(covariances: Array) -> Array:
    """``(B,)``; nought where resampling leaves nothing of one of the two."""
    inner, cross = covariances[:, 2:, 2:], covariances[:, :2, 2:]
    # By the pseudo-inverse, for resampling can make covariates collinear.
    return _ratio(
        covariances[:, :2, :2] - cross @ np.linalg.pinv(inner, hermitian=True) @ cross.transpose(0, 2, 1)
    )


def _ratio(covariances: Array) -> Array:
    squares = covariances[:, 0, 0] * covariances[:, 1, 1]
    r = covariances[:, 0, 1] / np.sqrt(np.where(squares > 0, squares, 1.0))
    return np.where(squares > 0, np.clip(r, -1.0, 1.0), 0.0)


def _check_something_left(covariance: Array) -> None:
    """That neither is constant, or a combination of the covariates."""
    for i, name in ((0, "measure"), (1, "gap")):
        if not covariance[i, i] > NOTHING_LEFT:
            raise ValueError(f"`{name}` must not be constant: it goes along with nothing.")
        cross = covariance[i, 2:]
        left = covariance[i, i] - cross @ np.linalg.pinv(covariance[2:, 2:], hermitian=True) @ cross
        if left <= NOTHING_LEFT * covariance[i, i]:
            raise ValueError(
                f"`{name}` must not be given by the covariates, got a correlation of one with them: nothing "
                "is left of it."
            )
