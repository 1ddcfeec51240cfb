r"""Whether a cell's gap has anything to do with its measure: by exchanging the gaps of cells.

Under the null that it has not, every assignment of the cells' gaps to the cells is as likely as the one
seen, all seeds of a cell going together; single runs are not exchangeable, for those of a cell hang
together. What is compared is the coefficient of the cells' mutual order (Daniels 1944), with :math:`a_{cd}`
the mean of :math:`\mathrm{sgn}(m_i - m_j)` over the runs i of cell c and j of d, and :math:`b_{cd}` that of
the gaps:

.. math:: \Bigl| \sum_{c < d} a_{cd} b_{cd} \Bigr| \Big/ \sqrt{\sum_{c < d} a_{cd}^2 \sum_{c < d} b_{cd}^2}

over all pairs of cells, or as the mean over groups along an axis. With one seed a cell it is Kendall's tau-b.

References
----------
Daniels (1944), Biometrika 33(2), 129-135; Mantel (1967), Cancer Research 27(2), 209-220.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thalweg.stats.cells import Cells, Group
from thalweg.stats.permutation import ROUNDING

Array = NDArray[np.float64]

# All exchanges are gone through up to so many cells, 5,040; beyond, so many are drawn as are asked for.
MOST_CELLS = 7


def exchange_p_values(
    cells: Cells,
    axes: Mapping[str, list[Group]],
    signs_m: Array,
    signs_g: Array,
    num_exchanges: int,
    seed: int,
) -> tuple[Array, float]:
    """Two-sided p-values ``(2 + A,)`` overall, of the mean over the axes and of each, and their least.

    Parameters
    ----------
    cells, axes
        Of n runs, see `thalweg.stats.cells.axis_groups`.
    signs_m, signs_g
        ``(n, n)`` signs of the differences between runs.
    num_exchanges, seed
        Drawn where there are more than seven cells.
    """
    num_cells = len(cells.sizes)
    share = np.eye(num_cells)[cells.index] / cells.sizes  # (n, C)
    order_m, order_g = share.T @ signs_m @ share, share.T @ signs_g @ share
    np.fill_diagonal(order_m, 0.0)
    np.fill_diagonal(order_g, 0.0)
    groups = ordered_groups(_of_cells(axes, cells), order_m, order_g)
    if num_cells <= MOST_CELLS:
        exchanges = np.array(list(itertools.permutations(range(num_cells))))
    else:
        rng = np.random.default_rng([seed, 2])
        drawn = rng.permuted(np.tile(np.arange(num_cells), (num_exchanges, 1)), axis=1)
        exchanges = np.concatenate([np.arange(num_cells)[None], drawn])  # with the one seen
    # So many at once that they take some ten million numbers.
    parts = np.array_split(exchanges, max(1, math.ceil(exchanges.size * num_cells / 1e7)))
    null = np.abs(np.concatenate([_coefficients(order_m, order_g, groups, part) for part in parts]))
    reached = (null >= null[0] * (1 - ROUNDING)).mean(0)
    return np.where(np.isnan(null[0]), math.nan, reached), least_exchange_p(num_cells, num_exchanges)


def least_exchange_p(num_cells: int, num_exchanges: int) -> float:
    """What the p-values of so many cells cannot go below.

    >>> least_exchange_p(4, 2000), least_exchange_p(12, 1999)
    (0.08333333333333333, 0.0005)
    """
    if num_cells <= MOST_CELLS:
        return min(1.0, 2 / math.factorial(num_cells))  # the order turned round reaches as much
    return 1 / (num_exchanges + 1)


def ordered_groups(axes: Mapping[str, list[Group]], order_m: Array, order_g: Array) -> dict[str, list[Group]]:
    """Without groups in which either is constant."""

    def is_ordered(members: NDArray[np.intp], counted: Array) -> bool:
        block = np.ix_(members, members)
        return bool((order_m[block] * counted).any() and (order_g[block] * counted).any())

    return {name: [group for group in groups if is_ordered(*group)] for name, groups in axes.items()}


def with_means(overall: Array, axes: Sequence[list[Array]]) -> Array:
    """``(B, 2 + A)``: overall ``(B,)``, the mean over the axes, each axis' mean over its groups; else NaN."""
    means = [np.mean(groups, axis=0) if groups else np.full(len(overall), math.nan) for groups in axes]
    there = [mean for mean, groups in zip(means, axes, strict=True) if groups]
    granulated = np.mean(there, axis=0) if there else np.full(len(overall), math.nan)
    return np.stack([overall, granulated, *means], axis=1)


def over_root(product: Array, squares: Array) -> Array:
    """A coefficient; nought where nothing is ordered, as resampling may leave it."""
    return np.where(squares > 0, product / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)


def _of_cells(axes: Mapping[str, list[Group]], cells: Cells) -> dict[str, list[Group]]:
    """The groups, of cells instead of runs."""
    found: dict[str, list[Group]] = {}
    for name, groups in axes.items():
        found[name] = []
        for runs, counted in groups:
            members, first = np.unique(cells.index[runs], return_index=True)
            found[name].append((members, counted[np.ix_(first, first)]))
    return found


def _coefficients(
    order_m: Array, order_g: Array, axes: Mapping[str, list[Group]], exchanges: NDArray[np.intp]
) -> Array:
    """``(E, 2 + A)`` with the cells' gaps exchanged."""

    def of(members: NDArray[np.intp], counted: Array) -> Array:
        a = order_m[np.ix_(members, members)] * counted
        moved = exchanges[:, members]
        b = order_g[moved[:, :, None], moved[:, None, :]] * counted
        return over_root(np.einsum("cd,ecd->e", a, b), np.square(a).sum() * np.square(b).sum((1, 2)))

    overall = of(np.arange(len(order_m)), np.ones_like(order_m))
    return with_means(overall, [[of(*group) for group in groups] for groups in axes.values()])
