"""Freed memory stays, unless the user has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from thalweg.core import allocator

# The file by itself: the package would import torch, for seconds.
FAULTS = """
import resource, runpy, sys
import numpy as np

keep_freed_memory = runpy.run_path(sys.argv[2])["keep_freed_memory"]
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
np.ones(2**21)  # 16 MiB, which any glibc may be told to keep
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**21)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str, **environment: str) -> tuple[str, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how, allocator.__file__],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    answer, faults = done.stdout.split()
    return answer, int(faults)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's allocator only")
def test_freed_memory_is_not_mapped_again() -> None:
    answer, kept = run("keep")
    assert answer == "True"
    # Huge pages make a fault cover up to 2 MiB; even then ten arrays need more than one array's worth.
    assert kept * 5 < run("leave")[1]


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}]
)
def test_a_users_own_setting_stands(environment: dict[str, str]) -> None:
    assert run("keep", **environment)[0] == "False"
