"""The command under `torchrun`: one result, one complaint, whatever the number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.cli.test_measure import thalweg

from thalweg.cli.ranks import COMPLAINT, Ranks

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()

def data():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(50, 6, generator=rng).double(), torch.randint(0, 3, (50,), generator=rng)

def broken():
    x, y = data()
    x[49] = float("nan")
    return x, y
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return tmp_path


def arguments(data: str, mode: str) -> list[str]:
    options = ["--model", "own:build", "--data", f"own:{data}", "--batch-norm", mode]
    options += ["--micro-batch", "8", "--dtype", "float64", "--device", "cpu", "--json"]
    return ["measure", "hessian_trace", *options]


def measure(folder: Path, data: str, mode: str) -> subprocess.CompletedProcess[str]:
    """The command in two processes of `torchrun`."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    program = [sys.executable, "-m", *launcher, "thalweg", *arguments(data, mode)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=3000)


def test_torchrun_prints_the_result_of_one_process_once(folder):
    shared = measure(folder, "data", "recalibrated")
    alone = thalweg(folder, *arguments("data", "recalibrated"))
    assert shared.returncode == alone.returncode == 0, shared.stderr + alone.stderr
    (line,) = [line for line in shared.stdout.splitlines() if line]
    found, expected = json.loads(line), json.loads(alone.stdout)
    assert found["value"] == pytest.approx(expected["value"], rel=1e-10)
    assert found["provenance"] == expected["provenance"]


def test_an_error_is_told_once_and_ends_all(folder):
    done = measure(folder, "broken", "running")
    assert done.returncode == 1
    assert done.stdout == ""
    complaints = [line for line in done.stderr.splitlines() if line.startswith("thalweg:")]
    assert complaints == [
        "thalweg: the loss is not finite: example 49, in the batch of examples 48 to 49, has loss nan."
    ]


class _Store(dict[str, bytes]):
    """What ranks share to tell one another, as torch has it."""

    def set(self, key: str, text: str) -> None:
        self[key] = text.encode()

    def wait(self, keys: list[str], _patience: timedelta) -> None:
        if missing := [key for key in keys if key not in self]:
            raise RuntimeError(f"waited in vain for {missing}")


class _Rank(Ranks):
    """As `torchrun` would start it, without a group."""

    def __init__(self, rank: int, store: _Store) -> None:
        super().__init__()
        self.is_first, self._store, self._rank = rank == 0, cast(Any, store), rank


@pytest.fixture
def store() -> _Store:
    return _Store()


def test_verbs_of_one_process_are_refused(store):
    rank = _Rank(1, store)
    with pytest.raises(ValueError, match="`thalweg train` is the work of one process, got several"):
        rank.check_verb("train")
    rank.check_verb("measure")
    Ranks().check_verb("train")
    with pytest.raises(ValueError, match="`store` is written by one process; leave it out, or start without"):
        rank.refuse("store", "is written by one process")
    Ranks().refuse("store", "is written by one process")


def test_every_rank_has_a_device_of_its_own(store, monkeypatch):
    rank = _Rank(1, store)
    rank.check_device("cpu", torch.device("cpu"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="`device` must have a GPU for each process, got process 1"):
        rank.check_device("auto", torch.device("cuda"))
    with pytest.raises(ValueError, match="must be cuda, without a number, under torchrun, got 'cuda:0'"):
        rank.check_device("cuda:0", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    rank.check_device("cuda", torch.device("cuda"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ValueError: `loss` is odd", None),
        ("ValueError: no such file", "`loss` is odd (on rank 1)"),
        (None, "`loss` is odd (on rank 1)"),
    ],
)
def test_a_later_rank_complains_only_of_what_the_first_does_not(store, said, told):
    rank = _Rank(1, store)
    if said:
        store.set(COMPLAINT, said)
    rank._repeats = rank._first_says(ValueError("`loss` is odd"))
    assert rank.complaint("`loss` is odd") == told
    assert _Rank(0, store).complaint("`loss` is odd") == "`loss` is odd"
