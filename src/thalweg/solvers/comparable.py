"""Whether two objectives are points of one function: only then does a path between them mean anything."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

# What must agree in `Objective.describe`, and what to do where it does not.
_REMEDIES = {
    "loss": "give both the same loss",
    "batch_norm": "give both the same mode",
    "weight_decay": "give both the same L2 term",
    "dtype": "convert one with `to_dtype`",
    "device": "move one of the networks",
    "num_examples": "give both the same data",
    "data": "give both the same data, in the same order",
    "calibration_data": "give both the same calibration data",
}


def check_comparable(a: Objective, b: Objective) -> None:
    """Raise unless `a` and `b` differ in nothing but their point, as far as can be told without evaluating.

    Raises
    ------
    TypeError, ValueError
        Naming the first thing that differs.
    """
    for name, objective in (("a", a), ("b", b)):
        check_objective(name, objective)
    if a.space != b.space:
        raise ValueError(
            f"`a` and `b` must have the same trainable parameters, but {_space_difference(a, b)}; a path "
            "joins networks of one architecture."
        )
    check_same_setting(a, b, "must be points of one function")
    _check_buffers(a, b)
    # Moved to one point, the hashes of all their parameters differ by the frozen ones alone.
    if a.at(b.params).describe()["params"] != b.describe()["params"]:
        raise ValueError(
            "`a` and `b` must have the same frozen parameters (requires_grad=False), but theirs differ, and "
            "a path does not move them; make them trainable, or copy them from one network to the other."
        )


def check_same_setting(a: Objective, b: Objective, requirement: str) -> None:
    """Raise unless data, loss, mode and precision agree, whatever the networks.

    Parameters
    ----------
    a, b
        Objectives.
    requirement
        What the message says that `a` and `b` must be.
    """
    first, second = a.describe(), b.describe()
    remedies = dict(_REMEDIES)
    if a.batch_norm == "batch" and (a.has_batch_norm or b.has_batch_norm):
        remedies["batch_size"] = (
            "in 'batch' mode the partition is part of the function, so give both the same"
        )
    if a.has_batch_norm != b.has_batch_norm:
        del remedies["calibration_data"]  # only one of them has any use for it
    for key, remedy in remedies.items():
        if first.get(key) != second.get(key):
            raise ValueError(
                f"`a` and `b` {requirement}, but their {key} differs: {first.get(key)!r} "
                f"in `a` and {second.get(key)!r} in `b`; {remedy}."
            )


def check_same_losses(through_a: Tensor, through_b: Tensor) -> None:
    """Raise unless the example losses ``(N,)`` of one point are the same through the models of `a` and `b`.

    This finds what no shape shows: another activation, mask or epsilon.
    """
    # Rounding may differ where the models lay tensors out differently; another function differs by more.
    tolerance = math.sqrt(torch.finfo(through_a.dtype).eps) * max(1.0, float(through_b.abs().max()))
    gap = float((through_a - through_b).abs().max())
    if not gap <= tolerance:
        raise ValueError(
            "`a` and `b` must be points of one function, but the parameters of `b` give other losses through "
            f"the model of `a` than through its own (by up to {gap:.3g} an example); the models differ in "
            "something that is neither parameter nor floating buffer, such as an activation, a mask or an "
            "epsilon."
        )


def _space_difference(a: Objective, b: Objective) -> str:
    ours, theirs = ({slot.name: tuple(slot.shape) for slot in o.space} for o in (a, b))
    for name, shape in ours.items():
        if name not in theirs:
            return f"{name} {shape} of `a` is missing in `b`"
        if theirs[name] != shape:
            return f"{name} has shape {shape} in `a` and {theirs[name]} in `b`"
    for name, shape in theirs.items():
        if name not in ours:
            return f"{name} {shape} of `b` is missing in `a`"
    return f"they come in different orders, {', '.join(ours)} and {', '.join(theirs)}"


def _check_buffers(a: Objective, b: Objective) -> None:
    if a.buffers.keys() != b.buffers.keys():
        odd = ", ".join(sorted(a.buffers.keys() ^ b.buffers.keys()))
        raise ValueError(f"`a` and `b` must have the same floating buffers, but only one has {odd}.")
    for name, buffer in a.buffers.items():
        if buffer.shape != b.buffers[name].shape:
            raise ValueError(
                f"`a` and `b` must have floating buffers of the same shapes, but {name} has "
                f"{tuple(buffer.shape)} in `a` and {tuple(b.buffers[name].shape)} in `b`."
            )
