"""What people see while they wait: progress with time left, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from thalweg.study.runner import Task
from thalweg.study.store import Record

errors = Console(stderr=True, highlight=False)


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
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)``; a bar where standard error is a terminal, silence elsewhere."""
    if not errors.is_terminal:
        yield lambda done, total: None
        return
    with _bar() as bar:
        row = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(row, completed=done, total=total)


class StudyWatcher:
    """Progress of a list of tasks: the whole with its time left, the present one, a line for each done."""

    def __init__(self) -> None:
        self._bar = _bar()
        self._whole = self._bar.add_task("whole study", total=None)
        self._task: int | None = None
        self._place = ""

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
        self._place = f"[{number}/{total}]"
        if self._task is not None:
            self._bar.remove_task(self._task)  # type: ignore[arg-type]
        self._task = self._bar.add_task(f"{self._place} {task.title}", total=1.0)

    def advance(self, fraction: float, done: float, total: float) -> None:
        """So much of the task and of everything is done."""
        if self._task is not None:
            self._bar.update(self._task, completed=fraction)  # type: ignore[arg-type]
        self._bar.update(self._whole, completed=done, total=total)

    def finish(self, record: Record) -> None:
        """A task is recorded."""
        names = " ".join(str(v) for v in record.labels.values())
        errors.print(
            f"{self._place} {names}: {record.measurement!r} in {record.seconds:.0f} s",
            markup=False,
            soft_wrap=True,
        )
