"""Progress of work whose whole is only expected: what is shown never falls, and ends at its total."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]


class Work:
    """Counts what is done against what is expected, in one unit, examples times columns say.

    Parameters
    ----------
    report
        Called as ``report(done, total)``; None for silence.
    """

    def __init__(self, report: Progress | None) -> None:
        self.done = self._expected = 0
        self._report = report

    def expect(self, total: float) -> None:
        """So much it will be in all, as far as is known now."""
        self._expected = int(total)

    def add(self, count: int) -> None:
        """So much more is done."""
        self.done += count
        if self._report:
            self._report(self.done, max(self.done, self._expected))

    def finish(self) -> None:
        """All is done."""
        if self._report:
            self._report(self.done, self.done)
