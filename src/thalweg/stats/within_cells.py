r"""Kendall's tau among runs that differ in their seed alone, over all cells.

.. math:: \tau = \frac{\sum_c \sum_{i, j \in c} \mathrm{sgn}(m_i - m_j)\, \mathrm{sgn}(g_i - g_j)}
    {\sqrt{\#\{m_i \ne m_j\}\, \#\{g_i \ne g_j\}}}

over pairs of runs of one cell: what chance makes larger together. It says nothing of what settings do, which
may go the other way, and takes two settings or one where an order of settings takes three.

**Interval.** Student's, by the jackknife over the runs of each cell, cut off at one. **P-value.** Without a
relation every order of the runs of a cell is as likely as the one seen: so many are drawn, of up
to 40 runs; of more, the sum over the cells is normal with the sum of the variances that Kendall has for each.

References
----------
Hirsch, Slack and Smith (1982), Water Resources Research 18(1), 107-121: tau summed over strata. Kendall
(1970), Rank Correlation Methods, chapter 4: the variance with ties. Arvesen (1969), Annals of Mathematical
Statistics 40(6), 2076-2100.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_count, check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.stats.cell_exchange import over_root
from thalweg.stats.cells import Cells, run_values
from thalweg.stats.permutation import ROUNDING
from thalweg.stats.rank_correlation import Correlation, signs_of

Array = NDArray[np.float64]

# Of all cells together: up to so many their orders are drawn.
MOST_DRAWN = 40

# Runs of a cell below which leaving one out leaves no pair.
FEWEST_OF_CELL = 3


def seed_correlation(
    measure: ArrayLike,
    gap: ArrayLike,
    labels: Sequence[Hashable],
    *,
    level: float = 0.95,
    num_exchanges: int = 2000,
    seed: int,
) -> Correlation:
    """How two quantities go together from seed to seed.

    Parameters
    ----------
    measure, gap
        ``(n,)``, one value a run.
    labels
        Runs of equal labels are seeds of one cell; cells of fewer than three say nothing and are left out.
    level
        Of the interval.
    num_exchanges, seed
        Of the orders drawn.

    Raises
    ------
    ValueError
        If values are not finite or not one a run, no cell has three runs, or one of the two is constant
        within every cell.

    Examples
    --------
    >>> found = seed_correlation([1, 2, 3, 4, 9, 8, 7], [1, 2, 4, 3, 0, 1, 2], "aaaabbb", seed=0)
    >>> round(found.value, 3)  # five pairs agree in the first cell, none in the second
    0.111
    """
    check_fraction("level", level, "0.95 is customary")
    check_count("num_exchanges", num_exchanges, 100)
    m = run_values("measure", measure)
    g = run_values("gap", gap, len(m))
    cells = Cells.of(labels)
    members = [np.flatnonzero(cells.index == c) for c in np.flatnonzero(cells.sizes >= FEWEST_OF_CELL)]
    if len(cells.index) != len(m) or not members:
        raise ValueError(
            f"`labels` must name the cell of each run, at least one of {FEWEST_OF_CELL} runs, got cells of "
            f"{cells.sizes.tolist()} runs."
        )
    signs = [[signs_of(v[runs]).astype(np.int8) for v in (m, g)] for runs in members]
    # Of each run, and its cell's: pairs that agree less those that do not, and those each of the two orders.
    rows = [np.stack([_sum(a * b), _sum(a * a), _sum(b * b)], 1) for a, b in signs]
    total = np.concatenate(rows).sum(0)
    for name, pairs in (("measure", total[1]), ("gap", total[2])):
        if pairs == 0:
            raise ValueError(f"`{name}` must not be constant within every cell: it orders nothing.")
    # Each pair stands in two rows.
    parts = [_tau(total - 2 * r) for r in rows]
    variance = sum((len(p) - 1) / len(p) * float(np.square(p - p.mean()).sum()) for p in parts)
    dof = sum(len(p) - 1 for p in parts)
    value, error = float(_tau(total)), math.sqrt(variance)
    half = float(student_quantile(0.5 + level / 2, dof)) * error
    if dof + len(parts) <= MOST_DRAWN:
        p_value = _by_exchange(signs, float(total[0]), num_exchanges, seed)
    else:
        p_value = _by_normal([(m[runs], g[runs]) for runs in members], float(total[0]) / 2)
    return Correlation(value, error, max(value - half, -1.0), min(value + half, 1.0), p_value, float(dof))


def _sum(pairs: NDArray[np.int8]) -> Array:
    return pairs.sum(1, dtype=np.float64)


def _tau(sums: Array) -> Array:
    """Of sums ``(..., 3)``."""
    return over_root(sums[..., 0], sums[..., 1] * sums[..., 2])


def _by_exchange(
    signs: Sequence[Sequence[NDArray[np.int8]]], seen: float, num_exchanges: int, seed: int
) -> float:
    """Two-sided, with the one seen among them."""
    rng, null = np.random.default_rng(seed), np.zeros(num_exchanges)
    for a, b in signs:
        order = rng.permuted(np.tile(np.arange(len(b)), (num_exchanges, 1)), axis=1)
        null += np.einsum("ij,eij->e", a, b[order[:, :, None], order[:, None, :]], dtype=np.float64)
    return float((1 + (np.abs(null) >= abs(seen) * (1 - ROUNDING)).sum()) / (1 + num_exchanges))


def _by_normal(cells: Sequence[tuple[Array, Array]], score: float) -> float:
    """Two-sided, of pairs that agree less those that do not."""
    variance = 0.0
    for x, y in cells:
        n = len(x)
        tied = [np.unique(v, return_counts=True)[1].astype(np.float64) for v in (x, y)]
        first, second, third = (
            [float(f(t).sum()) for t in tied]
            for f in (
                lambda t: t * (t - 1) * (2 * t + 5),
                lambda t: t * (t - 1) * (t - 2),
                lambda t: t * (t - 1),
            )
        )
        variance += (n * (n - 1) * (2 * n + 5) - sum(first)) / 18
        variance += second[0] * second[1] / (9 * n * (n - 1) * (n - 2)) + third[0] * third[1] / (
            2 * n * (n - 1)
        )
    return float(
        2 * scipy.special.ndtr(-max(abs(score) - 1, 0.0) / math.sqrt(variance))
    )  # for the steps of one
