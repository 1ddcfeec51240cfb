"""What becomes of memory that torch frees on a CPU."""

from __future__ import annotations

import ctypes
import os
from functools import cache

# mallopt's names, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

MMAP_THRESHOLD = 2**30
TRIM_THRESHOLD = 2**31 - 1

# A user who has set one of these has chosen.
ENVIRONMENT = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, up to 2 GiB, instead of giving it back; once a process.

    Every tensor of more than 32 MiB is otherwise mapped afresh, and the kernel clears its pages one by one:
    measured on products of the paper's network, a third of the time for two columns and two thirds for
    eight. Numbers are not touched. Does nothing without glibc (macOS, Windows, musl), or where the
    environment already sets malloc's thresholds, ``MALLOC_TRIM_THRESHOLD_=131072`` say.

    Returns
    -------
    Whether both thresholds were set.
    """
    if any(name in os.environ for name in ENVIRONMENT) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD))
