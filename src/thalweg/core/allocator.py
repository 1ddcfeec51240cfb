"""What becomes of memory that torch frees on a CPU."""

from __future__ import annotations

import ctypes
import os
from functools import cache

# mallopt's names, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

MMAP_THRESHOLD = 2**30
OLD_MMAP_THRESHOLD = 2**25
TRIM_THRESHOLD = 2**31 - 1

# A user who has set one of these has chosen.
ENVIRONMENT = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep what is freed instead of giving it back to the system; once a process, for all of it.

    Large tensors are otherwise mapped afresh, and the kernel clears their pages one by one: measured on the
    paper's network, half of the time of recalibrated evaluations, a third of that of Hessian products with
    two columns, two thirds with eight. Numbers are not touched, and at its peak the process holds hardly
    more; between peaks it holds up to 2 GiB and what lies scattered. Does nothing without glibc (macOS,
    Windows, musl), or where the environment sets malloc's thresholds: ``MALLOC_TRIM_THRESHOLD_=131072``
    opts out.

    Returns
    -------
    Whether the thresholds were set.
    """
    if any(name in os.environ for name in ENVIRONMENT) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # Before 2.35 glibc takes no more than 32 MiB.
    mapped = any(mallopt(M_MMAP_THRESHOLD, size) for size in (MMAP_THRESHOLD, OLD_MMAP_THRESHOLD))
    return bool(mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)) and mapped
