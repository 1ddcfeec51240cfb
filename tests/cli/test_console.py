"""What a study says on its way where standard error is no terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from thalweg.cli.console import StudyWatcher, errors, progress_bar


class Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def finish(watcher: StudyWatcher, number: int, cost: float, total: float | None) -> None:
    """One of two tasks, begun and done."""
    task: Any = SimpleNamespace(cost=cost, title="a task", key=str(number))
    watcher.start(task, number, 2)
    if total is not None:
        watcher.advance(task, 0.5, cost / 2, total)
    record: Any = SimpleNamespace(
        labels={"model": "A1"}, measurement=f"Result({number})", seconds=30.0, failure=None
    )
    watcher.finish(task, record)


def test_each_task_is_a_line_with_the_time_left_at_the_pace_so_far(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    watcher = StudyWatcher(clock)
    with watcher.showing():
        clock.now += 60
        finish(watcher, 1, cost=10, total=100)
        clock.now += 3600
        finish(watcher, 2, cost=90, total=100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[1/2] A1: 'Result(1)' in 30 s; elapsed 0:01:00, about 0:09:00 left",
        "[2/2] A1: 'Result(2)' in 30 s; elapsed 1:01:00, about 0:00:00 left",
    ]


def test_a_task_that_tells_no_progress_gives_no_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    finish(StudyWatcher(Clock()), 1, cost=10, total=None)
    assert capsys.readouterr().err.splitlines() == ["[1/2] A1: 'Result(1)' in 30 s; elapsed 0:00:00"]


def test_a_terminal_has_its_bar_for_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "_force_terminal", True)
    finish(StudyWatcher(Clock()), 1, cost=10, total=100)
    assert "elapsed" not in capsys.readouterr().err


def test_where_there_is_no_terminal_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar("a measure", clock) as progress:
        assert capsys.readouterr().err == ""
        for second in range(200):  # of 400
            progress(second, 400)
            clock.now += 1
        clock.now += 3600
        progress(399, 400)
        progress(400, 400)
    assert capsys.readouterr().err.splitlines() == [
        "a measure: 15 %, elapsed 0:01:00, about 0:05:40 left",
        "a measure: 30 %, elapsed 0:02:00, about 0:04:40 left",
        "a measure: 45 %, elapsed 0:03:00, about 0:03:40 left",
        "a measure: 100 %, elapsed 1:03:20, about 0:00:10 left",
    ]


def test_progress_that_knows_no_whole_is_told_without_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar("a measure", clock) as progress:
        for _ in range(2):
            progress(0, 0)
            clock.now += 60
    assert capsys.readouterr().err.splitlines() == ["a measure: 0 %, elapsed 0:01:00"]


def test_on_a_terminal_there_is_a_bar_and_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "_force_terminal", True)
    clock = Clock()
    with progress_bar("a measure", clock) as progress:
        for _ in range(3):
            progress(1, 4)
            clock.now += 60
    assert "elapsed" not in (text := capsys.readouterr().err)
    assert "\x1b" in text
