"""A watch over what folded layers put out: it must go to their batch norms, unchanged, and nowhere else."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

# What may be asked of a tensor without using what is in it; properties besides, if they are no tensors.
METADATA = ("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point")


class OtherUseError(Exception):
    """A folded layer is used in another way than where the folding was found."""


class FoldingGuard(TorchFunctionMode):
    """Within, a folded layer puts out a stand-in, which nobody may use but its batch norm, who trades it in.

    A model may take another branch on a later batch. That nothing but the batch norm sees what the layer puts
    out must therefore hold in every pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, tuple[weakref.ref[Tensor], Tensor]] = {}
        self._stand_ins: dict[int, weakref.ref[Tensor]] = {}

    def put_out(self, name: str, output: Tensor) -> Tensor:
        """The stand-in for what the layer before the batch norm of that name puts out."""
        if name in self._waiting:
            raise OtherUseError(f"what goes into {name!r} was put out twice, and not taken in between")
        stand_in = output.view_as(output)
        self._waiting[name] = weakref.ref(stand_in), output
        self._stand_ins[id(stand_in)] = self._waiting[name][0]
        return stand_in

    def take_in(self, name: str, input: Tensor) -> Tensor:
        """What the stand-in, given to the batch norm of that name, stands for."""
        expected, output = self._waiting.pop(name, (lambda: None, input))
        if expected() is not input:
            raise OtherUseError(f"{name!r} takes what its layer did not put out")
        return output

    def finish(self) -> None:
        """After a pass: everything must have been taken."""
        if self._waiting:
            raise OtherUseError(f"{next(iter(self._waiting))!r} did not take what its layer put out")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._stand_ins and (self._is_among(args) or (kwargs and self._is_among(kwargs.values()))):
            is_property = func.__name__ == "__get__" and not isinstance(result, Tensor)
            if not is_property and func.__name__ not in METADATA:
                raise OtherUseError(f"what a folded layer puts out goes to {func.__name__}, too")
        return result

    def _is_among(self, values: Iterable[Any]) -> bool:
        for value in values:
            if isinstance(value, Tensor):
                stand_in = self._stand_ins.get(id(value))
                if stand_in is not None and stand_in() is value:
                    return True
            elif isinstance(value, list | tuple) and self._is_among(value):
                return True
        return False
