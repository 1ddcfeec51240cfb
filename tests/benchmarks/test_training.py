"""The benchmark of training times only what it has seen to train the same network."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_training", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 28, 28, generator=rng), torch.randint(0, 10, (n,), generator=rng)


def test_fewer_steps_are_said_where_the_data_hold_fewer(benchmark: ModuleType) -> None:
    difference, num_steps = benchmark.float64_difference(images(300), width=2)
    assert num_steps == 3
    assert difference <= benchmark.FLOAT64_TOLERANCE


def test_no_more_steps_than_asked(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "FLOAT64_STEPS", 2)
    assert benchmark.float64_difference(images(300), width=2)[1] == 2


def test_a_loop_that_differs_ends_it_with_a_reason(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = benchmark.train_plainly

    def a_little_faster(model, train_data, test_data, config):  # type: ignore[no-untyped-def]
        return plainly(model, train_data, test_data, dataclasses.replace(config, lr=config.lr * 1.0001))

    monkeypatch.setattr(benchmark, "train_plainly", a_little_faster)
    monkeypatch.setattr(benchmark.fashion_mnist, "load", lambda split, root: images(2600))
    monkeypatch.setattr(sys, "argv", ["training.py", "--quick", "--repeats", "1"])
    # A text as the argument of SystemExit goes to standard error, and the exit code is 1.
    with pytest.raises(
        SystemExit, match=r"after 3 float64 steps a parameter differs by .*, and 1e-09 is allowed"
    ):
        benchmark.main()
