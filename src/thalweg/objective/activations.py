"""How much memory a forward pass writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class _Written(TorchDispatchMode):
    """Adds up the bytes of all results that are not their arguments' own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        new = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in taken]
        self.num_bytes += sum(t.numel() * t.element_size() for t in new)
        return result


def activation_bytes(forward: Callable[[], object]) -> int:
    """Bytes of all that the operations of one pass put out, views and what is changed in place left out.

    Of attention by the plain kernel: which fused one there is depends on the machine, and derivatives take
    none of them.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Written() as written:
        forward()
    return written.num_bytes


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]
