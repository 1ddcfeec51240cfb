"""What the slices are asked for, checked; and the same in a form that a provenance can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_count, is_number
from thalweg.core.tolerance import Tolerance
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import Directions
from thalweg.solvers.projection import Projection

# Asks for a grid that holds the trajectory, and for directions along its principal components.
OF_TRAJECTORY = "trajectory"

# A grid that holds a trajectory reaches so much further; and an axis along which it moves by less than such a
# part of its distance from the centre holds nothing of it.
ROOM, LEAST_REACH = 1.1, 1e-6


def each(name: str, given: Any, num: int) -> tuple[Any, ...]:
    """One entry for each of `num` axes."""
    if not isinstance(given, tuple | list):
        return (given,) * num
    if len(given) != num:
        wanted = f"one number or {num}, one a direction" if num > 1 else "one number"
        raise ValueError(f"`{name}` must be {wanted}, got {given!r}.")
    return tuple(given)


def checked_counts(num_points: Any, num_axes: int) -> tuple[int, ...]:
    """Points along each axis, each number odd: a symmetric axis then has its centre on the grid."""
    counts = each("num_points", num_points, num_axes)
    for count in counts:
        check_count("num_points", count)
        if count < 3 or count % 2 == 0:
            raise ValueError(
                f"`num_points` must be odd and at least 3, so that the centre is on the grid, got {count}; "
                f"use {count + 1 if count > 2 else 3}."
            )
    return counts


def check_spans(span: Any, num_axes: int, has_trajectory: bool) -> None:
    """Raise unless they are extents, or what a trajectory will say."""
    if is_of_trajectory(span) and num_axes > 1:
        if not has_trajectory:
            raise ValueError(f"`span={OF_TRAJECTORY!r}` needs one: give `trajectory`, or numbers for `span`.")
        return
    for extent in each("span", span, num_axes):
        if not is_number(extent) or not 0 < extent < math.inf:
            raise ValueError(f"`span` must be positive and finite, got {extent!r}.")


def spans_of(span: Any, num_axes: int, seen: Projection | None, norms: Tensor) -> tuple[float, ...]:
    """How far the grid runs along each axis, checked before."""
    if not is_of_trajectory(span):
        return tuple(float(extent) for extent in each("span", span, num_axes))
    assert seen is not None
    reach = seen.coordinates.abs().amax(0)
    for j, far in enumerate((reach * norms > LEAST_REACH * float(seen.distances.max())).tolist()):
        if not far:
            raise ValueError(
                f"`span={OF_TRAJECTORY!r}` needs a trajectory that moves along every direction, but it does "
                f"not along number {j}; give numbers for `span`."
            )
    return tuple((ROOM * reach).tolist())


def checked_tolerance(tolerance: Any) -> Tolerance | None:
    """An absolute one, or a pair of an absolute and a relative one."""
    pair = tolerance if isinstance(tolerance, tuple | list) else (tolerance, None)
    if len(pair) != 2:
        raise ValueError(f"`tolerance` must be a number, a pair of numbers or None, got {tolerance!r}.")
    return Tolerance.checked(("tolerance", pair[0]), ("tolerance[1]", pair[1]))


def points_of(trajectory: Any) -> Iterator[Tensor]:
    """Its points, one at a time: of networks the parameters."""
    if not isinstance(trajectory, Iterable):
        raise TypeError(
            "`trajectory` must be vectors (P,) or objectives, one after the other, got one "
            f"{type(trajectory).__name__}."
        )
    for t, point in enumerate(trajectory):
        if isinstance(point, Objective):
            yield point.params
        elif isinstance(point, Tensor | np.ndarray):
            yield torch.as_tensor(point)
        else:
            raise TypeError(
                f"`trajectory[{t}]` must be a vector (P,) or an objective, got {type(point).__name__}; give "
                "a bare network's parameters, or Objective(model, data)."
            )


def is_of_trajectory(kind: Any) -> bool:
    """Whether it is that name."""
    return isinstance(kind, str) and kind == OF_TRAJECTORY


def with_trajectory(directions: Any, trajectory: Any, num: int) -> tuple[Any, Any]:
    """Kinds of direction, with the trajectory's points in the place of its name; and the trajectory."""
    kinds = [directions] * num if is_single(directions) else directions
    if isinstance(kinds, Tensor | np.ndarray) or not any(map(is_of_trajectory, kinds)):
        return directions, trajectory
    if trajectory is None:
        raise ValueError(f"`directions={OF_TRAJECTORY!r}` needs one: give `trajectory`.")
    points = list(points_of(trajectory))
    return [points if is_of_trajectory(kind) else kind for kind in kinds], points


def is_single(directions: Any) -> bool:
    """Whether it is one kind, which is taken for every direction."""
    if isinstance(directions, Tensor | np.ndarray):
        return directions.ndim == 1
    return isinstance(directions, str | Objective) or not isinstance(directions, Sequence)


def needs_hessian(directions: Any) -> bool:
    """Whether a direction is an eigenvector, which takes work of its own."""
    kinds = [directions] if isinstance(directions, str) else directions
    return isinstance(kinds, Sequence) and any(isinstance(k, str) and k in ("top", "bottom") for k in kinds)


def described(directions: Any, found: Directions) -> Any:
    """The argument in a JSON-safe form: names as they are; vectors, networks, trajectories by their hash."""
    if isinstance(directions, str):
        return directions
    entries = found.description["directions"]
    hashes = [next((e[k] for k in ("vector", "params", "trajectory") if k in e), e["kind"]) for e in entries]
    return hashes[0] if is_single(directions) else hashes
