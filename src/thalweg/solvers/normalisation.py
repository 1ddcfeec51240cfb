"""How long a step of one is: a direction scaled to the weights it moves, to length one, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_one_of
from thalweg.core.param_space import ParamSpace

Normalisation = Literal["filter", "layer", "global", "raw", "none"]
Ignored = Literal["bias_and_norm", "none"]


def check_choices(normalisation: str, ignore: str) -> None:
    """Raise unless both are known names."""
    check_one_of("normalisation", normalisation, NORMALISATIONS)
    check_one_of("ignore", ignore, get_args(Ignored))


def scaled(
    direction: Tensor, params: Tensor, space: ParamSpace, normalisation: Normalisation, ignore: Ignored
) -> Tensor:
    """A copy of `direction` (P,), nought where `ignore` says, scaled to `params` (P,).

    Raises
    ------
    ValueError
        If nothing is left to move: every tensor is ignored, or every filter is zero.
    """
    kept = torch.where(free_entries(space, ignore), direction, 0)
    result = NORMALISATIONS[normalisation](kept, params, space)
    if not bool(result.any()):
        raise ValueError(
            f"`normalisation={normalisation!r}` with `ignore={ignore!r}` left nothing to move: every tensor "
            "has fewer than two dimensions, or is zero; use ignore='none' or normalisation='raw'."
        )
    return result


def free_entries(space: ParamSpace, ignore: Ignored) -> Tensor:
    """``(P,)``: True where a direction may move."""
    free = torch.ones(space.dim, dtype=torch.bool)
    for slot in space:
        if ignore == "bias_and_norm" and (slot.is_norm or len(slot.shape) < 2):
            free[slot.start : slot.stop] = False
    return free


def rows_of(vector: Tensor, space: ParamSpace, normalisation: str) -> list[Tensor]:
    """Views of `vector` (P,), each ``(rows, entries)``: what one factor scales is a row."""
    if normalisation == "filter":
        return [filters for _, filters in space.filters(vector)]
    if normalisation == "layer":
        return [vector[slot.start : slot.stop].view(1, -1) for slot in space]
    return [vector.view(1, -1)]


def filter_normalized(direction: Tensor, params: Tensor, space: ParamSpace) -> Tensor:
    """Scale each filter of `direction` (P,) to the norm of the same filter of `params` (P,).

    A filter is an output row of a weight: the first dimension of convolution and dense weights. A filter of
    zeros, in either, comes out zero.
    """
    return _matched(direction, params, space, "filter")


def layer_normalized(direction: Tensor, params: Tensor, space: ParamSpace) -> Tensor:
    """Scale each tensor of `direction` (P,), such as a weight, to the norm of the same of `params` (P,)."""
    return _matched(direction, params, space, "layer")


def globally_normalized(direction: Tensor, params: Tensor, space: ParamSpace) -> Tensor:
    """Scale `direction` (P,) by one factor, to the norm of all the tensors of `params` (P,) that it moves."""
    moved = [params[s.start : s.stop] for s in space if bool(direction[s.start : s.stop].any())]
    if not moved:
        return direction
    return unit_length(direction, params, space) * torch.linalg.vector_norm(torch.cat(moved))


def unit_length(direction: Tensor, params: Tensor, space: ParamSpace) -> Tensor:
    """Scale `direction` (P,) to Euclidean length one, whatever the parameters; zero stays zero."""
    norm = torch.linalg.vector_norm(direction)
    return direction / norm if norm > 0 else direction


def as_it_is(direction: Tensor, params: Tensor, space: ParamSpace) -> Tensor:
    """`direction` (P,) itself."""
    return direction


def _matched(direction: Tensor, params: Tensor, space: ParamSpace, normalisation: str) -> Tensor:
    result = direction.clone()
    for rows, weights in zip(
        rows_of(result, space, normalisation), rows_of(params, space, normalisation), strict=True
    ):
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        targets = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
        rows *= torch.where(norms > 0, targets / norms, 0)
    return result


# (direction, params, space) -> direction, all (P,): a further normalisation is one more entry here, and its
# rows in `rows_of`.
NORMALISATIONS: dict[str, Callable[[Tensor, Tensor, ParamSpace], Tensor]] = {
    "filter": filter_normalized,
    "layer": layer_normalized,
    "global": globally_normalized,
    "raw": unit_length,
    "none": as_it_is,
}
