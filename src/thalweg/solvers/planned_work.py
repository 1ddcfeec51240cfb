"""Progress of work whose extent is settled on the way."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]


class PlannedWork:
    """Progress in examples times products, against a whole that a pilot settles.

    Parameters
    ----------
    num_examples
        Of one product.
    report
        Called with work done and the whole.
    done
        What was done before, and counts.
    """

    def __init__(self, num_examples: int, report: Progress | None, done: int = 0) -> None:
        self._num_examples, self._report = num_examples, report
        self._before = self.done = self._total = done

    def expect(self, num_matvecs: int) -> None:
        """So many products are coming in all."""
        self._total = self._before + num_matvecs * self._num_examples

    def add(self, examples: int) -> None:
        """Count a micro-batch's examples times columns."""
        self.done += examples
        if self._report:
            self._report(self.done, max(self.done, self._total))

    def finish(self) -> None:
        """All is done."""
        if self._report:
            self._report(max(1, self.done), max(1, self.done))
