"""The merge tree of a grid: which minima there are below each level, and where two of them join."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Heights = NDArray[np.float64]


@dataclass(frozen=True)
class MergeTree:
    """Minima of a slice, deepest and longest-lived first, and the saddles at which they join.

    C components on a slice of D dimensions. Each is born at a minimum; where two meet, the one with the
    higher minimum ends in the other (the elder rule), so that a parent always comes before its children.
    Tensors are on the CPU.

    A saddle height is an *upper bound* on what separates two minima in the full space: they join on the
    slice at that height, hence in the full space at that height or below. That a slice separates two minima
    proves nothing.

    Parameters
    ----------
    minimum_points
        ``(C, D)`` float64, where each component is born.
    minimum_heights
        ``(C,)`` float64, its lowest loss.
    saddle_points
        ``(C, D)`` float64, where it joins its parent; NaN if it never does.
    saddle_upper_bounds
        ``(C,)`` float64, the loss there; infinite if it never does.
    parents
        ``(C,)`` int64, the component it joins; -1 if none. That of the lowest minimum joins none, and neither
        do others that points without a finite loss wall off.
    """

    minimum_points: Tensor
    minimum_heights: Tensor
    saddle_points: Tensor
    saddle_upper_bounds: Tensor
    parents: Tensor

    def saddle_upper_bound(self, i: int, j: int) -> float:
        """Lowest level with minima i and j in one component of the slice: an upper bound for the space.

        Their own height if ``i == j``, infinity if the slice never joins them.

        Raises
        ------
        ValueError
            If there is no such component.
        """
        num_components = len(self.parents)
        for name, component in (("i", i), ("j", j)):
            if not 0 <= component < num_components:
                raise ValueError(
                    f"`{name}` must be a component from 0 to {num_components - 1}, got {component!r}."
                )
        ends, parents = self.saddle_upper_bounds.tolist(), self.parents.tolist()
        highest = max(self.minimum_heights[[i, j]].tolist())
        while i != j:
            # The one that ends first is the one that moves on; at the root it is infinity that joins them.
            i, j = (i, j) if ends[i] <= ends[j] else (j, i)
            highest, i = max(highest, ends[i]), parents[i]
            if i < 0:
                return math.inf
        return highest

    def num_components(self, level: float) -> int:
        """Connected components of the slice's points with a loss of at most `level`."""
        ended = (self.saddle_upper_bounds <= level) & (self.parents >= 0)
        return int(((self.minimum_heights <= level) & ~ended).sum())


@dataclass(frozen=True)
class Components:
    """The same on the grid, by position in the flattened array (C order); -1 where there is none."""

    minima: NDArray[np.int64]
    saddles: NDArray[np.int64]
    parents: NDArray[np.int64]


def grid_components(heights: Heights) -> Components:
    """Components of the sublevel sets of a grid, by union-find over its points in ascending order.

    Two points are neighbours if they differ by one step along one axis: 2, 4 or 6 neighbours. Equal heights
    go by their position in the array. What is born and ends at one height is left out.

    Parameters
    ----------
    heights
        Float64, of any dimension; infinite points are walls.

    Returns
    -------
    Components
        Those that never end first, then by how long they live, then by birth.

    References
    ----------
    Edelsbrunner, Letscher and Zomorodian (2002), Topological Persistence and Simplification, Discrete and
    Computational Geometry 28: the elder rule.
    """
    padded = np.pad(heights, 1, constant_values=np.inf)  # a border of walls: every point has all neighbours
    height = padded.ravel()
    steps = [stride // padded.itemsize for stride in padded.strides]
    neighbours = [*steps, *(-step for step in steps)]
    order = np.argsort(height, kind="stable")[: np.isfinite(height).sum()]
    age = np.empty(len(height), dtype=np.int64)
    age[order] = np.arange(len(order))
    age, above = age.tolist(), [-1] * len(height)  # above[v] leads from v to the oldest of its component

    def oldest(v: int) -> int:
        while above[v] != v:
            above[v] = above[above[v]]
            v = above[v]
        return v

    ends: dict[int, tuple[int, int]] = {}  # minimum: its saddle and the minimum it joins
    for v in order.tolist():
        met = {oldest(v + step) for step in neighbours if above[v + step] >= 0}
        elder = min(met, key=age.__getitem__, default=v)
        above[v] = elder
        for younger in met - {elder}:
            above[younger] = elder
            if height[younger] < height[v]:
                ends[younger] = v, elder
    roots = {v: (-1, -1) for v in order.tolist() if above[v] == v}
    born = {**roots, **ends}

    def lifetime(v: int) -> float:
        return height[born[v][0]] - height[v] if v in ends else math.inf

    minima = sorted(born, key=lambda v: (-lifetime(v), age[v]))
    number = {v: i for i, v in enumerate(minima)} | {-1: -1}
    place = _unpadded(padded.shape)
    return Components(
        minima=np.array([place[v] for v in minima]),
        saddles=np.array([place[born[v][0]] if v in ends else -1 for v in minima]),
        parents=np.array([number[born[v][1]] for v in minima]),
    )


def _unpadded(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Position in the array for every position in the padded one, -1 on the border."""
    inner = [n - 2 for n in shape]
    return np.pad(np.arange(math.prod(inner)).reshape(inner), 1, constant_values=-1).ravel()


def as_points(flat: NDArray[np.int64], axes: tuple[Tensor, ...]) -> Tensor:
    """Coordinates (K, D) of K positions in the flattened grid; NaN where a position is -1."""
    index = np.unravel_index(np.maximum(flat, 0), [len(axis) for axis in axes])
    points = torch.stack([axis[torch.from_numpy(i)] for axis, i in zip(axes, index, strict=True)], dim=1)
    points[torch.from_numpy(flat < 0)] = math.nan
    return points
