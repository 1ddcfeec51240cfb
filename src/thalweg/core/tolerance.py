"""How far off a number may be: by so much, or by such a part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg.core.arguments import is_number


@dataclass(frozen=True)
class Tolerance:
    """``max(absolute, relative * |value|)``; called with values, it says what is allowed at each."""

    absolute: float = 0.0
    relative: float = 0.0

    @classmethod
    def checked(cls, absolute: tuple[str, Any], relative: tuple[str, Any]) -> Tolerance | None:
        """Of two arguments, each its name and what was given; ``None`` where neither is asked for.

        Raises
        ------
        ValueError
            If one is negative or not finite, or none is positive.
        """
        if absolute[1] is None and relative[1] is None:
            return None
        for name, value in (absolute, relative):
            if value is not None and not (is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"`{name}` must be a finite number >= 0 or None, got {value!r}.")
        found = cls(float(absolute[1] or 0), float(relative[1] or 0))
        if not max(found.absolute, found.relative):
            raise ValueError(
                f"`{absolute[0]}` or `{relative[0]}` must be positive, got {absolute[1]!r} and "
                f"{relative[1]!r}; None for both asks for no error at all."
            )
        return found

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(self.absolute, self.relative * np.abs(values))
