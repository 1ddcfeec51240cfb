"""Processes that are killed outright in the middle of their work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill outright")


def killed(command: Sequence[str], is_time: Callable[[], bool], cwd: Path | None = None) -> None:
    """Start Python with these arguments and kill it once it is time, which has to come before it ends."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], env=environment, cwd=cwd)
    try:
        deadline = time.monotonic() + 500
        while not is_time():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL


def files(folder: Path) -> dict[Path, int]:
    """The whole files of a store and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
