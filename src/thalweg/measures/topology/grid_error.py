r"""What a grid may hide between its points, by what every second point of it hides.

Sublevel sets of the cubical complex are those of a continuous function that interpolates the grid, so that
persistence is off by at most how far that function is from the loss (Cohen-Steiner, Edelsbrunner and Harer
2007). The distance has two parts, neither of which can be known from the grid alone; both are estimated.

*Between points.* A grid of every second point predicts the points that it leaves out, by interpolation along
one axis or more: at spacing 2 s, what it misses is there to be seen. Of a smooth loss the grid itself misses
a quarter of that, of one with kinks no more than that. It is taken as it is.

*Within cells.* Where two opposite corners of a cell are lower than any way between them along its edges, the
complex joins them at the lowest such way, the loss perhaps sooner, but no sooner than at the higher corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray

Heights = NDArray[np.float64]


def grid_error(heights: Heights, axes: tuple[Heights, ...], ceiling: float = math.inf) -> float:
    """Estimated largest distance between the loss, cut at `ceiling`, and what the grid says of it.

    Infinite where an axis has no three points in a row with finite losses: nothing can be said then. Walls
    (infinite heights) and the cells beside them are left out.

    Parameters
    ----------
    heights
        Float64, one dimension for each axis.
    axes
        Ascending coordinates.
    ceiling
        Above it losses are not told apart.
    """
    if min(heights.shape) < 3:
        return math.inf
    between = [_largest(_cut(h, ceiling) - _cut(p, ceiling)) for h, p in _predicted(heights, axes)]
    if any(map(math.isnan, between[: heights.ndim])):  # the single axes come first
        return math.inf
    within = [_largest(_cut(way, ceiling) - _cut(low, ceiling)) for low, way in _diagonals(heights)]
    return float(np.nanmax(between)) + float(np.nanmax([0.0, *within]))


def _cut(heights: Heights, ceiling: float) -> Heights:
    # A wall stays one: min(inf, ceiling) would be a height like any other.
    return np.where(np.isfinite(heights), np.minimum(heights, ceiling), np.nan)


def _largest(differences: Heights) -> float:
    """Largest size of those that are known; NaN if none is."""
    sizes = np.abs(differences)[np.isfinite(differences)]
    return float(sizes.max()) if sizes.size else math.nan


def _predicted(heights: Heights, axes: tuple[Heights, ...]) -> Iterator[tuple[Heights, Heights]]:
    """Inner points, and what their neighbours one step either way predict: by each axis, then by several."""
    for along in _subsets(heights.ndim):
        points = predicted = heights
        for k in along:
            x = axes[k]
            right = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])  # weight of the neighbour to the right
            right = right.reshape([-1 if n == k else 1 for n in range(heights.ndim)])
            predicted = (1 - right) * _part(predicted, k, 0, -2) + right * _part(predicted, k, 2, None)
            points = _part(points, k, 1, -1)
        yield points, predicted


def _diagonals(heights: Heights) -> Iterator[tuple[Heights, Heights]]:
    """For each diagonal of all cells: its higher end, and the lowest way along edges, if that is higher."""
    for along in _subsets(heights.ndim):
        for sides in product((0, 1), repeat=len(along)):
            if len(along) < 2 or sides[0]:  # seen from its other end it is the same diagonal
                continue
            sides = dict(zip(along, sides, strict=True))
            ends = np.maximum(_corner(heights, sides, ()), _corner(heights, sides, along))
            ways = [
                np.maximum.reduce([_corner(heights, sides, order[:n]) for n in range(1, len(along))])
                for order in permutations(along)
            ]
            yield ends, np.maximum(ends, np.minimum.reduce(ways))


def _corner(heights: Heights, sides: Mapping[int, int], crossed: tuple[int, ...]) -> Heights:
    """One corner of all cells: on these sides along the axes, on the other side of those crossed."""
    for k, side in sides.items():
        far = side != (k in crossed)
        heights = _part(heights, k, int(far), None if far else -1)
    return heights


def _subsets(num_axes: int) -> Iterator[tuple[int, ...]]:
    for n in range(1, num_axes + 1):
        yield from combinations(range(num_axes), n)


def _part(heights: Heights, axis: int, start: int, stop: int | None) -> Heights:
    return heights[(slice(None),) * axis + (slice(start, stop),)]
