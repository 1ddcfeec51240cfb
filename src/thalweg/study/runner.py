"""Runs a list of tasks in order, each once: what a store already holds is not done again."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.study.store import Record, Store, host, num_threads, run_id, versions


@dataclass(frozen=True)
class Task:
    """One measurement of one run.

    Parameters
    ----------
    run
        Identity of the run, from `run_id`.
    measure
        Name of the measure.
    labels
        Flat names, for people: no part of the task's identity.
    arguments
        Everything besides the run and the measure that decides the result.
    cost
        Estimated work, in forward passes of one example: only ratios matter, for the time left.
    compute
        Does the work; takes a progress callback.
    seconds_before
        Asked before `compute`: the seconds of killed attempts that it goes on from.
    """

    run: str
    measure: str
    labels: Mapping[str, Any]
    arguments: Mapping[str, Any]
    cost: float
    compute: Callable[[Progress], Measurement]
    seconds_before: Callable[[], float] = lambda: 0.0

    @cached_property
    def key(self) -> str:
        """Identity: a task whose key the store holds is done."""
        return run_id({"run": self.run, "measure": self.measure, "arguments": dict(self.arguments)})

    @property
    def title(self) -> str:
        """For people: the measure and its labels."""
        return f"{self.measure} {' '.join(str(v) for v in self.labels.values())}"


def resolved(function: Callable[..., Measurement], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with the function's own defaults: a default that changes makes another task.

    What the function is measured on, and its progress callback, are left out.
    """
    bound = inspect.signature(function).bind_partial(**arguments)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "progress"}


class Watcher(Protocol):
    """Shows people how far a list of tasks is."""

    def start(self, task: Task, number: int, total: int) -> None:
        """A task begins."""
        ...

    def advance(self, fraction: float, done: float, total: float) -> None:
        """So much of the task, and so much cost of all tasks, is done."""
        ...

    def finish(self, record: Record) -> None:
        """A task is recorded."""
        ...


def run_tasks(tasks: Sequence[Task], store: Store, watcher: Watcher | None = None) -> list[Record]:
    """Run the tasks that `store` lacks, in order; returns the records of all of them.

    A kill between two tasks loses nothing; within one, that task is done again (training goes on from its
    last checkpoint). Records written by other settings stay in the file and are not returned.
    """
    with store.writing():
        finished = {record.task: record for record in store.records()}
        todo = [task for task in tasks if task.key not in finished]
        total, done = sum(task.cost for task in todo), 0.0
        for number, task in enumerate(todo, start=1):
            if watcher:
                watcher.start(task, number, len(todo))

            def report(part: int, whole: int, task: Task = task, done: float = done) -> None:
                if watcher:
                    fraction = part / max(1, whole)
                    watcher.advance(fraction, done + fraction * task.cost, total)

            before, began = task.seconds_before(), time.perf_counter()
            measurement = task.compute(report)
            record = Record(
                run=task.run,
                task=task.key,
                content=measurement.to_dict(store.arrays),
                labels=task.labels,
                seconds=round(before + time.perf_counter() - began, 3),
                host=host(),
                versions=versions(),
                num_threads=num_threads(),
                arrays=store.arrays,
            )
            finished[task.key] = store.append(record)
            done += task.cost
            if watcher:
                watcher.finish(record)
    return [finished[task.key] for task in tasks]
