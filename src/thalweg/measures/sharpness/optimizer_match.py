"""Which of an optimizer's parameters is which of an objective's, whose model is a copy of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from thalweg.core.param_space import Slot
from thalweg.objective.objective import Objective

# What wrappers put before a parameter's name.
PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Held:
    """A parameter that the optimizer moves: its place, its group's settings and its own state."""

    slot: Slot
    group: Mapping[str, Any]
    state: Mapping[str, Any]


def held_parameters(objective: Objective, optimizer: Optimizer) -> list[Held | None]:
    """For each tensor of the objective's space what the optimizer has of it; None where it does not hold it.

    By the names that the optimizer knows, if it was made from ``model.named_parameters()``; else in the order
    of the model's parameters; else by their values, where these tell them apart. Whichever way, values must
    be those of the objective's point.

    Raises
    ------
    ValueError
        If some of its parameters are not the objective's, or cannot be told apart.
    """
    found = [
        (p, group, name)
        for group in optimizer.param_groups
        for p, name in zip(group["params"], _names(group), strict=True)
        if p.requires_grad
    ]
    slots, named = objective.space.slots, objective.named_params

    def equal(p: Tensor, slot: Slot) -> bool:
        if p.shape != slot.shape:
            return False
        ours, theirs = named[slot.name], p.detach().to(named[slot.name])
        # NaN is NaN here: what is wrong with it is for the loss to say.
        return bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())

    tensors = [p for p, _, _ in found]
    places = (
        _by_name(slots, [name for _, _, name in found])
        or _in_order(slots, tensors, equal)
        or _by_value(slots, tensors, equal)
    )
    for (p, _, _), slot in zip(found, places, strict=True):
        if not equal(p, slot):
            raise ValueError(
                f"`optimizer` must be at the objective's point, but its {slot.name!r} has other values; "
                "build the objective anew from the model as it is."
            )
    held = {
        slot.name: Held(slot, group, optimizer.state.get(p, {}))
        for (p, group, _), slot in zip(found, places, strict=True)
    }
    if not held:
        raise ValueError("`optimizer` must hold a parameter that can be trained, got none.")
    return [held.get(slot.name) for slot in slots]


def _names(group: Mapping[str, Any]) -> Sequence[str | None]:
    return group.get("param_names") or [None] * len(group["params"])


def _by_name(slots: Sequence[Slot], names: Sequence[str | None]) -> list[Slot] | None:
    known = {slot.name: slot for slot in slots}
    places = []
    for name in names:
        for prefix in PREFIXES * 2:
            name = name and name.removeprefix(prefix)
        if name not in known:
            return None
        places.append(known[name])
    return places


def _in_order(slots: Sequence[Slot], tensors: Sequence[Tensor], equal: Any) -> list[Slot] | None:
    matches = len(slots) == len(tensors) and all(map(equal, tensors, slots))
    return list(slots) if matches else None


def _by_value(slots: Sequence[Slot], tensors: Sequence[Tensor], equal: Any) -> list[Slot]:
    places: list[Slot] = []
    for p in tensors:
        candidates = [slot for slot in slots if equal(p, slot)]
        if not candidates:
            raise ValueError(
                "`optimizer` must move the parameters of the objective's model at the objective's point, but "
                f"one of shape {tuple(p.shape)} is none of them, or has other values there; build the "
                "objective anew from the model as it is, with all that the optimizer moves trainable."
            )
        if len(candidates) > 1:
            raise ValueError(
                f"`optimizer` has a parameter of shape {tuple(p.shape)} that may be any of "
                f"{', '.join(s.name for s in candidates)}, which are equal; make it from "
                "model.named_parameters(), whose names it then knows (torch 2.6 or later), or in the order "
                "of model.parameters()."
            )
        places += candidates
    return places
