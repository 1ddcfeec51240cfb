"""Seconds of some work, and of looking at it."""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Two sums of seconds, between which one goes to and fro; it begins with looking, at a set-up.

    Parameters
    ----------
    clock
        Seconds from any origin.

    Attributes
    ----------
    watched, spent
        Seconds of the work, and of looking at it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.watched = self.spent = 0.0
        self._mark = clock()

    @property
    def overhead(self) -> float:
        """Spent over watched; nought before any work was seen."""
        return self.spent / self.watched if self.watched else 0.0

    def arrive(self) -> float:
        """The seconds since leaving were work."""
        seconds = self._since()
        self.watched += seconds
        return seconds

    def lap(self) -> float:
        """The seconds since arriving, or since the last lap, were spent looking."""
        seconds = self._since()
        self.spent += seconds
        return seconds

    def leave(self) -> None:
        """What is left was spent looking; from here on the seconds are work."""
        self.lap()

    def resume(self, watched: float, spent: float) -> None:
        """Go on from these sums, beginning now."""
        self.watched, self.spent = watched, spent
        self._mark = self._clock()

    def _since(self) -> float:
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        return seconds
