"""The forward pass of an objective, operation by operation: traced, or followed to see what products take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.objective.batch_norm import STATISTICS, batch_norm_layers
from thalweg.objective.compilation import first_micro_batch
from thalweg.objective.isolation import isolated
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.solvers.symmetries.axes import NotAProduct, size_of
from thalweg.solvers.symmetries.flow import Call, Flow, Pass, Read
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


def activations(micro: MicroBatch, reads: Sequence[Read]) -> list[Tensor]:
    """What products take, in a pass over some examples.

    Parameters
    ----------
    micro
        Examples, at the point to be seen.
    reads
        Of a trace of the same network on other examples.

    Raises
    ------
    ValueError
        If the pass has other products than the one that was traced.
    """
    reader = _Reader(reads)
    with torch.no_grad(), reader:
        micro.losses()
    missing = [read.operation for read in reads if read not in reader.found]
    if missing:
        raise ValueError(
            "`data` must take one path through the network, but examples "
            f"{micro.start} to {micro.stop - 1} do not reach the {missing[0]} that the first ones do."
        )
    return [reader.found[read] for read in reads]


class _Reader(TorchDispatchMode):
    def __init__(self, reads: Sequence[Read]) -> None:
        super().__init__()
        self._wanted: dict[tuple[str, int], list[Read]] = {}
        for read in reads:
            self._wanted.setdefault((read.operation, read.number), []).append(read)
        self._counts: Counter[str] = Counter()
        self.found: dict[Read, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, _name(func)
        for read in self._wanted.get((name, self._counts[name]), ()):
            x = _tensors((args, kwargs))[read.position]
            if x.ndim == len(read.dims) and x.shape[read.dim] == size_of(read.units):
                self.found[read] = x.clone()  # what follows may write to it in place
        self._counts[name] += 1
        return func(*args, **kwargs)


class _Tracer(TorchDispatchMode):
    def __init__(self, state: Pass) -> None:
        super().__init__()
        self.state = state
        self.used: set[str] = set()
        self._counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, _name(func)
        inputs = [self.state.of(t, name) for t in _tensors((args, kwargs))]
        self.used |= {known.name for known in inputs if known.name}
        out = func(*args, **kwargs)
        is_pointwise = torch.Tag.pointwise in func.tags
        call = Call(
            self.state,
            name,
            _arguments(func, args, kwargs),
            inputs,
            _tensors(out),
            is_pointwise,
            self._counts[name],
        )
        self._counts[name] += 1
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
