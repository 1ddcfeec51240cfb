"""Several processes of one machine, each with its own threads."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import connection
from types import TracebackType
from typing import Protocol, Self

import torch

from thalweg.core.progress import Progress
from thalweg.study.engine import Outcome, perform
from thalweg.study.runner import Task
from thalweg.study.store import host, versions

# A task under way when a worker dies, killed for memory say, goes on from its last checkpoint so many times.
MOST_LOSSES = 3


class TaskSource(Protocol):
    """Where another process gets the tasks from: small, so that it can be sent there."""

    def tasks_by_key(self) -> Mapping[str, Task]:
        """All tasks, by their keys."""
        ...


class Processes:
    """Workers that live as long as the engine; data are read once in each.

    Each is a pool of its own, so that it shows whose task it was when one dies.

    Parameters
    ----------
    source
        Of the tasks.
    num_workers
        Processes, each with one task at a time.
    threads
        Threads of each.
    """

    def __init__(self, source: TaskSource, num_workers: int, threads: int) -> None:
        self.num_slots = num_workers
        self._source, self._threads = source, threads
        self._idle: list[ProcessPoolExecutor] = []
        self._futures: dict[Future[Outcome], tuple[str, ProcessPoolExecutor]] = {}
        self._losses: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in [*self._idle, *(pool for _, pool in self._futures.values())]:
            _end(pool)
        self._idle, self._futures = [], {}

    def submit(self, task: Task, progress: Progress) -> None:
        """Begin a task; what it has done is told when it has ended."""
        progress(0, 1)
        self._send(task.key)

    def next_done(self) -> tuple[str, Outcome]:
        """Wait for the first to end; one whose worker dies is begun again, some times."""
        while True:
            done = next(iter(wait(self._futures, return_when=FIRST_COMPLETED).done))
            key, pool = self._futures.pop(done)
            try:
                outcome = done.result()
            except BrokenProcessPool:
                _end(pool)
                self._losses[key] += 1
                if self._losses[key] < MOST_LOSSES:
                    self._send(key)
                    continue
                reason = f"its worker process died {MOST_LOSSES} times, as it does when memory runs out"
                outcome = Outcome(None, 0.0, host(), versions(), self._threads, "crashed", reason)
            else:
                self._idle.append(pool)
            return key, outcome

    def _send(self, key: str) -> None:
        pool = self._idle.pop() if self._idle else self._begin()
        self._futures[pool.submit(_work, key)] = key, pool

    def _begin(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1,
            # Not forked: torch's threads do not survive that, nor do accelerators.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(self._source, self._threads),
        )


def _end(pool: ProcessPoolExecutor) -> None:
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


_tasks: Mapping[str, Task] = {}


def _prepare(source: TaskSource, threads: int) -> None:
    global _tasks
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _tasks = source.tasks_by_key()


def _die_with_parent() -> None:
    # A runner that is killed cannot end its workers; one that went on would train beside the next runner's.
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(key: str) -> Outcome:
    outcome = perform(_tasks[key], lambda done, total: None)
    # Not every exception can be sent; kind and reason say what it was.
    return replace(outcome, error=None)
