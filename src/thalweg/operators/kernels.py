"""Which kernels may run while derivatives are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Keep to kernels that have every derivative; the switches are put back as they were.

    Fused attention has no forward derivative; the plain kernel computes the same numbers. Attention's fast
    path, which leaves autograd altogether, every evaluation keeps off (`thalweg.objective.isolation`).
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield
