"""Curvature along directions from losses alone: central differences, extrapolated, with their error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from thalweg.core.progress import Progress
from thalweg.objective.evaluation import Point
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import Directions

# Differences over these multiples of the step: two extrapolations, whose difference is the error.
MULTIPLES = (1, 2, 4)

# Sum of the absolute weights of a second difference, extrapolated, times the squared step: of what a loss is
# rounded by, how much may be in it.
AXIS_WEIGHT, MIXED_WEIGHT = 17 / 3, 17 / 12


def second_differences(
    objective: Objective,
    directions: Directions,
    steps: Tensor,
    *,
    mixed: bool = True,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss's second derivatives along directions, from losses alone, and what they may be wrong by.

    c(h), c(2h) and c(4h) are central differences, each in error by a multiple of h² and more;
    [4 c(h) - c(2h)] / 3 is free of that. Its error is taken to be its distance from the same of the doubled
    steps, sixteen times what remains where the loss is smooth, and what rounding may do.

    Parameters
    ----------
    objective
        The centre, and the function.
    directions
        D of them, in the dtype of the objective.
    steps
        ``(D,)`` float64, h along each.
    mixed
        If False, those of two different directions are left out, and stay nought.
    progress
        Called as ``progress(points done, points in all)``.

    Returns
    -------
    (Tensor, Tensor)
        ``(D, D)`` float64 each, with the L2 term, whose curvature is known.

    Raises
    ------
    NonFiniteLossError
        If the loss is not finite somewhere on the stencil.
    """
    V = directions.vectors
    D = V.shape[1]
    pairs = list(combinations(range(D), 2)) if mixed else []
    corners = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    places: list[dict[int, int]] = [{}]  # direction to multiple of its step
    places += [{j: sign * k} for j in range(D) for k in MULTIPLES for sign in (1, -1)]
    places += [{i: p * k, j: q * k} for i, j in pairs for k in MULTIPLES for p, q in corners]

    def points() -> Iterator[Point]:
        for place in places:
            yield directions.point(objective, [place.get(j, 0) * float(steps[j]) for j in range(D)])

    total = len(places)
    # By eager passes: so small a difference must not be that between two ways to compute.
    found = objective.evaluate_points(
        points(), on_point=(lambda done: progress(done, total)) if progress else None
    )
    losses = found.losses
    noise = torch.finfo(objective.dtype).eps * float(found.example_losses.double().abs().mean(1).max())
    num = len(MULTIPLES)
    axes = losses[1 : 1 + 2 * num * D].view(D, num, 2)
    diagonal = losses[1 + 2 * num * D :].view(len(pairs), num, 4)
    multiples = torch.tensor(MULTIPLES, dtype=torch.float64)

    curvatures, errors = torch.zeros(2, D, D, dtype=torch.float64)
    for j in range(D):
        squares = (multiples * steps[j]).square()
        bends = (axes[j, :, 0] - 2 * losses[0] + axes[j, :, 1]) / squares
        curvatures[j, j], errors[j, j] = _extrapolated(bends)
        errors[j, j] += AXIS_WEIGHT * noise / squares[0]
    for row, (i, j) in enumerate(pairs):
        squares = multiples.square() * steps[i] * steps[j]
        signs = torch.tensor([p * q for p, q in corners], dtype=torch.float64)
        bends = diagonal[row] @ signs / (4 * squares)
        value, error = _extrapolated(bends)
        error += MIXED_WEIGHT * noise / squares[0]
        curvatures[i, j] = curvatures[j, i] = value
        errors[i, j] = errors[j, i] = error
    exact = V.cpu().double()
    decay = objective.weight_decay * (exact.T @ exact)
    return curvatures + (decay if mixed else decay.diagonal().diag()), errors


def _extrapolated(bends: Tensor) -> tuple[Tensor, Tensor]:
    """Richardson's value of differences over h, 2h and 4h, and its distance from that of the last two."""
    finer, coarser = (4 * bends[:-1] - bends[1:]) / 3
    return finer, (finer - coarser).abs()
