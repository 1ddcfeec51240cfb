r"""Whether a cell's gap has anything to do with its measure: by exchanging the gaps of cells.

**What is exchanged.** On a grid cells share levels: what a learning rate does to the gap it does in all cells
of that rate, and cells are no independent units. Two quantities that are moved by the hyperparameters one by
one, and have nothing to do with each other, go along or against each other by as many chances as there are
levels, not cells. So whole levels are exchanged, along each axis by itself: under the null that neither knows
of the other every assignment of an axis' levels is as likely as the one seen, whatever the effects, singly
or together, all cells and seeds of a level going with it. Six axes of two levels have 64 exchanges, and no
p-value below 2 / 64. Where the cells fill less than half of the combinations of their levels, as in a
random search or with axes side by side, whole cells are exchanged; that asks for cells that share nothing,
and p-values are too small where a random search draws from few levels. A cell that is missing from a grid
takes no part in the exchanges that would need it. Along an axis that leaves one of the two as it is nothing
is exchanged: the coefficient would be the same each time, and what seems to be many exchanges would be few.

**What is compared** is the coefficient of the cells' mutual order (Daniels 1944), with :math:`a_{cd}`
the mean of :math:`\mathrm{sgn}(m_i - m_j)` over the runs i of cell c and j of d, and :math:`b_{cd}` that of
the gaps:

.. math:: \sum_{c < d} a_{cd} b_{cd} \Big/ \sqrt{\sum_{c < d} a_{cd}^2 \sum_{c < d} b_{cd}^2}

over all pairs of cells, or as the mean over groups along an axis. With one seed a cell it is Kendall's tau-b.
P-values are doubled one-sided ones.

References
----------
Daniels (1944), Biometrika 33(2), 129-135; Mantel (1967), Cancer Research 27(2), 209-220; Welch (1990),
J. American Statistical Association 85, 693-698: exchanging within the structure of a design.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thalweg.stats.cells import Cells, Group
from thalweg.stats.permutation import ROUNDING

Array = NDArray[np.float64]

# All exchanges are gone through where they are no more, those of six cells, or no more than are asked for.
FEW_EXCHANGES = 720

# Cells that fill so large a part of the combinations of their levels are a grid.
GRID_SHARE = 0.5


@dataclass(frozen=True)
class Exchanges:
    """Which gap each cell takes.

    Parameters
    ----------
    moved
        ``(E, C)``: the cell whose gap cell c takes, -1 where there is none; first the one seen.
    smallest_p
        What no p-value can go below.
    """

    moved: NDArray[np.intp]
    smallest_p: float

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Sequence[Hashable]],
        cells: Cells,
        pair: Sequence[Array],
        num_drawn: int,
        seed: int,
    ) -> Exchanges:
        """Of the cells that runs of these labels make; `num_drawn` where there are more.

        `pair` holds what is compared, ``(n,)`` or ``(n, k)`` each: axes along which one of them does not
        change are left as they are.
        """
        first = np.unique(cells.index, return_index=True)[1]
        places = {name: Cells.of(labels).index for name, labels in columns.items()}
        levels = np.array([place[first] for place in places.values() if place.max() > 0])
        names = [name for name, place in places.items() if place.max() > 0]
        sizes = [int(of_axis.max()) + 1 for of_axis in levels]
        if is_grid(sizes, len(first)):
            moves = [all(changes_along(name, columns, values) for values in pair) for name in names]
        else:
            levels, sizes, moves = np.arange(len(first))[None], [len(first)], [True]
        moved_sizes = [size if moving else 1 for size, moving in zip(sizes, moves, strict=True)]
        drawn = level_orders(moved_sizes, num_drawn, seed)
        orders = [
            order if moving else np.tile(np.arange(size), (len(order), 1))
            for order, size, moving in zip(drawn, sizes, moves, strict=True)
        ]
        strides = np.cumprod([1, *sizes[:-1]])
        there = np.full(math.prod(sizes), -1)
        there[strides @ levels] = np.arange(len(first))
        moved = sum(
            stride * order[:, of_axis] for stride, order, of_axis in zip(strides, orders, levels, strict=True)
        )
        return cls(there[moved], least_exchange_p(moved_sizes, len(first), num_drawn))


def changes_along(name: str, columns: Mapping[str, Sequence[Hashable]], values: Array) -> bool:
    """Whether cells that differ in one label alone differ in what their runs have, ``(n,)`` or ``(n, k)``.

    >>> columns = {"lr": [1, 1, 2, 2], "model": ["a", "b", "a", "b"]}
    >>> [changes_along(name, columns, np.array([0.1, 0.1, 0.2, 0.2])) for name in columns]
    [True, False]
    """
    rest = [labels for other, labels in columns.items() if other != name]
    groups: dict[Hashable, dict[Hashable, Counter[Hashable]]] = defaultdict(lambda: defaultdict(Counter))
    for run, row in enumerate(values.reshape(len(values), -1).tolist()):
        groups[tuple(labels[run] for labels in rest)][columns[name][run]][tuple(row)] += 1
    shares = [
        {frozenset((row, n / found.total()) for row, n in found.items()) for found in levels.values()}
        for levels in groups.values()
    ]
    return any(len(different) > 1 for different in shares)


def two_sided(null: Array) -> Array:
    """Doubled one-sided p-values ``(...)`` of ``(E, ...)``, first the one seen; NaN where that is."""
    slack = ROUNDING * np.abs(null[0])
    tails = [(null >= null[0] - slack).mean(0), (null <= null[0] + slack).mean(0)]
    return np.where(np.isnan(null[0]), math.nan, np.minimum(1.0, 2 * np.minimum(*tails)))


def is_grid(sizes: Sequence[int], num_cells: int) -> bool:
    """Whether so many cells are a grid of axes of so many levels each: levels are exchanged, not cells."""
    return num_cells >= GRID_SHARE * math.prod(sizes)


def num_exchanges(sizes: Sequence[int], num_cells: int) -> int:
    """How many exchanges there are: of levels in a grid, else of cells.

    >>> num_exchanges([2, 2, 2, 2, 2, 2], 64), num_exchanges([3, 2], 6), num_exchanges([5, 5], 5)
    (64, 12, 120)
    """
    return math.prod(map(math.factorial, sizes if is_grid(sizes, num_cells) else [num_cells]))


def least_exchange_p(sizes: Sequence[int], num_cells: int, num_drawn: int) -> float:
    """What the p-values cannot go below, two-sided.

    >>> least_exchange_p([2, 2, 2, 2, 2, 2], 64, 2000), least_exchange_p([12], 12, 1999)
    (0.03125, 0.001)

    Of an axis along which nothing is exchanged one level counts:

    >>> least_exchange_p([4, 3, 1], 24, 2000) == 2 / 144
    True
    """
    number = num_exchanges(sizes, num_cells)
    return min(1.0, 2 / (number if number <= max(FEW_EXCHANGES, num_drawn) else num_drawn + 1))


def level_orders(sizes: Sequence[int], num_drawn: int, seed: int) -> list[NDArray[np.intp]]:
    """Of each axis ``(E, L)`` the orders of its levels in each exchange, first as they are.

    Every one with every one of the other axes; where these are more than 720 and than `num_drawn`, so many
    are drawn.
    """
    if math.prod(map(math.factorial, sizes)) <= max(FEW_EXCHANGES, num_drawn):
        orders = [np.array(list(itertools.permutations(range(size)))) for size in sizes]
        places = np.indices([len(order) for order in orders]).reshape(len(orders), -1)
        return [order[place] for order, place in zip(orders, places, strict=True)]
    rng = np.random.default_rng([seed, 2])
    seen = [np.arange(size)[None] for size in sizes]
    return [np.concatenate([one, rng.permuted(np.repeat(one, num_drawn, axis=0), axis=1)]) for one in seen]


def exchange_p_values(
    cells: Cells, axes: Mapping[str, list[Group]], signs_m: Array, signs_g: Array, exchanges: Exchanges
) -> Array:
    """P-values ``(2 + A,)`` overall, of the mean over the axes and of each.

    Parameters
    ----------
    cells, axes
        Of n runs, see `thalweg.stats.cells.axis_groups`.
    signs_m, signs_g
        ``(n, n)`` signs of the differences between runs.
    exchanges
        Of the cells.
    """
    num_cells = len(cells.sizes)
    share = np.eye(num_cells)[cells.index] / cells.sizes  # (n, C)
    order_m, order_g = share.T @ signs_m @ share, share.T @ signs_g @ share
    np.fill_diagonal(order_m, 0.0)
    np.fill_diagonal(order_g, 0.0)
    groups = ordered_groups(_of_cells(axes, cells), order_m, order_g)
    # So many at once that they take some ten million numbers.
    moved = exchanges.moved
    parts = np.array_split(moved, max(1, math.ceil(moved.size * num_cells / 1e7)))
    null = np.concatenate([_coefficients(order_m, order_g, groups, part) for part in parts])
    return two_sided(null)


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
        squares = np.square(a).sum()
        if (moved < 0).any():
            both = (moved >= 0)[:, :, None] & (moved >= 0)[:, None, :]
            b = b * both
            squares = np.einsum("cd,ecd->e", np.square(a), both.astype(np.float64))
        return over_root(np.einsum("cd,ecd->e", a, b), squares * np.square(b).sum((1, 2)))

    overall = of(np.arange(len(order_m)), np.ones_like(order_m))
    return with_means(overall, [[of(*group) for group in groups] for groups in axes.values()])
