"""Max pooling whose derivatives, of any order, keep the layout of what they pool.

It picks entries, and its slope is the picking of the tangent's; the transpose of picking puts them back.
Either differentiates to itself and the other. Torch's own rules pick into another layout, which the next
layer must undo, and put tangents back side by side with a copy of the indices for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from thalweg.operators.layouts import empty_beside, is_channels_last


@dataclass(frozen=True)
class Windows:
    """What besides its input makes a pooling; the shape is that of one example."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    input_shape: tuple[int, ...]


def pool(
    function: Callable[..., Tensor],
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    *,
    little: int = 0,
    **others: Any,
) -> Any:
    """What torch's `function`, ``max_pool2d``, gives: by `MaxPool` for batches of images.

    Those of up to `little` entries each are left to torch.
    """
    stride = kernel_size if stride is None else stride
    if input.ndim != 4 or any(others.values()) or input.numel() <= little * len(input):
        return function(input, kernel_size, stride, padding, dilation, ceil_mode, **others)
    windows = Windows(
        _pair(kernel_size), _pair(stride), _pair(padding), _pair(dilation), ceil_mode, tuple(input.shape[1:])
    )
    return MaxPool.apply(windows, input)[0]


class MaxPool(torch.autograd.Function):
    """``apply(windows, input (B, C, H, W))``: the largest of each window, and where in H W it is."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        w, input = args
        return torch.ops.aten.max_pool2d_with_indices(
            input, w.kernel_size, w.stride, w.padding, w.dilation, w.ceil_mode
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.windows = inputs[0]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> tuple[Tensor, None]:
        return Chosen.apply(ctx.windows, False, grad_inputs[1], *ctx.saved_tensors), None

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, Tensor | None]:
        slope = grad_outputs[0]
        if slope is None:
            return None, None
        return None, Chosen.apply(ctx.windows, True, slope, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        windows, input = args
        together = input.movedim(in_dims[1], 0)
        found = MaxPool.apply(windows, together.flatten(0, 1))
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in found), (0, 0)


class Chosen(torch.autograd.Function):
    """``apply(windows, back, entries, index)``: those at the index, or, `back`, the transpose of that."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        w, back, entries, index = args
        if back:
            like = empty_beside(entries, (len(entries), *w.input_shape))
            return torch.ops.aten.max_pool2d_with_indices_backward(
                entries, like, w.kernel_size, w.stride, w.padding, w.dilation, w.ceil_mode, index
            )
        # Into a tensor of its own, no view: the next layer may work in place.
        some = empty_beside(entries, index.shape)
        last = is_channels_last(entries)
        torch.gather(_flat(entries, last), -2 if last else -1, _flat(index, last), out=_flat(some, last))
        return some

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.windows, ctx.back, _, index = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index)
        ctx.save_for_forward(index)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Tensor:
        return Chosen.apply(ctx.windows, ctx.back, grad_inputs[2], *ctx.saved_tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, None, Tensor | None, None]:
        (slope,) = grad_outputs
        if slope is None:
            return None, None, None, None
        return None, None, Chosen.apply(ctx.windows, not ctx.back, slope, *ctx.saved_tensors), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Tensor, int]:
        windows, back, entries, index = args
        entries_dim, index_dim = in_dims[2:]
        if index_dim is None:
            # One after the other they share the index, and each stays in the cache.
            columns = entries.movedim(entries_dim, 0)
            return torch.stack([Chosen.apply(windows, back, column, index) for column in columns]), 0
        if entries_dim is None:
            entries = entries.expand(info.batch_size, *entries.shape)
        else:
            entries = entries.movedim(entries_dim, 0)
        index = index.movedim(index_dim, 0)
        together = Chosen.apply(windows, back, entries.flatten(0, 1), index.flatten(0, 1))
        return together.unflatten(0, (info.batch_size, -1)), 0


def _pair(value: Any) -> tuple[int, ...]:
    return (int(value), int(value)) if isinstance(value, Integral) else tuple(value)


def _flat(t: Tensor, channels_last: bool) -> Tensor:
    """``(B, C, H, W)`` as ``(B, H W, C)`` or ``(B, C, H W)``, without a copy where that is how it lies."""
    return t.permute(0, 2, 3, 1).flatten(1, 2) if channels_last else t.flatten(2)
