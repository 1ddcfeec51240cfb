"""The derivative rules of our own that stand in for torch's while derivatives are taken, and when."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from thalweg.operators.convolution import convolve
from thalweg.operators.pooling import pool

RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv1d: functools.partial(convolve, torch.conv1d, 1),
    torch.conv2d: functools.partial(convolve, torch.conv2d, 2),
    torch.conv3d: functools.partial(convolve, torch.conv3d, 3),
    torch.max_pool2d: functools.partial(pool, torch.max_pool2d),
    F.max_pool2d: functools.partial(pool, F.max_pool2d),
}


class OwnDerivativeRules(TorchFunctionMode):
    """Within, convolutions and max pooling are differentiated by our rules, which give the same numbers.

    It is calls that are taken, whichever layer makes them. What the rules give the self-check proves, as it
    does what torch's give. For a CPU: an accelerator has more use for large kernels than for warm caches.

    Parameters
    ----------
    little
        Entries of a layer's activations, for each example, up to which it is left to torch. Not for a batch:
        the proof, on few examples, must take the rules that the products take.
    """

    def __init__(self, little: int = 0) -> None:
        super().__init__()
        self.little = little

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # A sub-class of tensors may have rules of its own.
        ours = func in RULES and all(t in (Tensor, nn.Parameter) for t in types)
        if ours:
            return RULES[func](*args, **(kwargs or {}), little=self.little)
        return func(*args, **(kwargs or {}))
