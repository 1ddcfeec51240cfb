"""One weight of a network: which is meant, and what its layer reads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.param_space import Slot
from thalweg.objective.batch_norm import Moments
from thalweg.objective.compilation import first_micro_batch
from thalweg.objective.isolation import isolated
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.objective.reduction import Rows

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def named_weight(objective: Objective, weight: str | None) -> Slot:
    """The trainable parameter of two or more dimensions that was named, itself or by its layer.

    ``None`` means that of the layer which a forward pass calls last.

    Raises
    ------
    ValueError
        If there is none, or more than one.
    """
    if weight is None:
        found = _called_last(objective)
        if found is None:
            raise ValueError(
                "`weight` must name a parameter: this network has no trainable one of two or more dimensions "
                f"by default; names are {', '.join(objective.space.names)}."
            )
        return found
    matched = objective.space.select(weight, "weight")
    weights = [slot for slot in objective.space if slot.name in matched.names and len(slot.shape) > 1]
    if len(weights) != 1:
        raise ValueError(
            f"`weight` must name one parameter of two or more dimensions, but {weight!r} matches "
            f"{', '.join(s.name for s in weights) or 'none'}; names are {', '.join(objective.space.names)}."
        )
    return weights[0]


def feature_spread(objective: Objective, slot: Slot) -> Tensor:
    """Standard deviation ``(m,)``, float64, of each input of a layer over the data and the positions.

    In the order of a row of its weight: a convolution's entries of one channel have one spread.

    Raises
    ------
    ValueError
        If the weight is not that of one dense layer or plain convolution, called once a pass.
    """
    layer = _sole_owner(objective, slot)
    seen: list[Moments] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        seen.append(Moments.of(x.reshape(-1, x.shape[-1]) if isinstance(layer, nn.Linear) else x))

    refusal = ValueError(
        "`normalize_features` needs a weight that one dense layer or ungrouped convolution uses, once a "
        f"pass, for what it reads to have a spread; {slot.name!r} is none: leave it False."
    )

    def look(micro: MicroBatch) -> tuple[Rows, ...]:
        seen.clear()
        micro.loss_sum()
        if len(seen) != 1:
            raise refusal
        return seen[0].as_rows()

    if layer is None:
        raise refusal
    handle = layer.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            moments = Moments.of_all(*objective.reduce(look))
    finally:
        handle.remove()
    spread = moments.var.cpu().double().sqrt()
    # Rounding of a constant is no spread.
    spread[spread <= 1e-6 * moments.mean.cpu().double().abs()] = 0
    return spread.repeat_interleave(math.prod(slot.shape[2:]))


def _sole_owner(objective: Objective, slot: Slot) -> nn.Module | None:
    model = objective.loss.model
    parameter = dict(model.named_parameters())[slot.name]
    owners = [m for m in model.modules() if any(p is parameter for p in m.parameters(recurse=False))]
    if len(owners) != 1:
        return None
    plain = type(owners[0]) is nn.Linear or (type(owners[0]) in CONVOLUTIONS and owners[0].groups == 1)
    return owners[0] if plain else None


def _called_last(objective: Objective) -> Slot | None:
    """Of the trainable weights that of the last call; where no call shows, the last by its name's place."""
    weights = {slot.name: slot for slot in objective.space if len(slot.shape) > 1}
    if not weights:
        return None
    model = objective.loss.model
    # Tied ones are known by their first name, whichever layer is called.
    names = {id(p): name for name, p in model.named_parameters()}
    calls: list[str] = []

    def noting(name: str) -> Any:
        return lambda *_: calls.append(name)

    handles = [
        module.register_forward_pre_hook(noting(names[id(p)]))
        for module in model.modules()
        for p in module.parameters(recurse=False)
        if names[id(p)] in weights
    ]
    try:
        with isolated(objective.device), torch.no_grad():
            first_micro_batch(objective).losses()
    finally:
        for handle in handles:
            handle.remove()
    return weights[calls[-1]] if calls else list(weights.values())[-1]
