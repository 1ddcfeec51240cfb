"""Persistent homology of a grid by Gudhi's cubical complex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thalweg.core.imports import import_extra


@dataclass(frozen=True)
class Pairs:
    """Features of one dimension that live: where each is born and where it dies, by position in the array."""

    births: NDArray[np.int64]
    deaths: NDArray[np.int64]


def cubical_pairs(heights: NDArray[np.float64]) -> list[Pairs]:
    """Pairs of the sublevel sets of a grid, in dimensions 0 to D - 1.

    Grid points are the *vertices* of the complex; an edge, square or cube is there as soon as all of its
    corners are. Below a level, points are thus connected along the axes only (2, 4 or 6 neighbours), and what
    is above it along diagonals as well. So two minima join no sooner than the points between them that were
    evaluated let them; with the points as top-dimensional cells (8 or 26 neighbours) they would join across
    a diagonal, between two points that are both higher.

    Parameters
    ----------
    heights
        Float64, of one to three dimensions; infinite points are walls.

    Returns
    -------
    list of Pairs
        Of each dimension, the longest-lived first; a death of -1 stands for none at a finite height.
        Positions are in C order.

    Raises
    ------
    ImportError
        Without Gudhi; the message names the extra.

    References
    ----------
    Wagner, Chen and Vucini (2012), Efficient Computation of Persistent Homology for Cubical Data.
    """
    gudhi = import_extra("gudhi", "topology")
    complex_ = gudhi.CubicalComplex(vertices=heights)
    # No torsion in a grid of at most three dimensions, so that the field does not matter.
    complex_.compute_persistence(homology_coeff_field=2, min_persistence=0)
    ending, lasting = complex_.vertices_of_persistence_pairs()
    found = []
    for k in range(heights.ndim):
        rows = [row for part in ending[k : k + 1] for row in part.tolist()]
        rows += [(birth, -1) for part in lasting[k : k + 1] for birth in part.tolist()]
        found.append(_sorted(heights, np.array(rows, dtype=np.int64).reshape(-1, 2)))
    return found


def _sorted(heights: NDArray[np.float64], found: NDArray[np.int64]) -> Pairs:
    """Pairs (K, 2) in Gudhi's column-major order as `Pairs`; those born at a wall are none."""
    last = found[:, 1] < 0
    births, deaths = (
        np.ravel_multi_index(np.unravel_index(np.maximum(column, 0), heights.shape, order="F"), heights.shape)
        for column in found.T
    )
    flat = heights.ravel()
    # What dies at a wall dies at no finite height.
    deaths = np.where(last | np.isinf(flat[deaths]), -1, deaths)
    lifetimes = np.where(deaths < 0, np.inf, flat[deaths] - flat[births])
    real = np.isfinite(flat[births])
    order = np.lexsort([births[real], flat[births[real]], -lifetimes[real]])
    return Pairs(births[real][order], deaths[real][order])
