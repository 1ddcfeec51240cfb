"""Progress of work whose extent is known, or settled on the way."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is done and the whole, as far as that is known.
Progress = Callable[[int, int], None]

# Steps of the whole within each part.
STEPS = 1000


class Work:
    """What is done of a whole, in whatever unit the caller counts: mostly examples times columns.

    Parameters
    ----------
    report
        Called as ``report(done, whole)``; nobody is if ``None``.
    whole
        Expected in all; `expect` says it anew. Work that goes beyond it moves it.

    Attributes
    ----------
    done
        Counted so far.
    """

    def __init__(self, report: Progress | None, whole: int = 0) -> None:
        self._report, self._whole, self.done = report, whole, 0

    def expect(self, whole: int) -> None:
        """So much is to be done in all, with what is done already."""
        self._whole = whole

    def add(self, count: int) -> None:
        """Count so much more."""
        self.done += count
        self._tell(max(self.done, self._whole))

    def finish(self) -> None:
        """All is done, even where less than expected was to do."""
        self.done = max(1, self.done)
        self._tell(self.done)

    def part(self, unit: int = 1, after: int = 0) -> Progress:
        """The progress of what reports by itself, in multiples of `unit`; `after` it so much is to come."""
        before = self.done

        def report(done: int, whole: int) -> None:
            self.expect(before + unit * whole + after)
            self.add(before + unit * done - self.done)

        return report

    def _tell(self, whole: int) -> None:
        if self._report:
            self._report(self.done, whole)


def part_of(progress: Progress | None, part: int, num_parts: int) -> Progress | None:
    """The progress of one of several parts as a part of the whole; no two need take the same time.

    It never falls back, though a measure may find on its way that it has more to do, and never leaves its
    part, though a measure may do more than it said.

    >>> half = part_of(lambda done, total: print(done, total), 1, 2)
    >>> half(1, 4), half(1, 5), half(6, 5)
    1250 2000
    1250 2000
    2000 2000
    (None, None, None)
    """
    if progress is None:
        return None
    highest = 0

    def report(done: int, of: int) -> None:
        nonlocal highest
        highest = max(highest, part * STEPS + STEPS * min(done, of) // max(of, 1))
        progress(highest, num_parts * STEPS)

    return report
