"""Texts of bounds: never on the wrong side, and as near as their digits allow."""

from __future__ import annotations

import math
import random
from decimal import ROUND_HALF_EVEN, Decimal

import pytest

from thalweg.core.rounding import at_least, at_most, rounded


@pytest.mark.parametrize("digits", [1, 2, 6])
def test_a_bound_stays_one(digits: int) -> None:
    rng = random.Random(0)
    for _ in range(2000):
        x = rng.choice([-1, 1]) * 10 ** rng.uniform(-30, 30)
        below, above = float(at_least(x, digits)), float(at_most(x, digits))
        assert below <= x <= above
        assert above - below <= 1.001 * 10 ** (math.floor(math.log10(abs(x))) - digits + 1)


def test_what_has_few_digits_is_left_as_it_is() -> None:
    for x in (0.0, 0.1, -0.1, 1e-300, 2.5, 1e300, math.inf, -math.inf):
        assert float(at_least(x)) == float(at_most(x)) == x
    assert at_least(math.nan) == at_most(math.nan) == "nan"


def test_a_carry_into_another_digit() -> None:
    assert at_most(9.9999996) == "10"
    assert at_least(-9.9999996) == "-10"


def test_to_a_place() -> None:
    assert rounded(2.675, -2, ROUND_HALF_EVEN) == Decimal("2.68"), "of the decimal form, a tie to even"
    assert rounded(12345.0, 2, ROUND_HALF_EVEN) == 12300
