"""Catapults: the loss shoots up, and comes down where the curvature is lower."""

from __future__ import annotations

import math
from collections.abc import Mapping

# The loss is up when it lies above the lowest so far by this part of it.
RISE = 0.5

# The curvature is lower when it has lost this part.
DROP = 0.2


class Catapults:
    r"""Finds catapults in readings of loss and sharpness along a training run, as they come.

    A rise begins with the first reading whose loss exceeds by half the lowest since the start, or since the
    last catapult. It ends as a catapult at the first reading with a sharpness at which the loss is below the
    rise's peak and the sharpness below 0.8 of the last one read before the rise; and as none when the loss is
    back within half above its lowest and the sharpness has not fallen so. A loss that goes on rising is no
    catapult, nor is a fall of the sharpness alone. Rises between two readings are not seen.

    References
    ----------
    Lewkowycz, Bahri, Dyer, Sohl-Dickstein and Gur-Ari (2020), The large learning rate phase of deep learning:
    the catapult mechanism, arXiv:2003.02218.
    """

    def __init__(self) -> None:
        self._lowest = math.inf
        self._sharpness: float | None = None
        self._peak: float | None = None

    def saw(self, loss: float, sharpness: float | None) -> bool:
        """Whether this reading ends a catapult; without a sharpness the verdict waits."""
        if self._peak is None:
            if not self._is_up(loss) or self._sharpness is None:
                self._calm(loss, sharpness)
                return False
            self._peak = loss
        self._peak = max(self._peak, loss)
        if sharpness is None or loss >= self._peak:
            return False
        if self._sharpness is not None and sharpness <= (1 - DROP) * self._sharpness:
            self._lowest = math.inf
            self._calm(loss, sharpness)
            return True
        if not self._is_up(loss):
            self._calm(loss, sharpness)
        return False

    def state_dict(self) -> dict[str, float | None]:
        """What `load_state_dict` goes on from."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        """Go on from there."""
        vars(self).update(state)

    def _is_up(self, loss: float) -> bool:
        return loss > self._lowest + RISE * abs(self._lowest)

    def _calm(self, loss: float, sharpness: float | None) -> None:
        self._peak = None
        self._lowest = min(self._lowest, loss)
        self._sharpness = self._sharpness if sharpness is None else sharpness
