"""Numbers in decimal digits; bounds rounded away from what they bound, so that what is printed is one."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


def rounded(value: float, place: int, rounding: str) -> Decimal:
    """A finite number to a multiple of ``10**place``, by one of the rules of `decimal`.

    Of its shortest decimal form, not of its binary one: 0.1 rounded up is 0.1.
    """
    return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(place), rounding)


def at_least(bound: float, digits: int = 6) -> str:
    """A lower bound in significant digits, rounded down.

    >>> at_least(1.23456789), at_least(-1.23456789), at_least(0.1)
    ('1.23456', '-1.23457', '0.1')
    """
    return _significant(bound, digits, ROUND_FLOOR)


def at_most(bound: float, digits: int = 6) -> str:
    """An upper bound in significant digits, rounded up.

    >>> at_most(1.23456123), at_most(0.0021449, 2), at_most(math.inf)
    ('1.23457', '0.0022', 'inf')
    """
    return _significant(bound, digits, ROUND_CEILING)


def _significant(x: float, digits: int, rounding: str) -> str:
    if x == 0 or not math.isfinite(x):
        return f"{x:g}"
    place = Decimal(repr(float(x))).adjusted() - digits + 1
    return f"{float(rounded(x, place, rounding)):.{digits}g}"
