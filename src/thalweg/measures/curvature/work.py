"""Progress of what costs products with an operator over data."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]


class Work:
    """Examples times columns done, of a whole that is an upper bound: an exhausted space ends it early."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def add(self, examples: int) -> None:
        """Count a micro-batch's examples times columns."""
        self._done += examples
        if self._report:
            self._report(min(self._done, self._total), self._total)

    def finish(self) -> None:
        """All is done."""
        if self._report:
            self._report(self._total, self._total)
