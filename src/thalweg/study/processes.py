"""Several processes of one machine, each with its own threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection
from types import TracebackType
from typing import Protocol, Self

import torch

from thalweg.core.errors import ThalwegError
from thalweg.core.imports import in_words
from thalweg.core.progress import Progress
from thalweg.study.engine import Outcome, perform
from thalweg.study.runner import Task
from thalweg.study.store import host, versions

# A task under way when a worker dies, killed for memory say, goes on from its last checkpoint so many times.
MOST_LOSSES = 3
NEEDS_GUARD = (
    'A script that runs a study with several workers needs the guard `if __name__ == "__main__":` around the '
    "call, for each of them imports the script."
)


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
        self._idle: list[_Worker] = []
        self._futures: dict[Future[Outcome], tuple[str, _Worker]] = {}
        self._losses: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in [*self._idle, *(worker for _, worker in self._futures.values())]:
            worker.end()
        self._idle, self._futures = [], {}

    def submit(self, task: Task, progress: Progress) -> None:
        """Begin a task; what it has done is told when it has ended."""
        progress(0, 1)
        self._send(task.key)

    def next_done(self) -> tuple[str, Outcome]:
        """Wait for the first to end; one whose worker dies is begun again, some times.

        Raises
        ------
        ThalwegError
            If a worker cannot even begin: no task would fare better.
        """
        while True:
            done = next(iter(wait(self._futures, return_when=FIRST_COMPLETED).done))
            key, worker = self._futures.pop(done)
            problem = worker.begun.exception()
            if problem is None and not isinstance(done.exception(), BrokenProcessPool):
                self._idle.append(worker)
                return key, done.result()
            code = worker.end()
            if isinstance(problem, ThalwegError):
                raise problem
            if isinstance(problem, BrokenProcessPool):
                if code > 0:  # it ended by itself
                    raise ThalwegError(
                        f"a worker process ended with exit code {code} before it could begin; what it said "
                        f"stands above. {NEEDS_GUARD}"
                    ) from problem
            elif problem is not None:
                raise ThalwegError(f"a worker process could not begin: {in_words(problem)}.") from problem
            self._losses[key] += 1
            if self._losses[key] == MOST_LOSSES:
                how = "as it does when memory runs out" if code == -signal.SIGKILL else f"exit code {code}"
                reason = f"its worker process died {MOST_LOSSES} times, {how}"
                return key, Outcome(None, 0.0, host(), versions(), self._threads, "crashed", reason)
            self._send(key)

    def _send(self, key: str) -> None:
        worker = self._idle.pop() if self._idle else _Worker.begin(self._source, self._threads)
        self._futures[worker.pool.submit(_work, key)] = key, worker


@dataclass(frozen=True)
class _Worker:
    """A process, and whether it has the tasks."""

    pool: ProcessPoolExecutor
    begun: Future[None]

    @classmethod
    def begin(cls, source: TaskSource, threads: int) -> _Worker:
        # Not forked: torch's threads do not survive that, nor do accelerators.
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        return cls(pool, pool.submit(_prepare, source, threads))

    def end(self) -> int:
        """End it; its exit code, below nought that of the signal that killed it."""
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        return next((process.exitcode or 0 for process in processes), 0)


def refuse_without_guard() -> None:
    """Raise in a worker that is beginning: it imports a script that would run the study once more.

    Raises
    ------
    ThalwegError
        In such a process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ThalwegError(f"a worker process must not run the study itself. {NEEDS_GUARD}")


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
