"""Whether a model runs in float64, and whether it stays there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.slope_comparison import OUT_OF_MEMORY, Claim


def in_float64(own: Objective, claim: Claim) -> Objective | None:
    """The same objective in float64, or ``None`` where model or device refuse."""
    if own.dtype == torch.float64:
        return own
    if own.device.type == "mps":
        return None
    try:
        precise = own.to_dtype(torch.float64)
        precise.value()
        finite = bool(torch.isfinite(claim.gradient_at(precise)).all())
    except OUT_OF_MEMORY:
        raise
    except Exception:
        return None  # the model fixes a dtype inside
    return precise if finite else None


class _NotesRounding(TorchDispatchMode):
    """Notes whether an operation made lower precision out of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.float64 in _floating_dtypes((args, kwargs)):
            self.seen |= bool(_floating_dtypes(result) - {torch.float64})
        return result


def _floating_dtypes(tree: Any) -> set[torch.dtype]:
    tensors = [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]
    return {t.dtype for t in tensors if t.is_floating_point()}


def rounds_inside(precise: Objective) -> bool:
    """Whether the model, given float64, rounds to less on the way."""

    def rounds(micro: MicroBatch) -> Tensor:
        with _NotesRounding() as rounding:
            micro.loss_sum()
        return torch.tensor(int(rounding.seen))

    with torch.no_grad():
        return bool(precise.reduce(rounds))
