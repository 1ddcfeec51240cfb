r"""Convolutions whose derivatives, of any order, are sums of convolutions, none of them by noughts.

The form :math:`T(x, w, g) = \langle g, x * w\rangle` is linear in each argument, and so its three partial
derivatives, the output, the slope in the input and the slope in the weight, are bilinear in what is left:

.. math:: \partial_g T = x * w, \qquad \partial_x T = x(g, w), \qquad \partial_w T = w(g, x)

Differentiating one of them gives the other two, or itself at a tangent: the set is closed. Torch's own
rules convolve the tangents that are nought as well, those of the data above all, in layouts that every later
pass must undo, and batch tangents by copying them side by side. On two CPU cores they took a tenth of a
product with one column of the paper's network, and a fifth of one with eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thalweg.operators.layouts import empty_beside

Slots = tuple[str, str]

# Which arguments each partial derivative keeps; it is named for the one that is missing.
KEPT: dict[str, Slots] = {
    "output": ("input", "weight"),
    "input": ("output", "weight"),
    "weight": ("output", "input"),
}


@dataclass(frozen=True)
class Geometry:
    """What besides its tensors makes a convolution; shapes are those of one example and of the weight."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it is a matrix product with the windows of an image."""
        return len(self.stride) == 2 and self.groups == 1


def convolve(
    function: Callable[..., Tensor],
    num_dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    little: int = 0,
) -> Tensor:
    """What torch's `function`, a convolution over `num_dims` dimensions, gives: by `Partial` where it may.

    Activations of up to `little` entries an example are left to torch.
    """

    def each(value: Any) -> tuple[int, ...]:
        given = (int(value),) if isinstance(value, Integral) else tuple(value)
        return given * num_dims if len(given) == 1 else given

    if (
        isinstance(padding, str)
        or input.ndim != num_dims + 2
        or input.is_complex()
        or torch.is_autocast_enabled("cpu")
        or max(input.numel(), input.numel() // input.shape[1] * len(weight)) <= little * len(input)
    ):
        return function(input, weight, bias, stride, padding, dilation, groups)
    geometry = Geometry(
        each(stride), each(padding), each(dilation), groups, tuple(input.shape[1:]), tuple(weight.shape)
    )
    return Partial.apply(geometry, "output", bias, input, weight)


class Partial(torch.autograd.Function):
    """Sum over pairs ``(a, b)`` of one partial derivative of T, plus a bias ``(O,)`` for the output.

    ``apply(geometry, missing, bias, a1, b1, a2, b2, ...)``; what a and b are says `KEPT`.
    """

    @staticmethod
    def forward(*args: Any) -> Tensor:
        geometry, missing, bias, *operands = args
        (a, b), *others = _pairs(operands)
        total = _term(geometry, missing, bias, a, b)
        for a, b in others:
            total += _term(geometry, missing, None, a, b)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.geometry, ctx.missing, _, *operands = inputs
        ctx.shape = output.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Tensor:
        _, _, bias, *tangents = grad_inputs
        moved: list[Tensor] = []
        for (a, b), (a_moved, b_moved) in zip(_pairs(ctx.saved_tensors), _pairs(tangents), strict=True):
            if a_moved is not None:
                moved += [a_moved, b]
            if b_moved is not None:
                moved += [a, b_moved]
        if not moved:
            assert bias is not None
            return _along_channels(bias, len(ctx.shape)).expand(ctx.shape)
        return Partial.apply(ctx.geometry, ctx.missing, bias, *moved)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        (slope,) = grad_outputs
        if slope is None:
            return (None,) * len(needed)
        # The slope stands for the argument that was missing.
        result: list[Tensor | None] = [None, None, _over_channels(slope) if needed[2] else None]
        for i, pair in enumerate(_pairs(ctx.saved_tensors)):
            given = dict(zip(KEPT[ctx.missing], pair, strict=True)) | {ctx.missing: slope}
            for j, wanted in enumerate(KEPT[ctx.missing]):
                if not needed[3 + 2 * i + j]:
                    result.append(None)
                    continue
                a, b = (given[slot] for slot in KEPT[wanted])
                result.append(Partial.apply(ctx.geometry, wanted, None, a, b))
        return tuple(result)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """Tangents side by side where they share the weight, else one after the other: none is copied."""
        geometry, missing, bias, *operands = args
        count, bias_dim = info.batch_size, in_dims[2]
        if missing == "weight" and geometry.is_plain and None not in in_dims[3:]:
            slopes = [
                _weight_slopes(geometry, a.movedim(a_dim, 0), b.movedim(b_dim, 0))
                for (a, b), (a_dim, b_dim) in zip(_pairs(operands), _pairs(in_dims[3:]), strict=True)
            ]
            return torch.stack(slopes).sum(0) if len(slopes) > 1 else slopes[0], 0
        together: list[Tensor] = []
        apart: list[tuple[Tensor, int | None]] = []
        for (a, b), (a_dim, b_dim) in zip(_pairs(operands), _pairs(in_dims[3:]), strict=True):
            if missing != "weight" and a_dim is not None and b_dim is None:
                together += [a.movedim(a_dim, 0).flatten(0, 1), b]
            else:
                apart += [(a, a_dim), (b, b_dim)]
        shared = bias if bias_dim is None else None

        def column(k: int, bias: Tensor | None) -> Tensor:
            own = bias if bias_dim is None or bias is None else bias.select(bias_dim, k)
            some = [t if dim is None else t.select(dim, k) for t, dim in apart]
            return Partial.apply(geometry, missing, own, *some)

        if not together:
            return torch.stack([column(k, bias) for k in range(count)]), 0
        total = Partial.apply(geometry, missing, shared, *together).unflatten(0, (count, -1))
        if apart:
            own = None if bias_dim is None else bias
            total = torch.stack([t + column(k, own) for k, t in enumerate(total)])
        elif bias_dim is not None:
            total = total + _along_channels(bias.movedim(bias_dim, 0), total.ndim - 1)
        return total, 0


def _term(geometry: Geometry, missing: str, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """One partial derivative by torch's kernels."""
    g = geometry
    nought = (0,) * len(g.stride)
    if missing == "output":
        return torch.ops.aten.convolution(
            a, b, bias, g.stride, g.padding, g.dilation, False, nought, g.groups
        )
    rest = (None, g.stride, g.padding, g.dilation, False, nought, g.groups)
    if missing == "input":
        # Only its shape counts, and its strides, which the result takes on.
        like = empty_beside(a, (len(a), *g.input_shape))
        return torch.ops.aten.convolution_backward(a, like, b, *rest, (True, False, False))[0]
    like = a.new_empty(1).expand(g.weight_shape)
    return torch.ops.aten.convolution_backward(a, b, like, *rest, (False, True, False))[1]


def _weight_slopes(geometry: Geometry, slope: Tensor, input: Tensor) -> Tensor:
    """Slopes ``(K, *weight)`` of K batches ``(K, B, ...)`` at once, as matrix products with their windows.

    Kernels for the weight's slope sum over the batch, so that they are called once for each; where a batch
    is one example, that costs several times what the example does.
    """
    g = geometry
    windows = F.unfold(input.flatten(0, 1), g.weight_shape[2:], g.dilation, g.padding, g.stride)
    # Both with the positions last (K B, ., positions).
    products = torch.bmm(slope.flatten(0, 1).flatten(2), windows.transpose(1, 2))
    return products.unflatten(0, slope.shape[:2]).sum(1).view(-1, *g.weight_shape)


def _pairs(flat: Any) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _along_channels(bias: Tensor, ndim: int) -> Tensor:
    """A bias ``(..., O)`` beside outputs of `ndim` dimensions."""
    return bias.view(*bias.shape[:-1], *[1] * (bias.ndim - 1), bias.shape[-1], *[1] * (ndim - 2))


def _over_channels(slope: Tensor) -> Tensor:
    return slope.sum([0, *range(2, slope.ndim)])
