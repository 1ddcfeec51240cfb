"""The runner: each task once, in order, whatever was done before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from thalweg.core.measurement import Measurement
from thalweg.study.runner import Progress, Task, run_tasks
from thalweg.study.store import Record, Store


class Toy(Measurement):
    """A number with nothing to it."""

    measure = "toy"


def task(name: str, value: float, calls: list[str], fail: bool = False, cost: float = 1.0) -> Task:
    def compute(progress: Progress) -> Measurement:
        calls.append(name)
        progress(1, 2)
        if fail:
            raise RuntimeError("killed here")
        return Toy(value=value, provenance={"function": "toy", "name": name})

    return Task("run", "toy", {"name": name}, {"value": value}, cost, compute)


class Watcher:
    """Writes down what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def start(self, task: Task, number: int, total: int) -> None:
        self.seen.append(("start", task.labels["name"], number, total))

    def advance(self, fraction: float, done: float, total: float) -> None:
        self.seen.append(("advance", fraction, done, total))

    def finish(self, record: Record) -> None:
        self.seen.append(("finish", record.labels["name"]))


def test_tasks_run_in_order_and_only_once(tmp_path: Path) -> None:
    calls: list[str] = []
    tasks = [task("a", 1.0, calls), task("b", 2.0, calls)]
    first = run_tasks(tasks, Store(tmp_path))
    again = run_tasks(tasks, Store(tmp_path))
    assert calls == ["a", "b"]
    assert [r.measurement.value for r in first] == [r.measurement.value for r in again] == [1.0, 2.0]


def test_a_failed_task_keeps_what_was_done_and_goes_on_there(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(RuntimeError, match="killed here"):
        run_tasks([task("a", 1.0, calls), task("b", 2.0, calls, fail=True)], Store(tmp_path))
    run_tasks([task("a", 1.0, calls), task("b", 2.0, calls)], Store(tmp_path))
    assert calls == ["a", "b", "b"]


def test_changed_arguments_are_another_task_and_old_records_stay(tmp_path: Path) -> None:
    calls: list[str] = []
    run_tasks([task("a", 1.0, calls)], Store(tmp_path))
    (record,) = run_tasks([task("a", 3.0, calls)], Store(tmp_path))
    assert calls == ["a", "a"]
    assert record.measurement.value == 3.0
    assert len(Store(tmp_path).records()) == 2


def test_progress_counts_cost_over_what_is_left_to_do(tmp_path: Path) -> None:
    calls: list[str] = []
    make: Callable[[str, float], Task] = lambda name, cost: task(name, 1.0, calls, cost=cost)  # noqa: E731
    run_tasks([make("a", 5.0)], Store(tmp_path))
    watcher = Watcher()
    run_tasks([make("a", 5.0), make("b", 4.0), make("c", 2.0)], Store(tmp_path), watcher)
    assert watcher.seen == [
        ("start", "b", 1, 2),
        ("advance", 0.5, 2.0, 6.0),
        ("finish", "b"),
        ("start", "c", 2, 2),
        ("advance", 0.5, 5.0, 6.0),
        ("finish", "c"),
    ]
