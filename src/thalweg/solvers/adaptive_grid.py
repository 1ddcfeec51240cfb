r"""A rectangular grid evaluated coarsely first, then only where interpolation is seen to fail.

The coarsest level of an axis are its ends, its middle and the points half-way; each further one halves the
gaps. Every cell of the coarsest level is tested: the points that the next level adds to it are evaluated and
compared with what cubic interpolation of the coarser level says of them. A cell in which all differences are
within the tolerance is done, and its remaining points are interpolated; the others are cut into the cells of
the next level, and so on.

A difference may be small by chance, where the interpolant crosses the function at the very points of the
test; and the cubics reach into the cells beside. So a cell's neighbours speak for it, too: it is done only if
theirs are within twice the tolerance, and its error is stated as twice the largest seen there, though never
above the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Neighbours a cubic goes through.
STENCIL = 4

# What a difference beside a cell counts for, against one in it. On random wells, rings, kinks and slices of
# ReLU networks: with nothing, up to an eighth of the points interpolated on a line miss the tolerance; with
# all of it a third more points are evaluated; with half of it a tenth more.
BESIDE = 0.5

# A difference as the error of the points that remain: beside a kink these may miss by more than was seen.
MARGIN = 2.0


@dataclass(frozen=True)
class Refined:
    """Which points of a grid were evaluated, and how far interpolation may be off at the others.

    `evaluated` and `errors` have the grid's shape; an error is twice the largest difference that was seen in
    the cell and around it at the points that were evaluated last, the tolerance at most: an estimate, no
    bound. It is zero at evaluated points.
    """

    evaluated: NDArray[np.bool_]
    errors: Array


def levels(num_points: int) -> list[NDArray[np.intp]]:
    """Indices of each level of an axis of an odd number of points, the coarsest first.

    Each halves the gaps of the one before, as far as whole numbers can be halved, alike on both sides.
    """
    middle = num_points // 2
    sides = np.array([0, middle])
    found = []
    while True:
        found.append(np.unique(np.concatenate([middle - sides, middle + sides])))
        if len(found[-1]) == num_points:
            # The middle and the ends alone are no level where there are finer ones.
            return found[1:] if len(found) > 1 else found
        sides = np.union1d(sides, (sides[:-1] + sides[1:]) // 2)


def grid_levels(shape: Sequence[int]) -> list[list[NDArray[np.intp]]]:
    """The levels of a grid, coarsest first: for each, the indices along every axis.

    All are halved together, an axis with fewer levels until it is whole: a test that left an axis out would
    say nothing of it.
    """
    axes = [levels(num_points) for num_points in shape]
    deepest = max(map(len, axes))
    return [[axis[min(k, len(axis) - 1)] for axis in axes] for k in range(deepest)]


def coarse_points(shape: Sequence[int]) -> list[int]:
    """Flat indices of the coarsest level, ascending."""
    return _flat(grid_levels(shape)[0], shape)


def refine(
    evaluate: Callable[[list[int]], Array],
    axes: Sequence[Array],
    tolerance: Callable[[Array], Array],
) -> Refined:
    """Evaluate a grid where it is needed.

    Parameters
    ----------
    evaluate
        Takes flat indices, ascending, and returns the values ``(..., T)`` there, NaN where there is none:
        of one function, or of several on the same grid, which is refined where any of them asks for it.
    axes
        Coordinates along each of the D axes.
    tolerance
        Takes values and returns the largest difference allowed at each.

    Notes
    -----
    What lies between the points of a test can be missed: a ridge narrower than half a cell of the coarsest
    level, an eighth of the axis, for one. A point that is not finite is never interpolated over: cells whose
    stencils hold one are refined to the end.
    """
    shape = tuple(map(len, axes))
    coordinates = [np.asarray(axis, dtype=np.float64) for axis in axes]
    errors, evaluated = np.zeros(shape), np.zeros(shape, dtype=bool)
    scheme = grid_levels(shape)
    coarsest = _flat(scheme[0], shape)
    first = evaluate(coarsest)
    several = tuple(range(first.ndim - 1))  # the axes of the functions
    values = np.full((*first.shape[:-1], *shape), np.nan)

    def keep(flat: list[int], found: Array) -> None:
        values.reshape(*first.shape[:-1], -1)[..., flat] = found
        evaluated.flat[flat] = True

    keep(coarsest, first)
    active = np.ones([len(nodes) - 1 for nodes in scheme[0]], dtype=bool)
    for coarse, fine in pairwise(scheme):
        predicted = _interpolated(values[(..., *np.ix_(*coarse))], coordinates, coarse, fine, STENCIL)
        places = [np.searchsorted(b, a) for a, b in zip(coarse, fine, strict=True)]
        is_new = np.ones([len(nodes) for nodes in fine], dtype=bool)
        is_new[np.ix_(*places)] = False
        # A point nothing can be said of is evaluated in any case.
        wanted = is_new & (_spread(active, places) | np.isnan(predicted).any(several))
        index = np.arange(evaluated.size).reshape(shape)[np.ix_(*fine)]
        if wanted.any():
            flat = np.sort(index[wanted]).tolist()
            keep(flat, evaluate(flat))
        here = (..., *np.ix_(*fine))
        found = values[here]
        surplus, allowed = np.where(wanted, np.abs(found - predicted), 0.0), tolerance(found)
        fails, far = (
            wanted & ~(part * surplus <= allowed).all(several) for part in (1.0, BESIDE)
        )  # NaN fails
        cell_fails = active & (_largest(fails, places) | scipy.ndimage.binary_dilation(_largest(far, places)))
        seen = np.where(np.isnan(surplus), 0.0, np.minimum(MARGIN * surplus, allowed))
        around = scipy.ndimage.maximum_filter(
            _largest(seen.max(several, initial=0.0), places), 3, mode="nearest"
        )
        cell_errors = np.where(active & ~cell_fails, around, 0.0)
        # Cells that are done hand their error down to all that will be interpolated in them.
        for cell in map(tuple, np.argwhere(cell_errors > 0)):
            box = tuple(slice(c[i], c[i + 1] + 1) for c, i in zip(coarse, cell, strict=True))
            errors[box] = np.maximum(errors[box], cell_errors[cell])
        values[here] = np.where(evaluated[np.ix_(*fine)], found, predicted)
        active = _spread_cells(cell_fails, places)
    return Refined(evaluated, np.where(evaluated, 0.0, errors))


def filled(values: Array, evaluated: NDArray[np.bool_], axes: Sequence[Array], order: int = 3) -> Array:
    """Values at all points from those at the evaluated ones of `refine`, by the same interpolation.

    Parameters
    ----------
    values
        ``(..., *grid)``; what stands at points that were not evaluated is ignored.
    evaluated
        ``(*grid)``, of `Refined`.
    axes
        Coordinates.
    order
        3 for the cubic of the test, 1 for what may not overshoot, such as standard errors.
    """
    shape = evaluated.shape
    coordinates = [np.asarray(axis, dtype=np.float64) for axis in axes]
    result = np.array(values, dtype=np.float64)
    scheme = grid_levels(shape)
    for coarse, fine in pairwise(scheme):
        predicted = _interpolated(result[(..., *np.ix_(*coarse))], coordinates, coarse, fine, order + 1)
        here = (..., *np.ix_(*fine))
        result[here] = np.where(evaluated[np.ix_(*fine)], result[here], predicted)
    return result


def _interpolated(
    values: Array, coordinates: Sequence[Array], coarse: Sequence[Any], fine: Sequence[Any], stencil: int
) -> Array:
    """Values ``(..., *coarse)`` interpolated to ``(..., *fine)``; NaN where a stencil holds one."""
    missing = np.isnan(values)
    result, lost = np.where(missing, 0.0, values), missing.astype(np.float64)
    D = len(coordinates)
    for axis, (x, a, b) in enumerate(zip(coordinates, coarse, fine, strict=True)):
        weights = _weights(x[a], x[b], stencil)
        place = axis - D  # from the back: values may have further axes in front
        result = np.moveaxis(np.moveaxis(result, place, -1) @ weights.T, -1, place)
        lost = np.moveaxis(np.moveaxis(lost, place, -1) @ np.abs(weights).T, -1, place)
    return np.where(lost > 0, np.nan, result)


def _weights(nodes: Array, at: Array, stencil: int) -> Array:
    """Lagrange's weights ``(len(at), len(nodes))`` of the nearest nodes about each place; exact at a node."""
    width = min(stencil, len(nodes))
    weights = np.zeros((len(at), len(nodes)))
    for row, x in enumerate(at):
        cell = int(np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 1))
        start = int(np.clip(cell - (width - 1) // 2, 0, len(nodes) - width))
        near = nodes[start : start + width]
        for j in range(width):
            others = np.delete(near, j)
            weights[row, start + j] = np.prod((x - others) / (near[j] - others))
    return weights


def _flat(nodes: Sequence[NDArray[np.intp]], shape: Sequence[int]) -> list[int]:
    return np.arange(int(np.prod(shape))).reshape(shape)[np.ix_(*nodes)].reshape(-1).tolist()


def _cells(places: Sequence[NDArray[np.intp]]) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """For each axis the first and the last fine point of every coarse cell."""
    for axis, place in enumerate(places):
        yield axis, place[:-1], place[1:]


def _largest(points: NDArray[Any], places: Sequence[NDArray[np.intp]]) -> NDArray[Any]:
    """Largest of the fine points in each closed coarse cell."""
    result = points
    for axis, first, last in _cells(places):
        inside = np.maximum.reduceat(result.take(range(last[-1]), axis), first, axis)
        result = np.maximum(inside, result.take(last, axis))
    return result


def _spread(cells: NDArray[Any], places: Sequence[NDArray[np.intp]]) -> NDArray[Any]:
    """For each fine point the largest of the coarse cells it lies in, borders included."""
    result = cells
    for axis, first, last in _cells(places):
        points = np.arange(last[-1] + 1)
        right = np.clip(np.searchsorted(first, points, side="right") - 1, 0, None)
        left = np.clip(np.searchsorted(last, points, side="left"), 0, len(last) - 1)
        result = np.maximum(result.take(right, axis), result.take(left, axis))
    return result


def _spread_cells(cells: NDArray[Any], places: Sequence[NDArray[np.intp]]) -> NDArray[Any]:
    """For each fine cell the coarse cell it lies in."""
    result = cells
    for axis, first, last in _cells(places):
        result = result.take(np.searchsorted(first, np.arange(last[-1]), side="right") - 1, axis)
    return result
