"""The benchmark of temperatures begins at minima, and keeps what it found."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("thalweg.data.fashion_mnist.load", lambda split, root: images(60))
    yield importlib.import_module("temperature")
    for name in ("processes", "temperature"):
        sys.modules.pop(name, None)


def images(n: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(n)
    return torch.rand(n, 1, 28, 28, generator=rng), torch.randint(0, 10, (n,), generator=rng)


def test_it_comes_to_a_minimum(benchmark: Any) -> None:
    start = benchmark.grid_objective(images(20))
    found = benchmark.minimised(start, 300)
    assert float(found.gradient().norm()) < 1e-3 * float(start.gradient().norm())
    assert found.value() < start.value()
    assert start.space.dim == 196 * 16 + 16 + 160 + 10 == 3322


def test_what_is_there_is_not_done_again(benchmark: Any, tmp_path: Path, monkeypatch, capsys) -> None:
    few = {"num_steps": 16, "burn_in": 0, "loss_every": 8, "num_directions": 1}
    monkeypatch.setattr(benchmark, "SMOKE", benchmark.SMOKE | few)
    monkeypatch.setattr(benchmark, "GRID", benchmark.GRID | {"lrs": [0.01, 0.02], "batch_sizes": [8]})
    options = argparse.Namespace(out=tmp_path, smoke=True, data_root=None, checkpoint=None)
    first = benchmark.section("grid", options)
    monkeypatch.setattr(benchmark, "minimised", None)
    assert benchmark.section("grid", options) == first
    benchmark.table(first)
    assert "exponents of lr and 1 / B [" in capsys.readouterr().out
