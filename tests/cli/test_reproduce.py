"""``thalweg reproduce`` on real data: to its report, and to the same however often it is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.cli.test_measure import thalweg
from tests.killed import killed, needs_kill
from tests.study.tiny_paper import TINY

from thalweg.cli import reproduce
from thalweg.data import fashion_mnist
from thalweg.study.paper import NETWORKS, PaperStudy
from thalweg.study.paper_settings import PaperSettings
from thalweg.study.runner import run_tasks
from thalweg.study.store import Store

SETTINGS = PaperSettings.model_validate(TINY)
PROGRAM = """
from thalweg.cli import reproduce
from thalweg.study.paper_settings import PaperSettings
from tests.study.tiny_paper import TINY
reproduce.load_preset = lambda name: PaperSettings.model_validate(TINY)
from thalweg.cli.main import run
run()
"""

# What no two runs share.
OWN = ("seconds", "host", "versions", "num_threads")


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    """Every preset is the tiny one; one thread, as in the process that is killed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "load_preset", lambda name: SETTINGS)
        yield
    torch.set_num_threads(threads)


def run(out: Path) -> SimpleNamespace:
    done = thalweg(out.parent, "reproduce", "--preset", "smoke", "--out", out.name)
    assert done.returncode == 0, done.stderr
    return done


def rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "records.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in OWN} for line in lines]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimpleNamespace]:
    """A run that nothing disturbed, and what it said."""
    out = tmp_path_factory.mktemp("reproduce") / "calm"
    return out, run(out)


def check_report(out: Path, said: str, least: int) -> None:
    records = Store(out).records()
    assert len(records) >= least
    reported = [line for line in said.splitlines() if " elapsed " in line]
    assert len(reported) == len(records), "each task is reported as it ends"
    assert all(line.endswith(" left") for line in reported), "with the time left"
    page = (out / "report" / "index.html").read_text()
    for number in ("57.18", "37.51", "0.1837", "0.0886"):
        assert number in page
    for suffix in ("png", "svg"):
        names = {p.stem for p in (out / "figures").glob(f"*.{suffix}")}
        assert {"fig1_training_a1", "fig2_training_b", "fig3_slice", "fig4_path"} <= names


@pytest.mark.real_data
def test_it_runs_to_its_report_and_a_second_call_does_nothing_again(
    calm: tuple[Path, SimpleNamespace],
) -> None:
    out, done = calm
    check_report(out, done.stderr, 38)
    files = [out / "records.jsonl", out / "report" / "index.html"]
    before = [file.read_bytes() for file in files]
    run(out)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.real_data
@pytest.mark.slow
def test_smoke_runs_to_its_report_and_a_second_call_does_nothing_again(tmp_path: Path) -> None:
    """The preset itself, in processes of its own."""
    out = tmp_path / "smoke"
    command = [sys.executable, "-m", "thalweg", "reproduce", "--preset", "smoke", "--out", str(out)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert first.returncode == 0, first.stderr
    check_report(out, first.stderr, 40)
    files = [out / "records.jsonl", out / "report" / "index.html"]
    before = [file.read_bytes() for file in files]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert [file.read_bytes() for file in files] == before


class Stop:
    """Ends a study within the measure that follows so many records."""

    def __init__(self, num_records: int) -> None:
        self.left = num_records

    def start(self, *_: object) -> None: ...

    def advance(self, *_: object) -> None:
        if self.left <= 0:
            raise KeyboardInterrupt("stop")

    def finish(self, *_: object) -> None:
        self.left -= 1


def interrupt(out: Path, num_records: int) -> None:
    """Stop the study, in this process, once so many records are there."""
    data = [
        tuple(t[:n] for t in fashion_mnist.load(split))  # type: ignore[arg-type]
        for split, n in (("train", SETTINGS.data.num_train), ("test", SETTINGS.data.num_test))
    ]
    before = len(rows(out)) if (out / "records.jsonl").exists() else 0
    with pytest.raises(KeyboardInterrupt, match="stop"):
        run_tasks(PaperStudy(SETTINGS, *data, out).tasks(), Store(out), Stop(num_records - before))  # type: ignore[arg-type]


def kill(out: Path, num_records: int) -> None:
    """Kill it outright: within training, or once so many records are there, whatever comes next."""

    def is_time() -> bool:
        # Whole lines, for the last one may be half written as yet.
        records = out / "records.jsonl"
        done = records.read_bytes().count(b"\n") if records.exists() else 0
        return done >= num_records if num_records else any(out.glob("checkpoints/*/checkpoint.safetensors"))

    killed(["-c", PROGRAM, "reproduce", "--preset", "smoke", "--out", str(out)], is_time)


@needs_kill
@pytest.mark.real_data
@pytest.mark.parametrize("later", [interrupt, pytest.param(kill, marks=pytest.mark.slow)])
def test_a_study_stopped_at_any_moment_ends_with_the_same_records(
    calm: tuple[Path, SimpleNamespace], tmp_path: Path, later: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within training, then twice; last of all before what starts from a recorded eigenvector."""
    (whole, _), out = calm, tmp_path / "stopped"
    expected = rows(whole)
    before_recalibrated = next(
        i
        for i, r in enumerate(expected)
        if r["measure"] == "top_eigenvalues" and r["labels"]["batch_norm"] == "recalibrated"
    )
    kill(out, 0)
    for num_records in (9, before_recalibrated):
        later(out, num_records)
    monkeypatch.setattr(reproduce, "write_paper_report", lambda *_, **__: out)  # drawn by another test
    run(out)
    assert rows(out) == expected
    tensors = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("model.safetensors")}
    assert len(tensors) == len(NETWORKS)
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("model.safetensors")} == tensors
    arrays = {p.name for p in (whole / "arrays").iterdir()}
    assert {p.name for p in (out / "arrays").iterdir()} >= arrays


@pytest.mark.real_data
def test_every_measure_is_taken_in_every_mode_and_once_without_batch_norm(
    calm: tuple[Path, SimpleNamespace],
) -> None:
    expected = rows(calm[0])
    found = {
        (r["measure"], r["labels"]["model"], r["provenance"].get("objective", {}).get("batch_norm"))
        for r in expected
    }
    for mode in ("running", "recalibrated", "batch"):
        for measure in ("sam_sharpness", "sam_sharpness_spread", "line_slice", "top_eigenvalues"):
            assert (measure, "A1", mode) in found
        assert ("linear_path", "A1-A2", mode) in found
    for measure in ("line_slice", "top_eigenvalues"):
        assert {model for m, model, _ in found if m == measure} == {"A1", "B"}
    assert len({(r["run"], r["measure"], json.dumps(r["provenance"])) for r in expected}) == len(expected), (
        "no two records may share run, measure and provenance"
    )


def test_an_unknown_preset_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.study.paper_settings import load_preset

    monkeypatch.setattr(reproduce, "load_preset", load_preset)
    done = thalweg(tmp_path, "reproduce", "--preset", "full", "--out", "there")
    assert done.returncode == 2
    assert done.stderr.strip() == "thalweg: `preset` must be one of paper, smoke, got 'full'."
