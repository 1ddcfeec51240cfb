"""The plane through three networks: its centre of mass, where things lie in it, and the pass between two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from thalweg.measures.surfaces.plane import PlaneSlice, plane_slice
from thalweg.objective.objective import Objective

# Steps from the centre of mass towards the second and the third network, at which the three lie: the centre
# is a third of their sum, so that the first lies opposite the other two.
CORNERS = ((-1.0, -1.0), (1.0, 0.0), (0.0, 1.0))

# How far the plane goes, in the same steps: a quarter beyond the networks.
SPAN = 1.25

# Sine of the angle at the centre up to which the three count as one line.
COLLINEAR = 1e-3


def corner_indices(num_points: int) -> list[tuple[int, int]]:
    """Where the three networks lie on a grid of `num_points` a side."""
    half = num_points // 2
    return [(half + round(x * half / SPAN), half + round(y * half / SPAN)) for x, y in CORNERS]


def check_plane_points(num_points: Any) -> None:
    """Raise unless the networks are on the grid, or there is to be no plane."""
    is_whole = isinstance(num_points, int | np.integer) and not isinstance(num_points, bool)
    if not is_whole or (num_points != 0 and (num_points < 11 or num_points % 10 != 1)):
        raise ValueError(
            "`plane_points` must be 11, 21, 31 and so on, so that the three networks are on the grid, or 0 "
            f"for no plane, got {num_points!r}."
        )


def are_apart(networks: Sequence[Objective]) -> bool:
    """Whether three networks span a plane: whether the ways to two of them from the centre differ."""
    points = [network.params.cpu().double() for network in networks]
    centre = torch.stack(points).mean(0)
    u, v = points[1] - centre, points[2] - centre
    lengths = u.norm(), v.norm()
    if not all(length > 0 for length in lengths):
        return False
    u, v = u / lengths[0], v / lengths[1]
    return bool((v - (v @ u) * u).norm() > COLLINEAR)


def through(networks: Sequence[Objective], **arguments: Any) -> PlaneSlice:
    """`plane_slice` around the centre of mass of three networks, statistics interpolated along.

    A step of one along each direction arrives at the second and the third network, to the bit; steps of
    (-1, -1) at the first, but for rounding.
    """
    first, second, third = networks
    params = mean([network.params for network in networks])
    buffers = {k: mean([network.buffers[k] for network in networks]) for k in first.buffers}
    return plane_slice(
        first.at(params, buffers),
        directions=(second, third),
        span=SPAN,
        **arguments,
    )


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """In double precision where the device knows it, so that what all have in common stays as it is."""
    first = tensors[0]
    total = torch.stack([t.detach().cpu().double() for t in tensors]).mean(0)
    common = torch.stack([t == first for t in tensors]).all(0)
    return torch.where(common, first, total.to(first))


def pass_height(heights: Tensor, start: tuple[int, int], end: tuple[int, int]) -> float:
    """Lowest level at which two points of a grid are in one component of its sublevel set.

    Points are joined along the axes, as in `persistence`. Infinite where what is not finite keeps them apart.
    """
    table = heights.double().numpy()
    levels = np.unique(table[np.isfinite(table)])
    levels = levels[levels >= max(table[start], table[end])]

    def joined(level: float) -> bool:
        components, _ = ndimage.label(np.nan_to_num(table, nan=math.inf) <= level)  # type: ignore[misc]
        return components[start] == components[end]

    low, high = 0, len(levels)  # the first level that joins them is in [low, high]
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if joined(levels[middle]) else (middle + 1, high)
    return float(levels[low]) if low < len(levels) else math.inf
