"""Several processes of one machine, each with its own threads."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
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
    """A pool of workers that live as long as the engine; data are read once in each.

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
        self._pool: ProcessPoolExecutor | None = None
        self._futures: dict[Future[Outcome], str] = {}
        self._losses: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def submit(self, task: Task, progress: Progress) -> None:
        """Begin a task; what it has done is told when it has ended."""
        self._send(task.key)

    def next_done(self) -> tuple[str, Outcome]:
        """Wait for the first to end; if a worker dies, those under way are begun again, some times."""
        while True:
            done = next(iter(wait(self._futures, return_when=FIRST_COMPLETED).done))
            key = self._futures.pop(done)
            try:
                return key, done.result()
            except BrokenProcessPool:
                lost = [key, *self._futures.values()]
            # The pool does not say whose worker died: all that were under way count as lost.
            self._close()
            self._losses.update(lost)
            for other in lost[1:]:
                self._send(other)
            if self._losses[key] < MOST_LOSSES:
                self._send(key)
                continue
            reason = f"its worker process died {MOST_LOSSES} times, as it does when memory runs out"
            return key, Outcome(None, 0.0, host(), versions(), self._threads, "crashed", reason)

    def _send(self, key: str) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.num_slots,
                # Not forked: torch's threads do not survive that, nor do accelerators.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._source, self._threads),
            )
        self._futures[self._pool.submit(_work, key)] = key

    def _close(self) -> None:
        if self._pool is not None:
            workers = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.join()
        self._pool, self._futures = None, {}


_tasks: Mapping[str, Task] = {}


def _begin(source: TaskSource, threads: int) -> None:
    global _tasks
    torch.set_num_threads(threads)
    _tasks = source.tasks_by_key()


def _work(key: str) -> Outcome:
    outcome = perform(_tasks[key], lambda done, total: None)
    # Not every exception can be sent; kind and reason say what it was.
    return replace(outcome, error=None)
