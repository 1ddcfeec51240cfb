"""What an argument must be, and the words in which it is refused: argument, requirement, what was got."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np


def check_count(name: str, value: Any) -> None:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def is_number(value: Any) -> bool:
    """Whether it is a real number, and no truth value."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_fraction(name: str, value: Any, hint: str) -> None:
    """A number between nought and one, neither included; the hint says which is a good one."""
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(f"`{name}` must lie in (0, 1), got {value!r}; {hint}.")


def check_flag(name: str, value: Any) -> None:
    """True or False, for any text counts as true."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")
