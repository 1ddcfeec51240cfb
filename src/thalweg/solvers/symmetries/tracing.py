"""The forward pass of an objective, traced operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.objective.batch_norm import STATISTICS, batch_norm_layers
from thalweg.objective.compilation import first_micro_batch
from thalweg.objective.isolation import isolated
from thalweg.objective.objective import Objective
from thalweg.solvers.symmetries.axes import NotAProduct
from thalweg.solvers.symmetries.flow import Call, Flow, Pass
from thalweg.solvers.symmetries.rules import apply_rule


def trace(objective: Objective) -> Flow:
    """Which units flow where, on the first micro-batch.

    Frozen parameters stay as they are, and so do buffers other than the statistics of batch norm, and
    parameters that the pass never uses.
    """
    norms = batch_norm_layers(objective.loss.model)
    statistics = {f"{layer}.{name}" for layer in norms for name in STATISTICS}
    params = objective.named_params
    tensors = objective.named_tensors | params
    constants = [name for name in tensors if name not in params and name not in statistics]
    frozen = {k: f"belong to the {'buffer' if k in objective.buffers else 'frozen'} {k}" for k in constants}
    state = Pass(tensors, frozen)
    with isolated(objective.device), torch.no_grad():
        micro = first_micro_batch(objective)
        tracer = _Tracer(state)
        with tracer:
            micro.losses(params)
    for name, axes in state.flow.roots.items():
        if name not in tracer.used:
            state.flow.fix([(axis,) for axis in axes if axis], f"belong to {name}, which is not used")
    return state.flow


class _Tracer(TorchDispatchMode):
    def __init__(self, state: Pass) -> None:
        super().__init__()
        self.state = state
        self.used: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, _name(func)
        inputs = [self.state.of(t, name) for t in _tensors((args, kwargs))]
        self.used |= {known.name for known in inputs if known.name}
        out = func(*args, **kwargs)
        is_pointwise = torch.Tag.pointwise in func.tags
        call = Call(self.state, name, _arguments(func, args, kwargs), inputs, _tensors(out), is_pointwise)
        try:
            apply_rule(call)
        except NotAProduct:
            call.give_up()
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _name(func: Any) -> str:
    """``"relu"``, in place or not."""
    name = func._schema.name.partition("::")[2]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """By the names of the operation's schema, defaults included."""
    schema = func._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()}
    return given | {a.name: value for a, value in zip(schema, args, strict=False)} | dict(kwargs)
