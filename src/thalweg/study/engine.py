"""Engines: what carries tasks out, here or elsewhere, and what comes of them."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import torch

from thalweg.core.errors import NonFiniteLossError, ThalwegError
from thalweg.core.imports import in_words
from thalweg.core.lock import BusyError
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.study.store import host, num_threads, versions

if TYPE_CHECKING:
    from thalweg.study.runner import Task

# What the system says of a disk that is full: nothing that follows could be kept.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a result, or the kind of failure and its reason (`thalweg.study.store.Failure`).

    `error` is what was raised, where that was in this process.
    """

    measurement: Measurement | None
    seconds: float
    host: str
    versions: Mapping[str, str]
    num_threads: int | None
    kind: Literal["diverged", "refused", "crashed"] = "crashed"
    reason: str = ""
    error: Exception | None = None


class Engine(Protocol):
    """Carries tasks out. A context manager: leaving it ends what is still under way."""

    num_slots: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, task: Task, progress: Progress) -> None:
        """Begin a task; at most `num_slots` are under way at once."""
        ...

    def next_done(self) -> tuple[str, Outcome]:
        """Wait for one of them: its key, and what came of it."""
        ...


class InProcess:
    """This process, one task at a time.

    Parameters
    ----------
    threads
        Threads that torch computes with meanwhile; None for those it has.
    """

    num_slots = 1

    def __init__(self, threads: int | None = None) -> None:
        self._submitted: deque[tuple[Task, Progress]] = deque()
        self._threads = threads
        self._threads_before = num_threads()

    def __enter__(self) -> Self:
        self._threads_before = num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads_before)
        self._submitted.clear()

    def submit(self, task: Task, progress: Progress) -> None:
        """Begin a task, when somebody waits for it."""
        self._submitted.append((task, progress))

    def next_done(self) -> tuple[str, Outcome]:
        """Carry out the task."""
        task, progress = self._submitted.popleft()
        return task.key, perform(task, progress)


def perform(task: Task, progress: Progress) -> Outcome:
    """Carry out one task in this process; what it raises becomes an outcome.

    Raises
    ------
    OSError
        If there is no room left on the disk.
    """
    before, began = 0.0, time.perf_counter()

    def outcome(measurement: Measurement | None, **failure: object) -> Outcome:
        seconds = before + time.perf_counter() - began
        return Outcome(measurement, seconds, host(), versions(), num_threads(), **failure)  # type: ignore[arg-type]

    try:
        before = task.seconds_before()
        return outcome(task.compute(progress))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        # Loss of a network that trains; anywhere else the measure says what it cannot do.
        diverged = isinstance(error, NonFiniteLossError) and task.measure == "train"
        is_input = isinstance(error, ValueError | TypeError | ThalwegError)
        refused = is_input and not isinstance(error, BusyError)
        kind = "diverged" if diverged else "refused" if refused else "crashed"
        reason = " ".join(str(error).split()) if refused else in_words(error)
        return outcome(None, kind=kind, reason=reason, error=error)
