"""Which kernels may run while derivatives are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Keep to kernels that have every derivative; the switches are put back as they were.

    Fused attention has no forward derivative, and in eval mode torch's encoder layers leave autograd
    altogether for a fast path; the plain kernels compute the same numbers.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
