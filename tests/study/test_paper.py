"""The paper's study: the same records however often it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from thalweg.study.paper import NETWORKS, PaperStudy
from thalweg.study.paper_settings import PRESETS, PaperSettings, load_preset
from thalweg.study.store import Store

# Real data, and as little work as still passes through every stage.
TINY = {
    "data": {"num_train": 256, "num_test": 100},
    "training": {
        "epochs": 2,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "batch_size": 64,
        "step_size": 1,
        "gamma": 0.5,
    },
    "curvature": {"num_examples": 32, "rtol": 0.3, "certify_rtol": 0.9},
    "sharpness": {
        "num_examples": 32,
        "radius": 0.05,
        "num_steps": 2,
        "num_restarts": 1,
        "spread_batch_sizes": [16],
        "spread_num_batches": 2,
    },
    "slices": {"num_examples": 70, "num_points": 3, "span": 0.5, "num_directions": 1},
    "path": {"num_examples": 64 + 20, "num_points": 3},
}

PROGRAM = """
import json, sys
from pathlib import Path
from thalweg.data import fashion_mnist
from thalweg.study.paper import PaperStudy
from thalweg.study.paper_settings import PaperSettings
from thalweg.study.runner import run_tasks
from thalweg.study.store import Store

settings = PaperSettings.model_validate(json.loads(sys.argv[1]))
data = [
    tuple(t[:n] for t in fashion_mnist.load(split))
    for split, n in (("train", settings.data.num_train), ("test", settings.data.num_test))
]
study = PaperStudy(settings, *data, Path(sys.argv[2]))
run_tasks(study.tasks(), Store(study.out))
"""

# What no two runs share.
OWN = ("seconds", "host", "versions")


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(TINY), str(out)])


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "records.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in OWN} for line in lines]


@pytest.mark.real_data
def test_a_study_killed_at_any_moment_ends_with_the_same_records(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert start(calm).wait(300) == 0
    expected = rows(calm)

    # Killed within training, then after so many records more, wherever the next measure happens to be.
    for enough in (0, 3, 9, 16):
        process = start(killed)
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            done = len(rows(killed)) if (killed / "records.jsonl").exists() else 0
            training = enough == 0 and any(killed.glob("checkpoints/*/checkpoint.safetensors"))
            if training or (enough and done >= enough):
                break
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(killed).wait(300) == 0

    assert rows(killed) == expected
    tensors = {p.relative_to(calm): p.read_bytes() for p in calm.rglob("model.safetensors")}
    assert len(tensors) == len(NETWORKS)
    assert {p.relative_to(killed): p.read_bytes() for p in killed.rglob("model.safetensors")} == tensors
    arrays = {p.name for p in (calm / "arrays").iterdir()}
    assert {p.name for p in (killed / "arrays").iterdir()} >= arrays

    # The study's shape: every measure in every mode, and once without batch norm.
    found = {
        (r["measure"], r["labels"]["model"], r["provenance"].get("objective", {}).get("batch_norm"))
        for r in expected
    }
    for mode in ("running", "recalibrated", "batch"):
        for measure in ("sam_sharpness", "sam_sharpness_spread", "line_slice", "top_eigenvalues"):
            assert (measure, "A1", mode) in found
        assert ("linear_path", "A1-A2", mode) in found
    assert ("top_eigenvalues", "B", "running") in found
    assert len({(r["run"], r["measure"], json.dumps(r["provenance"])) for r in expected}) == len(expected), (
        "no two records may share run, measure and provenance"
    )


def test_presets_are_valid_and_the_papers_is_the_papers() -> None:
    for name in PRESETS:
        assert isinstance(load_preset(name), PaperSettings)
    paper = load_preset("paper")
    assert paper.data.num_train is None
    assert paper.curvature.num_examples is None
    t = paper.training
    assert (t.epochs, t.learning_rate, t.momentum, t.batch_size) == (6, 0.01, 0.9, 128)
    assert {name: seed for name, (_, seed) in NETWORKS.items()} == {"A1": 1, "A2": 2, "B": 3}


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="`preset` must be one of paper, smoke, got 'full'"):
        load_preset("full")


def test_runs_differ_by_seed_settings_and_data() -> None:
    import torch

    x, y = torch.zeros(4, 1, 28, 28), torch.zeros(4, dtype=torch.long)
    settings = PaperSettings.model_validate(TINY)
    study = PaperStudy(settings, (x, y), (x, y), Path("nowhere"))
    other_data = PaperStudy(settings, (x + 1, y), (x, y), Path("nowhere"))
    longer = settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": 3})})
    runs = {
        t.run
        for s in (study, other_data, PaperStudy(longer, (x, y), (x, y), Path("nowhere")))
        for t in s.tasks()
    }
    # Three networks and one pair for each of three studies.
    assert len(runs) == 12
    keys = [t.key for t in study.tasks()]
    assert len(set(keys)) == len(keys)
    assert Store(Path("nowhere")).records() == []
