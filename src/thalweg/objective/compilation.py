"""Whether evaluations are compiled: by a rule on the size of the work, or by hand.

``torch.compile`` fuses what lies between the convolutions: a forward pass of the paper's network takes less
than half as long. Compiling takes seconds, so it pays for long work only. The rule counts floating-point
operations, never seconds: the same call compiles, or does not, on every machine. It asks for compilation on a
CPU alone, where it was measured.

Batch norm with given statistics is folded into the weights of the layer before it, where torch finds that
nothing else looks at that layer's output. Else the kernel would go over all activations once more, and divide
by the square root of the variance at each: a fifth of a pass.

A compiled pass is not believed either: it has to agree with the eager one on the first micro-batch. A folded
one has to at a second point, too, where no bias or mean is zero and no two channels are alike: torch 2.13
drops the bias of a convolution that gets it by keyword, and scales along the wrong dimension after a dense
layer over sequences, neither of which need show at a network's own point.

Derivatives are never compiled. With torch 2.13 a compiled `vmap` of `jvp(grad)` saved a quarter of the time,
but through batch statistics it was wrong by a factor of a hundred, and on a residual network it read memory
that was not its own and took the process down, which no comparison can catch.
"""

from __future__ import annotations

import itertools
import types
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from thalweg.core.rng import generator, normal
from thalweg.objective.isolation import isolated
from thalweg.objective.micro_batch import cut

if TYPE_CHECKING:
    from thalweg.objective.micro_batch import MicroBatch
    from thalweg.objective.objective import Objective

# Work for which compiling pays, in operations of the eager pass: some ten times what the compiler's own time
# is worth at 1e11 a second.
LEAST_FLOPS = 5e12

# Largest difference between compiled and eager over the largest entry, in units of the precision.
ROUNDING = 1e4

# torch's option for it.
FOLDING = "efficient_conv_bn_eval_fx_passes"

_numbers = itertools.count()

EAGER, COMPILED = "eager", "torch.compile"


def check_compile(asked: Any) -> bool | str:
    """`asked`, if it is one of the choices."""
    if not isinstance(asked, bool) and asked != "auto":
        raise ValueError(f"`compile` must be True, False or 'auto', got {asked!r}.")
    return asked


def first_micro_batch(objective: Objective) -> MicroBatch:
    """Of the usual size, which all but the last have."""
    return cut(objective, objective._examples, 0, objective.micro_batch)


def forward_flops(objective: Objective) -> float:
    """Floating-point operations of one forward pass over the data (products and convolutions).

    Counted once for each network and shape of a micro-batch: counting takes a pass of its own, by rules in
    Python, and every evaluation asks.
    """
    micro, known = first_micro_batch(objective), objective._network.flops
    shapes = tuple(leaf.shape for leaf in pytree.tree_leaves(micro.batch) if isinstance(leaf, Tensor))
    if shapes not in known:
        with isolated(objective.device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            # With the buffers as they are: recalibrated ones would be counted, too, unless they were known.
            objective._forward(micro.batch, None, objective.buffers)
        known[shapes] = counter.get_total_flops()
    return known[shapes] * objective.num_examples / micro.size


def is_compiled(objective: Objective, num_forwards: float) -> bool:
    """What the objective asks, or the rule: does work worth so many passes over the data pay for it?"""
    if isinstance(objective.compile, bool):
        return objective.compile
    return objective.device.type == "cpu" and forward_flops(objective) * num_forwards >= LEAST_FLOPS


def compiled(
    function: Callable[..., Any], *example: Any, elsewhere: Sequence[Any] | None = None
) -> tuple[Callable[..., Any], str]:
    """`function` compiled for arguments of these very shapes, and how it is run, for the provenance.

    Where compiling fails (no compiler on this machine, code it cannot read) or changes the result beyond
    rounding, it is the function itself, and the second value says why. Given other arguments `elsewhere`,
    with which the result has to agree as well, batch norm is folded; if that fails, it is compiled unfolded.
    """
    if elsewhere is not None:
        fast, failure = _attempt(function, [example, elsewhere], {FOLDING: True})
        if failure is None:
            return fast, COMPILED
    fast, failure = _attempt(function, [example])
    return (function, f"{EAGER} ({failure})") if failure else (fast, COMPILED)


def _attempt(
    function: Callable[..., Any], examples: Sequence[Sequence[Any]], options: dict[str, Any] | None = None
) -> tuple[Callable[..., Any], str | None]:
    """`function` compiled, and what is wrong with it."""
    try:
        fast = torch.compile(_with_own_code(function), dynamic=False, fullgraph=True, options=options)
        for example in examples:
            expected = pytree.tree_leaves(function(*example))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = pytree.tree_leaves(fast(*example))
            if not all(_agree(a, b) for a, b in zip(found, expected, strict=True)):
                return function, "compiled, the result was another"
    except Exception as error:
        return function, f"compiling raised {type(error).__name__}"
    return fast, None


def away(tensors: Mapping[str, Tensor], buffers: Container[str]) -> dict[str, Tensor]:
    """The same names at a point in general position; what is in `buffers` grows, so that variances stay so.

    Each tensor is moved by a third of its root mean square, or by a tenth where it is zero.
    """
    moved = {}
    for name, tensor in tensors.items():
        moved[name] = tensor
        if tensor.is_floating_point() and bool(tensor.isfinite().all()):
            step = normal(generator(0, "compilation", name), *tensor.shape, like=tensor)
            size = float(tensor.square().mean().sqrt()) / 3 or 0.1
            moved[name] = tensor + size * (step.abs() if name in buffers else step)
    return moved


def _with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function on a code object of its own.

    The compiler keeps its work with the code, and gives up on code it has compiled eight times: the many
    networks of a study would run into that.
    """

    def call(*args: Any) -> Any:
        return function(*args)

    code = call.__code__.replace(co_name=f"call_{next(_numbers)}")
    return types.FunctionType(code, call.__globals__, code.co_name, None, call.__closure__)


def _agree(found: Any, expected: Any) -> bool:
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        return True
    scale = expected.abs().max().clamp(min=1e-30)
    return bool((found - expected).abs().max() <= ROUNDING * torch.finfo(expected.dtype).eps * scale)
