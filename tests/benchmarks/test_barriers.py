"""The benchmark of barriers measures the paper's networks; its plain loop finds what ours would get wrong."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thalweg as tw

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = ("processes", "barriers", "barriers_tasks")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("thalweg.data.fashion_mnist.load", lambda split, root: images(150))
    yield importlib.import_module("barriers_tasks")
    for name in NAMES:
        sys.modules.pop(name, None)


def images(n: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(n)
    return torch.randn(n, 1, 28, 28, generator=rng), torch.randint(0, 10, (n,), generator=rng)


OPTIONS = {
    "data_root": None,
    "num_examples": [150, 40],
    "subset": 140,  # two batches
    "calibration": 30,
    "epochs": 1,
    "num_points": 3,
    "curve_examples": 40,
    "num_steps": 2,
    "width": 4,
    "seeds": [1, 2],
    "modes": {"train": ["running", "recalibrated", "batch"], "test": ["recalibrated"]},
    "aligned": {"train": ["none", "weights", "activations"], "test": ["none", "weights"]},
    "check": True,
}


def test_at_width_one_the_networks_are_the_papers(tasks: Any) -> None:
    ours, papers = tasks.build(32, 1).state_dict(), tw.build_model("small_cnn_bn", 1).state_dict()
    assert all(torch.equal(ours[k], papers[k]) for k in papers)
    wide = tasks.build(64, 1)
    assert (wide.conv1.out_channels, wide.conv2.out_channels, wide.dense1.out_features) == (64, 128, 256)
    assert wide(images(2)[0]).shape == (2, 10)


def test_a_pair_is_measured_whole_and_the_plain_loop_agrees(tasks: Any, tmp_path: Path) -> None:
    options = {**OPTIONS, "networks": str(tmp_path)}
    for seed in options["seeds"]:
        tasks.network({**options, "seed": seed})
    found = tasks.pair(options)
    lines = [row for row in found["rows"] if row["path"] == "line"]
    assert len(lines) == 3 * 3 + 2
    assert [row["split"] for row in found["rows"] if row["path"] == "curve"] == ["train", "test"]
    assert found["check"] < 1e-5
    # Losses that are off are found.
    setting = tasks.Setting(options)
    models = [setting.network(4, seed) for seed in (1, 2)]
    lines[0]["losses"][1] += 1e-3
    assert tasks.check(setting, models, {}, lines[:1]) == pytest.approx(1e-3, rel=0.02)


def test_a_doubling_is_what_was_planted(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    barriers = importlib.import_module("barriers").Barriers
    words = barriers.a_doubling(None, lambda width: [3.0 * width**-1.0, 3.0 * width**-1.0])
    assert words == "0.50 (0.50 to 0.50)"
    assert "nobody can say" in barriers.a_doubling(None, lambda _: [0.0, 1.0])
