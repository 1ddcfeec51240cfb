"""Runs tasks, each once and after those it needs: what a store already holds is not done again."""

from __future__ import annotations

import heapq
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.study.engine import Engine, InProcess, Outcome
from thalweg.study.store import Failure, Record, Store, run_id, same_result

# In the provenance of what was done again although it had been: the how manieth time.
AGAIN = "again"


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
    needs
        Keys of the tasks that must have given a result before.
    follows
        Keys of the tasks whose end is waited for where they are to be done as well, whatever came of them.
    outlives
        Asked where one of those diverged: whether there is enough of it for this task all the same, a network
        from before, say.
    stands
        Asked of its record where a task to be done needs this one: whether what it left, a network say, is
        still there. If not it is done again, and must come out the same.
    unit
        What one of `cost` is of, a forward pass of one model say: tasks of one unit go at one pace.
    keep_arrays
        Whether large arrays of the result are kept beside its record.
    """

    run: str
    measure: str
    labels: Mapping[str, Any]
    arguments: Mapping[str, Any]
    cost: float
    compute: Callable[[Progress], Measurement]
    seconds_before: Callable[[], float] = lambda: 0.0
    needs: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    outlives: Callable[[], bool] = lambda: False
    stands: Callable[[Record], bool] = lambda record: True
    unit: str = ""
    keep_arrays: bool = True

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
    """Shows people how far a list of tasks is; several may be under way at once."""

    def start(self, task: Task, number: int, total: int) -> None:
        """A task begins, the how manieth of how many."""
        ...

    def advance(self, task: Task, fraction: float, done: float, total: float) -> None:
        """So much of the task, and so much cost of all tasks, is done."""
        ...

    def finish(self, task: Task, record: Record) -> None:
        """A task is recorded."""
        ...


def run_tasks(
    tasks: Sequence[Task],
    store: Store,
    watcher: Watcher | None = None,
    *,
    engine: Engine | None = None,
    keep_going: bool = False,
) -> list[Record]:
    """Run the tasks that `store` lacks; returns the records of all of them that have one, in order.

    A kill between two tasks loses nothing; within one, that task is done again (training goes on from its
    last checkpoint). Records written by other settings stay in the file and are not returned.

    Parameters
    ----------
    tasks
        Each after those it needs; of those that can be run the first ones are.
    store
        Where the records are and go.
    watcher
        Is told.
    engine
        What runs them; by default this process, one at a time.
    keep_going
        Record that a task failed, and why, and go on with those that do not need it; what crashed is tried
        again by the next call. Otherwise the first failure ends it all.

    Raises
    ------
    OSError
        If there is no room left on the disk, whatever `keep_going`.
    """
    engine = engine or InProcess()
    with store.writing():
        before = store.records()
        finished = _finished(tasks, before)
        earlier = {record.task: record for record in before if not record.failure}
        attempts = Counter(record.task for record in before)
        queue = _Queue([task for task in tasks if task.key not in finished], finished)
        total, done, number = sum(task.cost for task in queue.tasks), 0.0, 0
        under_way: dict[str, Task] = {}

        def advancing(task: Task) -> Progress:
            def report(part: int, whole: int) -> None:
                if watcher:
                    fraction = part / max(1, whole)
                    watcher.advance(task, fraction, done + fraction * task.cost, total)

            return report

        with engine:
            while queue or under_way:
                while queue and len(under_way) < engine.num_slots:
                    task, number = queue.pop(), number + 1
                    under_way[task.key] = task
                    if watcher:
                        watcher.start(task, number, len(queue.tasks))
                    engine.submit(task, advancing(task))
                key, outcome = engine.next_done()
                task = under_way.pop(key)
                if outcome.error and not keep_going:
                    raise outcome.error
                attempts[key] += 1
                made = _record(task, outcome, attempts[key], store, earlier.get(key))
                record = finished[key] = store.append(made)
                queue.settle(record)
                done += task.cost
                if watcher:
                    watcher.finish(task, record)
    return [finished[task.key] for task in tasks if task.key in finished]


def _finished(tasks: Sequence[Task], before: Sequence[Record]) -> dict[str, Record]:
    """By key, what need not be done: it was, and what it left is there for those that need it."""
    finished = {record.task: record for record in before if record.is_final}
    for key, record in {record.task: record for record in before}.items():
        if record.failure and AGAIN in record.content["provenance"]:
            finished.pop(key, None)
    failed = {key for key, record in finished.items() if record.failure}
    needed = {
        key
        for task in tasks
        if task.key not in finished and not failed.intersection(task.needs)
        for key in task.needs
    }
    for task in tasks:
        record = finished.get(task.key)
        if record and not record.failure and task.key in needed and not task.stands(record):
            del finished[task.key]
    return finished


def _record(task: Task, outcome: Outcome, attempt: int, store: Store, earlier: Record | None) -> Record:
    """Of an outcome; one that should be what it was `earlier` and is not makes a failure."""
    common: dict[str, Any] = {
        "run": task.run,
        "task": task.key,
        "labels": task.labels,
        "seconds": round(outcome.seconds, 3),
        "host": outcome.host,
        "versions": outcome.versions,
        "num_threads": outcome.num_threads,
        "arrays": store.arrays,
    }
    again = {} if earlier is None else {AGAIN: attempt}
    if outcome.measurement is None:
        failure = Failure(outcome.kind, outcome.reason, attempt)
        return Record.of_failure(task.measure, failure, again, **common)
    content = outcome.measurement.to_dict(store.arrays if task.keep_arrays else None)
    if earlier and not same_result(content, earlier.content):
        reason = (
            f"done again, since what it had left was gone, it came out otherwise ({content['value']}, before "
            f"{earlier.content['value']}), as on another machine; what is measured of it would not go with "
            "what was. Put back what was there, or choose another folder."
        )
        return Record.of_failure(task.measure, Failure("crashed", reason, attempt), again, **common)
    return Record(content={**content, "provenance": {**content["provenance"], **again}}, **common)


class _Queue:
    """Tasks that can be run, the first first; those whose needs failed are not, but for what outlives it."""

    def __init__(self, tasks: list[Task], finished: Mapping[str, Record]) -> None:
        self.tasks = tasks
        self._ready: list[int] = []
        self._waiting: dict[int, set[str]] = {}
        self._dependents: dict[str, list[int]] = {}
        to_do = {task.key for task in tasks}
        for place, task in enumerate(tasks):
            there = {key for key in task.needs if key in finished}
            if any(self._bars(finished[key], task) for key in there):
                continue
            awaited = {*task.needs, *to_do.intersection(task.follows)} - there
            if not awaited:
                self._ready.append(place)
                continue
            self._waiting[place] = awaited
            for key in self._waiting[place]:
                self._dependents.setdefault(key, []).append(place)

    def pop(self) -> Task:
        return self.tasks[heapq.heappop(self._ready)]

    def settle(self, record: Record) -> None:
        """A task is done: what waits for it may have become ready."""
        for place in self._dependents.pop(record.task, ()):
            needs = record.task in self.tasks[place].needs
            if place in self._waiting and needs and self._bars(record, self.tasks[place]):
                self._waiting.pop(place)
            elif place in self._waiting:
                self._waiting[place].discard(record.task)
                if not self._waiting[place]:
                    del self._waiting[place]
                    heapq.heappush(self._ready, place)

    @staticmethod
    def _bars(needed: Record, task: Task) -> bool:
        failure = needed.failure
        return failure is not None and not (failure.kind == "diverged" and task.outlives())

    def __bool__(self) -> bool:
        return bool(self._ready)
