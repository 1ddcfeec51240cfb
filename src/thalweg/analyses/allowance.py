"""A share of some work for looking at it: first looks are made on credit, later ones are saved up for."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

# Part of what there is that the measuring step itself gets, then of the rest loans, then the first look.
PART = 0.5

# Part of the credit that others may use before the second kind's first look.
OTHERS_CREDIT = 0.25

# Rounding of sums that should be equal.
SLACK = 1e-9


class Allowance:
    """What may be spent on looks at some work, in any unit in which both are counted.

    A share of the work is earned, and dealt out to accounts, one for each kind of look, none getting more
    than it lacks of what its last look took. The first kind, which every occasion begins with, gets up to
    half; then up to half of the rest pays off the loan, and up to half of what is left then goes to the
    second kind. The others share alike, so that a cheap one is full each time and leaves the rest to the dear
    ones.

    - The first look of a kind is on credit: it is made as soon as the loan, with what its account lacks,
      comes to no more than all that has been earned so far; than a quarter of it as long as the second kind
      waits for its own, unless it is the first.
    - A later one is made when its account holds what the last one took.

    So no more than twice the share is ever spent, and once the loan is paid off no more than the share; but
    for what a look takes beyond what was expected of it, which goes on the loan, and what is charged besides,
    once, which is paid off after it. Nothing here knows a clock: the same work and the same costs give the
    same looks.

    Parameters
    ----------
    share
        Of the work, above nought; infinite for no limit.

    Attributes
    ----------
    watched, spent
        Work, and what looking at it took.
    loan, charged
        What was spent on credit, and charged besides, and is not paid off.
    costs
        What each kind of look took when it was last made.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.watched = self.spent = self.loan = self.charged = 0.0
        self.costs: dict[str, float] = {}
        self._accounts: dict[str, float] = {}
        self._pot = 0.0
        self._leading: list[str] = []  # the first two kinds

    @property
    def overhead(self) -> float:
        """Spent over watched."""
        return self.spent / self.watched if self.watched else math.inf if self.spent else 0.0

    def cost(self, kind: str, expected: float) -> float:
        """Of a look of this kind: what the last one took, before there is one what is expected."""
        return self.costs.get(kind, expected)

    def earn(self, work: float, expected: Mapping[str, float]) -> None:
        """Count work done, and deal out its share; `expected` names the kinds and what each may cost."""
        self.watched += work
        if math.isinf(self.share):
            return
        self._pot += self.share * work
        lacks = {kind: self._lack(kind, cost) for kind, cost in expected.items()}
        first, *rest = lacks
        self._leading = [first, *rest[:1]]
        self._give(first, min(lacks[first], PART * self._pot))
        for debt in ("loan", "charged"):
            paid = min(getattr(self, debt), PART * self._pot)
            setattr(self, debt, getattr(self, debt) - paid)
            self._pot -= paid
        if rest:
            self._give(rest[0], min(lacks[rest[0]], PART * self._pot))
        others = sorted(rest[1:], key=lacks.__getitem__)
        for left, kind in zip(range(len(others), 0, -1), others, strict=True):
            self._give(kind, min(lacks[kind], self._pot / left))

    def allows(self, kind: str, expected: float) -> bool:
        """Whether a look of this kind may be made now."""
        if math.isinf(self.share):
            return True
        lack = self._lack(kind, expected)
        if kind in self.costs:
            return lack <= SLACK * self.costs[kind]
        waits = kind not in self._leading and not all(k in self.costs for k in self._leading)
        credit = (OTHERS_CREDIT if waits else 1.0) * self.share * self.watched
        return self.loan + lack <= (1 + SLACK) * credit

    def spend(self, kind: str, work: float) -> None:
        """A look of this kind was made, and took so much: what its account does not hold goes on the loan."""
        saved = self._accounts.get(kind, 0.0)
        self._accounts[kind] = max(0.0, saved - work)
        self.costs[kind] = work
        self.spent += work
        self.loan += max(0.0, work - saved)

    def charge(self, work: float) -> None:
        """Something was done once, that is no look."""
        self.spent += work
        self.charged += work

    def forecast(self, work: float, expected: Mapping[str, float], horizon: int = 10_000) -> dict[str, int]:
        """After how many more occasions, each after so much work, the next look of each kind will be made if
        none takes more or less than its last; kinds beyond the horizon are left out."""
        ahead, found = copy.deepcopy(self), {}
        for occasion in range(1, horizon + 1):
            ahead.earn(work, expected)
            first = next(iter(expected))
            for kind, cost in expected.items():
                if not ahead.allows(kind, cost):
                    if kind == first:
                        break  # no occasion without it
                    continue
                ahead.spend(kind, ahead.cost(kind, cost))
                found.setdefault(kind, occasion)
            if len(found) == len(expected):
                break
        return found

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {k: copy.copy(v) for k, v in vars(self).items() if k != "share"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the share stays."""
        vars(self).update({k: copy.copy(v) for k, v in state.items()})

    def _lack(self, kind: str, expected: float) -> float:
        return max(0.0, self.cost(kind, expected) - self._accounts.get(kind, 0.0))

    def _give(self, kind: str, amount: float) -> None:
        self._accounts[kind] = self._accounts.get(kind, 0.0) + amount
        self._pot -= amount
