"""What a monitor costs, in passes and in seconds, and which of its looks are paid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from thalweg.analyses.allowance import Allowance
from thalweg.analyses.stopwatch import Stopwatch

UNITS = ("passes", "seconds")

# The look that every measuring step begins with: the network read, its loss and gradient on the probe.
GRADIENT = "gradient"


class MonitorCosts:
    """Counts passes and seconds, and keeps an `Allowance` in one of them.

    Parameters
    ----------
    share
        Of the training's work that may be spent.
    unit
        One of `UNITS`.
    clock
        Seconds from any origin.
    device
        Which is waited for before the clock is read.
    """

    def __init__(self, share: float, unit: str, clock: Callable[[], float], device: torch.device) -> None:
        self.unit, self._device = unit, device
        self._allowance = Allowance(share)
        self._watch = Stopwatch(clock)
        self._passes_watched = self._passes_spent = 0.0
        self._before = (0.0, 0.0)

    @property
    def share(self) -> float:
        """As it was given."""
        return self._allowance.share

    @property
    def overhead(self) -> float:
        """Seconds spent over seconds of training."""
        return self._watch.overhead

    @property
    def passes_overhead(self) -> float:
        """Passes spent over passes of training."""
        return self._passes_spent / self._passes_watched if self._passes_watched else 0.0

    def arrive(self, passes: float, expected: Mapping[str, float]) -> None:
        """Training went on for so many passes; `expected` has for each kind of look those it may take."""
        _wait(self._device)
        self._before = (self._watch.spent, self._passes_spent)
        seconds = self._watch.arrive()
        self._passes_watched += passes
        self._allowance.earn(seconds if self.unit == "seconds" else passes, self._in_unit(expected))

    def allows(self, kind: str, expected: Mapping[str, float]) -> bool:
        """Whether a look of this kind is paid for, or may be made on credit."""
        return self._allowance.allows(kind, self._in_unit(expected)[kind])

    def bill(self, kind: str, passes: float) -> None:
        """A look of this kind was made since the last bill."""
        seconds = self._lap(passes)
        self._allowance.spend(kind, seconds if self.unit == "seconds" else passes)

    def charge(self, passes: float) -> None:
        """Something was done once, that is no look."""
        seconds = self._lap(passes)
        self._allowance.charge(seconds if self.unit == "seconds" else passes)

    def leave(self) -> None:
        """From here on the seconds are the training's."""
        self._watch.leave()

    def numbers(self) -> dict[str, float | None]:
        """Of the present measuring step, and in all."""
        return {
            "passes": self._passes_spent - self._before[1],
            "passes_overhead": self.passes_overhead,
            "seconds": self._watch.spent - self._before[0],
            "overhead": self.overhead,
        }

    def forecast(self, passes: float, occasions: int, expected: Mapping[str, float]) -> dict[str, int]:
        """After how many more measuring steps, each after so many passes of training, each look will be made.

        In seconds the past ones, `occasions` of them, are taken for the rule; without any nothing is known.
        """
        work = passes
        if self.unit == "seconds":
            work = self._watch.watched / occasions if occasions else 0.0
        return self._allowance.forecast(work, self._in_unit(expected)) if work else {}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {
            "passes": [self._passes_watched, self._passes_spent],
            "allowance": self._allowance.state_dict(),
            "seconds": [self._watch.watched, self._watch.spent],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._passes_watched, self._passes_spent = state["passes"]
        self._allowance.load_state_dict(state["allowance"])
        self._watch.resume(*state["seconds"])

    def _in_unit(self, expected: Mapping[str, float]) -> dict[str, float]:
        if self.unit == "passes":
            return dict(expected)
        # How long a pass takes is not known before the first gradient, for which nothing is expected then.
        seconds = self._allowance.costs.get(GRADIENT, 0.0) / expected[GRADIENT]
        return {kind: passes * seconds for kind, passes in expected.items()}

    def _lap(self, passes: float) -> float:
        _wait(self._device)
        self._passes_spent += passes
        return self._watch.lap()


def _wait(device: torch.device) -> None:
    """Until the device has done what it was told, so that seconds count where they belong."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
