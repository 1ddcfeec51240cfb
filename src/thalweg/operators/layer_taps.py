r"""Lengths of single examples' gradients by one pass over a batch, where no gradient need be formed.

Of a layer that multiplies, :math:`y_p = W a_p + b` at positions p, an example's gradient is
:math:`G = \sum_p \delta_p a_p^\top` with :math:`\delta` the slope of its loss in y. One reverse pass gives
:math:`\delta` of all examples; then

.. math:: \lVert G \rVert^2 = \sum_{p, q} (\delta_p \cdot \delta_q)(a_p \cdot a_q), \qquad
   \langle G, M \rangle = \sum_p \delta_p^\top M a_p,

which for a dense layer, of one position, is the product of two lengths (Goodfellow 2015). Where positions are
many and G small, as of a convolution, G is formed instead. Scale and shift of a normalisation have the sums
of :math:`\delta` times what is scaled. It takes half of the time that forming all gradients does, for
networks all of whose parameters are in such layers, each used once; the caller proves it.

References
----------
Goodfellow (2015), arXiv:1510.01799. Rochette, Manoel and Tramel (2019), arXiv:1912.06015: convolutions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from thalweg.objective.micro_batch import MicroBatch
from thalweg.operators.jacobians import Named

# The squared length ``(B,)`` of each example's gradient, and its products ``(B, J)`` with J vectors.
Lengths = tuple[Tensor, Tensor]


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None: ...


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None: ...


# Functions that use parameters as layers do, by what binds their arguments: torch's own have no signature.
SIGNATURES: dict[Callable[..., Any], inspect.Signature] = {
    F.linear: inspect.signature(_linear),
    torch.conv2d: inspect.signature(_conv2d),
    **{f: inspect.signature(f) for f in (F.batch_norm, F.layer_norm, F.group_norm)},
}


@dataclass(frozen=True)
class Tap:
    """One call of a layer: what it was given, by the names of its arguments, and what it put out."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    output: Tensor
    names: dict[str, str]  # of the parameters, by those of the arguments

    def lengths(self, slope: Tensor, along: Sequence[Named]) -> Lengths:
        """Of the layer's parameters, from the loss's slope in what it put out."""
        found = []
        for argument, name in self.names.items():
            matrices = [named[name] for named in along]
            if argument == "weight" and self.function in (F.linear, torch.conv2d):
                found.append(_of_products(*self._positions(slope), [m.flatten(1) for m in matrices]))
            else:
                found.append(_of_sums(self._slopes(argument, slope), matrices))
        squares, products = zip(*found, strict=True)
        return torch.stack(squares).sum(0), torch.stack(products).sum(0)

    def _positions(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes ``(B, O, L)`` and what the weight multiplies ``(B, D, L)`` at L positions."""
        a = self.arguments
        if self.function is F.linear:
            pair = (t.reshape(len(t), -1, t.shape[-1]).transpose(1, 2) for t in (slope, a["input"]))
            return next(pair), next(pair)
        windows = F.unfold(a["input"], a["weight"].shape[2:], a["dilation"], a["padding"], a["stride"])
        return slope.flatten(2), windows

    def _slopes(self, argument: str, slope: Tensor) -> Tensor:
        """Each example's gradient ``(B, entries)`` of a shift, or of a scale."""
        if argument == "weight":
            plain = {**self.arguments, "weight": None, "bias": None}
            slope = slope * self.function(**plain)
        if self.function is F.linear:
            return slope.reshape(len(slope), -1, slope.shape[-1]).sum(1)
        if self.function is F.layer_norm:
            shape = self.arguments["weight"].shape
            return slope.reshape(len(slope), -1, shape.numel()).sum(1)
        return slope.reshape(*slope.shape[:2], -1).sum(2)


class LayerTaps(TorchFunctionMode):
    """Within, calls of layers with these parameters are noted.

    Attributes
    ----------
    taps
        The calls.
    is_complete
        Whether all parameters were used, each in one call of a layer that is known.
    """

    def __init__(self, params: Named) -> None:
        super().__init__()
        self.taps: list[Tap] = []
        self._names = {id(p): name for name, p in params.items()}
        self._other_use = False

    @property
    def is_complete(self) -> bool:
        used = sorted(name for tap in self.taps for name in tap.names.values())
        return not self._other_use and used == sorted(self._names.values())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        used = [t for t in pytree.tree_leaves((args, kwargs)) if id(t) in self._names]
        if not used:
            return output
        if func not in SIGNATURES:
            self._other_use = True
            return output
        bound = SIGNATURES[func].bind(*args, **kwargs)
        bound.apply_defaults()
        a = bound.arguments
        names = {key: self._names[id(a[key])] for key in ("weight", "bias") if id(a.get(key)) in self._names}
        is_odd = a.get("groups", 1) != 1 or isinstance(a.get("padding"), str) or a.get("training", False)
        self._other_use |= (
            len(names) < len(used) or is_odd or a["input"].ndim < 2 + (func is torch.conv2d) * 2
        )
        # The slope is asked for in what the first layer puts out, too, which depends on nothing that varies.
        self.taps.append(Tap(func, a, output if output.requires_grad else output.requires_grad_(), names))
        return output


def tapped_lengths(micro: MicroBatch, along: Sequence[Named]) -> Lengths | None:
    """Of the gradients of the examples of a micro-batch; None where the network has other parameters.

    Parameters
    ----------
    micro
        B examples.
    along
        J vectors, by the names of the parameters.
    """
    params = {k: p.detach() for k, p in micro.objective.named_params.items()}
    with torch.enable_grad(), LayerTaps(params) as taps:
        total = micro.loss_sum(params)
    if not taps.is_complete:
        return None
    slopes = torch.autograd.grad(total, [tap.output for tap in taps.taps])
    with torch.no_grad():
        found = [tap.lengths(slope, along) for tap, slope in zip(taps.taps, slopes, strict=True)]
    squares, products = zip(*found, strict=True)
    return torch.stack(squares).sum(0), torch.stack(products).sum(0)


def _of_products(slope: Tensor, input: Tensor, matrices: Sequence[Tensor]) -> Lengths:
    """Of the weights' gradients, sums of products over the positions."""
    (_, O, L), D = slope.shape, input.shape[1]  # noqa: E741 - outputs
    if L * (O + D) >= O * D:
        return _of_sums(torch.bmm(slope, input.transpose(1, 2)), matrices)
    squares = (torch.bmm(slope.transpose(1, 2), slope) * torch.bmm(input.transpose(1, 2), input)).sum((1, 2))
    rows, slopes = input.transpose(1, 2), slope.transpose(1, 2)
    return squares, torch.stack([(F.linear(rows, m) * slopes).sum((1, 2)) for m in matrices], 1)


def _of_sums(gradients: Tensor, matrices: Sequence[Tensor]) -> Lengths:
    """Of gradients that are there."""
    rows = gradients.flatten(1)
    along = torch.stack([m.flatten() for m in matrices], 1)
    return torch.linalg.vector_norm(rows, dim=1).square(), rows @ along
