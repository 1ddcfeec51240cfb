"""A share of some work's time for looking at it: cheap looks are frequent, and dear ones come."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping


class TimeAllowance:
    """Seconds that may be spent, as a share of the seconds of the work watched.

    What is earned goes into a pot, and `pour` from there into one account for each kind of look, in equal
    parts, none getting more than its cost: a cheap one is full each time and leaves the rest to the dear.
    A look is due when its account holds what it cost the last time. What it then takes is drawn, and where
    that is more than the account holds, from the pot, which is empty until as much has been earned. So no
    more is spent than earned, but for what a look takes longer than expected, and then nothing more is dealt
    out until that is paid back.

    Parameters
    ----------
    share
        Of the watched seconds, above nought; infinite for no limit.
    clock
        Seconds from any origin.

    Attributes
    ----------
    watched, spent
        Seconds of the work, and of looking at it.
    costs
        Seconds that each kind of look took when it was last taken.
    """

    def __init__(self, share: float, clock: Callable[[], float]) -> None:
        self.share, self._clock = share, clock
        self.watched = self.spent = 0.0
        self.costs: dict[str, float] = {}
        self._accounts: defaultdict[str, float] = defaultdict(float)
        self._pot = math.inf if math.isinf(share) else 0.0
        self._mark = clock()

    @property
    def overhead(self) -> float:
        """Spent over watched."""
        return self.spent / self.watched if self.watched else math.inf if self.spent else 0.0

    def arrive(self) -> None:
        """The seconds since the last bill were work: a share of them is earned."""
        seconds = self._lap()
        self.watched += seconds
        if math.isfinite(self.share):
            self._pot += self.share * seconds

    def bill(self, kind: str) -> None:
        """The seconds since the last bill, or since arriving, were spent on this kind of look."""
        seconds = self._lap()
        self.spent += seconds
        rest = self._accounts[kind] - seconds
        self._accounts[kind] = max(0.0, rest)
        self._pot += min(0.0, rest)
        self.costs[kind] = seconds

    def leave(self) -> None:
        """What else was spent is nobody's own; from here on the seconds are work."""
        seconds = self._lap()
        self.spent += seconds
        self._pot -= seconds

    def pour(self, costs: Mapping[str, float], part: float = 1.0) -> Collection[str]:
        """Deal this part of the pot out to these kinds, given what each costs; which of them are due."""
        rest = part * max(0.0, self._pot)
        needs = {kind: max(0.0, cost - self._accounts[kind]) for kind, cost in costs.items()}
        for left, kind in zip(range(len(needs), 0, -1), sorted(needs, key=needs.__getitem__), strict=True):
            given = min(needs[kind], rest / left)
            rest -= given
            needs[kind] -= given
            self._accounts[kind] += given
            self._pot -= given
        return {kind for kind, need in needs.items() if need <= 0}

    def _lap(self) -> float:
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        return seconds
