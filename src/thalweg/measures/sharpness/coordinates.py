r"""Coordinates in which curvature can be compared: relative to the weights, with batch norm accounted for.

A step is measured in parts of what it moves, :math:`\delta = D u`, with D of
`thalweg.measures.sharpness.scaling`. What is nought has no relative step, and is held.

Batch norm with a layer right before it has more parameters than its function needs:

``"kept"``
    As they are.
``"projected"``
    The length of each of that layer's filters is held, so that no step goes along the filter itself: with
    batch statistics the loss does not change along it (epsilon apart), with constant ones it changes as along
    the norm's factor, which stays.
``"folded"``
    Of a network in whose place :math:`\tilde W = \gamma W / \sigma` and
    :math:`\tilde b = \gamma (b - \mu) / \sigma + \beta` stand, and no batch norm. Its loss at :math:`(\tilde
    W, \tilde b)` is that of the network as it is at :math:`W = \sigma \tilde W / \gamma` and
    :math:`\beta = \tilde b + \mathrm{const}` with all else held, which is linear: so its Hessian is a
    congruence of the present one, and no other network has to be built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_one_of
from thalweg.core.param_space import ParamSpace
from thalweg.linalg.congruence import Columns, Diagonal, LinearMap, Projection
from thalweg.measures.sharpness.scaling import Scaling, at_rest, check_scaling, relative_scale
from thalweg.objective.objective import Objective
from thalweg.operators.folding import Pair
from thalweg.operators.normalised_pairs import normalised_pairs

Norms = Literal["kept", "projected", "folded"]


class Coordinates(NamedTuple):
    """Factors of the map from coordinates to steps of the parameters, and what it holds still."""

    maps: tuple[LinearMap, ...]
    at_rest: dict[str, int]


def check_coordinates(scaling: str, norms: str, objective: Objective) -> None:
    """Refuse names that are none, and folding where there is nothing constant to fold."""
    check_scaling(scaling)
    check_one_of("norms", norms, get_args(Norms))
    if norms == "folded" and objective.batch_norm == "batch" and objective.has_batch_norm:
        raise ValueError(
            "`norms='folded'` needs constant statistics, which batch_norm='batch' has not: each batch would "
            "fold into other weights. Use batch_norm='running' or 'recalibrated', or norms='projected'."
        )


def chosen_pairs(objective: Objective, norms: Norms) -> tuple[Pair, ...]:
    """The layers and batch norms that `norms` is about; none where they are kept, or there are none."""
    if norms == "kept" or not objective.has_batch_norm:
        return ()
    pairs = normalised_pairs(objective)
    if not pairs:
        raise ValueError(
            f"`norms={norms!r}` needs a batch norm right behind a linear or convolutional layer of its own, "
            "but none here is; use norms='kept'."
        )
    return pairs


def coordinates(objective: Objective, scaling: Scaling, norms: Norms, pairs: Sequence[Pair]) -> Coordinates:
    """The new coordinates; the factors are on the objective's device, the count is that of `at_rest`.

    Raises
    ------
    ValueError
        If a folded weight without scaling would be divided by a factor of nought.
    """
    params = objective.params.cpu().double()
    if norms == "folded" and pairs:
        return _folded(objective, scaling, pairs)
    scale = relative_scale(objective.space, params, scaling)
    maps: list[LinearMap] = [] if scaling == "none" else [Diagonal(scale.to(objective.params))]
    if norms == "projected" and pairs:
        maps.append(_without_lengths(objective, scale, pairs))
    return Coordinates(tuple(maps), at_rest(scale, objective.params.dtype))


def _without_lengths(objective: Objective, scale: Tensor, pairs: Sequence[Pair]) -> Projection:
    """Off the directions that the filters themselves have in the scaled coordinates."""
    params = objective.params.cpu().double()
    relative = torch.where(scale > 0, params / scale, 0.0)
    weights = {f"{linear}.weight" for linear, _ in pairs}
    blocks = []
    for slot, rows in objective.space.filters(relative):
        if slot.name in weights:
            norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            blocks.append((slot.start, torch.where(norms > 0, rows / norms, 0.0).to(objective.params)))
    return Projection(objective.space.dim, blocks)


def _folded(objective: Objective, scaling: Scaling, pairs: Sequence[Pair]) -> Coordinates:
    tensors = {k: t.cpu().double() for k, t in objective.named_tensors.items()}
    kept = {slot.name: tensors[slot.name] for slot in objective.space}
    stretch = {name: torch.ones_like(t) for name, t in kept.items()}
    for linear, norm in pairs:
        factor, bias = _effective(objective, tensors, linear, norm)
        weight, shift, old_shift = f"{linear}.weight", f"{norm}.bias", f"{linear}.bias"
        kept.pop(f"{norm}.weight", None)
        if weight in kept:
            rows = factor.view(-1, *[1] * (tensors[weight].ndim - 1))
            kept[weight], stretch[weight] = rows * tensors[weight], (1 / rows).expand_as(tensors[weight])
        # One parameter moves the folded bias: the norm's shift, or the layer's bias where that is held.
        if shift in kept:
            kept[shift] = bias
            kept.pop(old_shift, None)
        elif old_shift in kept:
            kept[old_shift], stretch[old_shift] = bias, 1 / factor
    space = ParamSpace({name: t.shape for name, t in kept.items()})
    scale = relative_scale(space, space.flatten(kept), scaling)
    # What has no size does not move, whatever it is divided by.
    wide = torch.where(scale > 0, scale * space.flatten(stretch), 0.0)
    total = wide.to(objective.params)
    if not bool(torch.isfinite(total).all()):
        raise ValueError(
            f"`norms='folded'` with scaling={scaling!r} divides by the factors of batch norm, and one is "
            "nought or as good: no step of this network's weights moves that folded weight. Use "
            "scaling='element' or 'filter', which hold weights of nought, or norms='projected'."
        )
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.name in kept])
    maps = Columns(index.to(objective.device), objective.space.dim), Diagonal(total)
    return Coordinates(maps, at_rest(wide, objective.params.dtype))


def _effective(
    objective: Objective, tensors: dict[str, Tensor], linear: str, norm: str
) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies its channels by ``(C,)``, and the folded bias ``(C,)``."""
    mean, var = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
    layer: Any = objective.loss.model.get_submodule(norm)
    factor = (var + layer.eps).rsqrt()
    factor = factor * tensors.get(f"{norm}.weight", torch.ones_like(factor))
    nought = torch.zeros_like(mean)
    bias = tensors.get(f"{linear}.bias", nought) - mean
    return factor, factor * bias + tensors.get(f"{norm}.bias", nought)
