"""The runner: each task once, in order, whatever was done before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thalweg.core.measurement import Measurement
from thalweg.study.runner import Progress, Task, resolved, run_tasks
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
        return Toy(value=value, provenance={"function": "toy", "name": name, "value": value})

    return Task("run", "toy", {"name": name}, {"name": name, "value": value}, cost, compute)


class Watcher:
    """Writes down what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def start(self, task: Task, number: int, total: int) -> None:
        self.seen.append(("start", task.labels["name"], number, total))

    def advance(self, task: Task, fraction: float, done: float, total: float) -> None:
        self.seen.append(("advance", fraction, done, total))

    def finish(self, task: Task, record: Record) -> None:
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


def test_labels_are_for_people_and_everything_else_is_identity() -> None:
    compute = task("a", 1.0, []).compute
    one = Task("run", "toy", {"model": "A1"}, {"value": 1}, 1.0, compute)
    assert one.key == Task("run", "toy", {"model": "renamed"}, {"value": 1}, 2.0, compute).key
    others = [
        Task("other", "toy", {"model": "A1"}, {"value": 1}, 1.0, compute),
        Task("run", "other", {"model": "A1"}, {"value": 1}, 1.0, compute),
        Task("run", "toy", {"model": "A1"}, {"value": 2}, 1.0, compute),
    ]
    assert len({one.key, *(other.key for other in others)}) == 4


def test_arguments_are_resolved_with_the_functions_own_defaults() -> None:
    def measure(objective: object, *, radius: float = 0.05, steps: int = 1, seed: int, progress=None):
        raise NotImplementedError

    assert resolved(measure, {"seed": 0}) == {"radius": 0.05, "steps": 1, "seed": 0}
    assert resolved(measure, {"seed": 0, "steps": 1}) == resolved(measure, {"seed": 0})
    with pytest.raises(TypeError, match="nonsense"):
        resolved(measure, {"nonsense": 1})


def test_seconds_of_killed_attempts_count_and_are_asked_for_before_the_work(tmp_path: Path) -> None:
    spent = 100.0

    def compute(progress: Progress) -> Measurement:
        nonlocal spent
        spent = 200.0
        return Toy(value=1.0, provenance={"function": "toy"})

    (record,) = run_tasks([Task("run", "toy", {}, {}, 1.0, compute, lambda: spent)], Store(tmp_path))
    assert 100 <= record.seconds < 150


def test_a_record_says_on_how_many_threads_it_was_made(tmp_path: Path) -> None:
    run_tasks([task("a", 1.0, [])], Store(tmp_path))
    (record,) = Store(tmp_path).records()
    assert record.num_threads == torch.get_num_threads()
    assert set(record.versions) == {"python", "thalweg", "torch", "numpy", "scipy"}
