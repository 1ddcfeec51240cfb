"""What an argument must be, and the words in which it is refused: argument, requirement, what was got."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np


def check_count(name: str, value: Any, least: int = 1) -> None:
    """A whole number of at least 1, or whatever else is the least."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")


def check_positive(name: str, value: Any, hint: str) -> None:
    """A positive finite number; the hint says which is a good one."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite, got {value!r}; {hint}.")


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


def check_one_of(name: str, value: Any, known: Iterable[Any], *, some: bool = False) -> None:
    """One of several names or numbers, and the one that is probably meant; `some` where the argument takes
    more."""
    values = list(known)
    if value not in values:
        names = [str(one) for one in values]
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"`{name}` must be {'some' if some else 'one'} of {', '.join(names)}, got {value!r}{hint}"
        )
