"""The example of `docs/distributed.md`, started as the page says."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs_page import DOCS, run_program

TEXT = (DOCS / "distributed.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)


def by_torchrun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two ranks, by the page's own command."""
    (folder / "measure.py").write_text(PROGRAM)
    assert "torchrun --nproc-per-node 2 measure.py" in TEXT
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "measure.py"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_the_only_rank(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """In this process, which is told what `torchrun` tells each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    told = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))
    return run_program(PROGRAM, folder)


# Two ranks by `torchrun` are those of `tests/cli/test_ranks.py`, too.
@pytest.mark.parametrize("started", [as_the_only_rank, pytest.param(by_torchrun, marks=pytest.mark.slow)])
def test_the_example_runs(started, tmp_path, monkeypatch) -> None:
    printed = started(tmp_path, monkeypatch)
    assert printed.startswith("HessianTrace(")
    assert printed.count("HessianTrace(") == 1
