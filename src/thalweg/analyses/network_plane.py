"""The plane through three networks: where they lie in it, and the pass between two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from thalweg.measures.surfaces.plane import PlaneSlice, plane_slice
from thalweg.objective.objective import Objective

# Where the three lie, in steps from the middle between the second and the third: they are corners of a
# parallelogram around it.
CORNERS = ((1.0, 1.0), (-1.0, 1.0), (1.0, -1.0))

# How far the plane goes, in the same steps: a quarter of the distances beyond the networks.
SPAN = 1.5

# Sine of the angle at the first network up to which the three count as one line.
COLLINEAR = 1e-3


def corner_indices(num_points: int) -> list[tuple[int, int]]:
    """Where the three networks lie on a grid of `num_points` a side."""
    half = num_points // 2
    return [(half + round(x * half / SPAN), half + round(y * half / SPAN)) for x, y in CORNERS]


def check_plane_points(num_points: Any) -> None:
    """Raise unless the networks are on the grid, or there is to be no plane."""
    is_whole = isinstance(num_points, int | np.integer) and not isinstance(num_points, bool)
    if not is_whole or (num_points != 0 and (num_points < 7 or num_points % 6 != 1)):
        raise ValueError(
            "`plane_points` must be 7, 13, 19 and so on, so that the three networks are on the grid, or 0 "
            f"for no plane, got {num_points!r}."
        )


def are_apart(networks: Sequence[Objective]) -> bool:
    """Whether three networks span a plane."""
    first, second, third = (network.params.cpu().double() for network in networks)
    u, v = second - first, third - first
    lengths = u.norm(), v.norm()
    if not all(length > 0 for length in lengths):
        return False
    u, v = u / lengths[0], v / lengths[1]
    return bool((v - (v @ u) * u).norm() > COLLINEAR)


def middle(networks: Sequence[Objective]) -> Objective:
    """The mean of networks in parameters and statistics."""
    first = networks[0]
    buffers = {k: mean([network.buffers[k] for network in networks]) for k in first.buffers}
    return first.at(mean([network.params for network in networks]), buffers)


def through(networks: Sequence[Objective], **arguments: Any) -> PlaneSlice:
    """`plane_slice` through three networks, statistics interpolated along.

    The centre is the middle between the second and the third. A step of one along a direction takes it to the
    middle between the first and one of these: all three are means of networks, whose statistics are
    sound; the networks themselves are a step of one along both, either way, but for rounding.
    """
    first, second, third = networks
    return plane_slice(
        middle((second, third)),
        directions=(middle((first, third)), middle((first, second))),
        span=SPAN,
        agreement=False,  # of a mean of networks nobody asks for the Hessian
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
        components, _ = scipy.ndimage.label(np.nan_to_num(table, nan=math.inf) <= level)  # type: ignore[misc]
        return components[start] == components[end]

    low, high = 0, len(levels)  # the first level that joins them is in [low, high]
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if joined(levels[middle]) else (middle + 1, high)
    return float(levels[low]) if low < len(levels) else math.inf
