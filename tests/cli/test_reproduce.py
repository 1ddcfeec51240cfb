"""``thalweg reproduce`` as a user runs it: the smoke preset, on real data, to its report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from thalweg.study.store import Store

PROGRAM = "from thalweg.cli.main import run; run()"


@pytest.mark.real_data
def test_smoke_runs_to_its_report_and_a_second_call_does_nothing_again(tmp_path: Path) -> None:
    out = tmp_path / "smoke"
    command = [sys.executable, "-c", PROGRAM, "reproduce", "--preset", "smoke", "--out", str(out)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert first.returncode == 0, first.stderr
    records = Store(out).records()
    assert len(records) >= 40
    reported = [line for line in first.stderr.splitlines() if " elapsed " in line]
    assert len(reported) == len(records), "each task is reported as it ends"
    assert all(line.endswith(" left") for line in reported), "with the time left"
    page = (out / "report" / "index.html").read_text()
    for number in ("57.18", "37.51", "0.1837", "0.0886"):
        assert number in page
    for suffix in ("png", "svg"):
        names = {p.stem for p in (out / "figures").glob(f"*.{suffix}")}
        assert {"fig1_training_a1", "fig2_training_b", "fig3_slice", "fig4_path"} <= names

    before = (out / "records.jsonl").read_bytes()
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    assert (out / "records.jsonl").read_bytes() == before
    assert (out / "report" / "index.html").read_text() == page


def test_an_unknown_preset_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "reproduce", "--preset", "full", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "thalweg: `preset` must be one of paper, smoke, got 'full'."
