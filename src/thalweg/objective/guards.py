"""What an objective refuses, each refusal with its remedy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from thalweg.core.errors import NonFiniteLossError

if TYPE_CHECKING:
    from thalweg.objective.objective import Objective


def check_point(params: Tensor, dim: int) -> None:
    if params.shape != (dim,):
        raise ValueError(
            f"`params` must have shape ({dim},), one entry a trainable parameter, got {tuple(params.shape)}."
        )


def check_dtype(dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        raise ValueError(f"`dtype` must be a floating one such as torch.float64, got {dtype}.")


# Classes whose modules hold shards of their parameters, by name: torch.distributed need not be there.
SHARDED = {"FullyShardedDataParallel", "FSDPModule"}


def unwrapped(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    # Wrappers around the user's own network: compiled, data parallel.
    while type(model).__name__ in ("OptimizedModule", "DataParallel", "DistributedDataParallel"):
        model = getattr(model, "_orig_mod", None) or model.module  # type: ignore[assignment]
    scripted = [k for k, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        # Their batch norm cannot be told apart, nor their parameters swapped.
        raise TypeError(
            f"`model` must not hold TorchScript modules, got one at {scripted[0]!r}; pass the module it was "
            "scripted from."
        )
    # Each rank holds a part of every parameter only.
    sharded = [k for k, m in model.named_modules() if SHARDED & {c.__name__ for c in type(m).__mro__}]
    if sharded:
        raise TypeError(
            f"`model` must hold its parameters whole, but {sharded[0]!r} is sharded (FSDP); gather its full "
            "state dict into a plain model and pass that."
        )
    # Shapes are unknown until a first pass.
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [k for k, t in tensors if nn.parameter.is_lazy(t)]
    if lazy:
        raise ValueError(
            f"`model` has tensors without a shape yet ({', '.join(lazy)}); run one forward pass first."
        )
    return model


def refuse_default_device() -> None:
    device = torch.get_default_device()
    if device.type != "cpu":
        raise ValueError(
            f"`torch.set_default_device` must be left at the CPU while anything is measured, got {device}: "
            "random numbers are drawn there, so that every device sees the same. Move the model instead, by "
            f"model.to({str(device)!r}); an Objective follows it."
        )


def refuse_active_dropout(model: nn.Module) -> None:
    for name, module in model.named_modules():
        rate = module.p if isinstance(module, _DropoutNd) else 0.0
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            rate = module.dropout
        if module.training and rate > 0:
            raise ValueError(
                f"`model` must not have dropout that is on, but layer {name!r} drops with p = {rate}: the "
                "loss would be random. Call model.eval() first; batch norm follows `batch_norm` whatever "
                "that flag says."
            )


def refuse_batch_of_one(num_examples: int, batch_size: int) -> None:
    if num_examples % batch_size == 1 or batch_size == 1:
        raise ValueError(
            f"`batch_size` must leave no batch of one in 'batch' mode, got {batch_size} for {num_examples} "
            "examples, whose last batch has one: it has no variance. Choose another batch size, or drop an "
            "example."
        )


def refuse_mixed_parameters(model: nn.Module) -> None:
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not sum(p.numel() for p in trainable):
        raise ValueError("`model` must have at least one parameter with requires_grad=True, got none.")
    kinds = {(p.dtype, p.device) for p in trainable}
    if len(kinds) > 1 or not trainable[0].is_floating_point():
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(
            f"`model` must keep its trainable parameters in one floating dtype on one device, got {found}; "
            "convert it with model.to(...), or freeze the odd ones."
        )


def check_index(index: Tensor, num_examples: int) -> None:
    if index.ndim != 1 or index.dtype not in (torch.int64, torch.int32) or not len(index):
        raise ValueError(
            f"`index` must be whole numbers (n,), n >= 1, got {index.dtype} of shape {tuple(index.shape)}."
        )
    if int(index.min()) < 0 or int(index.max()) >= num_examples:
        raise ValueError(
            f"`index` must name examples from 0 to {num_examples - 1}, "
            f"got {int(index.min())} to {int(index.max())}."
        )


def checked_weights(weights: Tensor | None, num_examples: int) -> Tensor | None:
    """In float64 on the CPU, one an example."""
    if weights is None:
        return None
    if weights.shape != (num_examples,) or not weights.is_floating_point():
        raise ValueError(
            f"`weights` must be one floating number an index, ({num_examples},), "
            f"got {weights.dtype} of shape {tuple(weights.shape)}."
        )
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError("`weights` must be finite and not negative.")
    return weights.cpu().double()


def finite_gradient(objective: Objective, gradient: Tensor) -> Tensor:
    """The gradient ``(P,)``, or the error that names the batch, where the loss itself is at fault."""
    if not bool(gradient.isfinite().all()):
        objective.value()
        raise NonFiniteLossError(
            "the gradient is not finite although the loss is; see the layers' derivatives."
        )
    return gradient


def check_buffers(given: Mapping[str, Tensor], own: Mapping[str, Tensor], computed: Collection[str]) -> None:
    """Raise unless each buffer is one of `own`, or is computed anyway and would be ignored."""
    for name, buffer in given.items():
        if name in own:
            if buffer.shape != own[name].shape:
                raise ValueError(
                    f"`buffers` must keep the shapes: {name!r} has {tuple(own[name].shape)}, "
                    f"got {tuple(buffer.shape)}."
                )
        elif name not in computed:
            raise ValueError(
                f"`buffers` must name the model's floating buffers, got {name!r}; they are "
                f"{', '.join(own) or 'none'}."
            )
