"""What people see while they wait: progress with time left, on standard error."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from thalweg.cli.ranks import RANKS
from thalweg.core.progress import Progress as Callback
from thalweg.study.runner import Task
from thalweg.study.store import Record

# No emoji: ":train:" in a data set's name is none.
errors = Console(stderr=True, highlight=False, emoji=False)


# Columns of what is no terminal: more than any table needs.
UNBOUNDED = 1000

# Between two lines of progress, where there is no bar.
SECONDS_A_LINE = 60.0


def output() -> Console:
    """Standard output as plain text; a file or a pipe is as wide as ``COLUMNS`` says, or as its tables."""
    out = Console(highlight=False, emoji=False, markup=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = UNBOUNDED
    return out


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=errors,
        # The time left is an average over this many seconds: one measure's pace says little about the next's.
        speed_estimate_period=300,
        transient=True,
    )


@contextmanager
def progress_bar(title: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Callback]:
    """Yield a callback ``(done, total)``: a bar where standard error is a terminal, else a line a minute."""
    if not RANKS.is_first:
        yield lambda done, total: None
        return
    if not errors.is_terminal:
        yield _lines(title, clock)
        return
    with _bar() as bar:
        row = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)


def _lines(title: str, clock: Callable[[], float]) -> Callback:
    """At most one line in `SECONDS_A_LINE`: what is done before needs none."""
    began = told = clock()

    def report(done: int, total: int) -> None:
        nonlocal told
        now = clock()
        if now - told < SECONDS_A_LINE:
            return
        share, elapsed = min(1.0, done / max(total, 1)), now - began
        words = f"{100 * share:.0f} %, elapsed {_duration(elapsed)}"
        if share > 0:
            words += f", about {_duration(elapsed * (1 - share) / share)} left"
        told = now
        errors.print(f"{title}: {words}", markup=False, soft_wrap=True)

    return report


class StudyWatcher:
    """Progress of a list of tasks: the whole with its time left, those under way, a line for each done.

    Where standard error is no terminal, the lines carry the time left instead of a bar.

    Parameters
    ----------
    clock
        Tells the seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._done = self._total = 0.0
        self._bar = _bar()
        self._whole = self._bar.add_task("whole study", total=None)
        self._rows: dict[str, tuple[str, Any]] = {}

    @contextmanager
    def showing(self) -> Iterator[StudyWatcher]:
        """Draw bars while inside, where standard error is a terminal."""
        if not errors.is_terminal:
            yield self
            return
        with self._bar:
            yield self

    def start(self, task: Task, number: int, total: int) -> None:
        """A task begins."""
        place = f"[{number}/{total}]"
        self._rows[task.key] = place, self._bar.add_task(f"{place} {task.title}", total=1.0)

    def advance(self, task: Task, fraction: float, done: float, total: float) -> None:
        """So much of the task and of everything is done."""
        self._total = total
        self._bar.update(self._rows[task.key][1], completed=fraction)
        self._bar.update(self._whole, completed=done, total=total)

    def finish(self, task: Task, record: Record) -> None:
        """A task is recorded."""
        self._done += task.cost
        place, row = self._rows.pop(task.key)
        self._bar.remove_task(row)
        names = " ".join(str(v) for v in record.labels.values())
        times = "" if errors.is_terminal else self._times()
        failed = record.failure and f"{record.failure.kind}: {record.failure.reason}"
        errors.print(
            f"{place} {names}: {failed or repr(record.measurement)} in {record.seconds:.0f} s{times}",
            markup=False,
            soft_wrap=True,
        )

    def _times(self) -> str:
        """Time since the start, and the time left if what is to do goes at the pace of what was done."""
        elapsed = self._clock() - self._began
        words = f"; elapsed {_duration(elapsed)}"
        if self._total:  # known from the first progress of a task
            words += f", about {_duration(elapsed * max(0.0, self._total / self._done - 1))} left"
        return words


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
