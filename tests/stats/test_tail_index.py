"""Hill's estimator on tails whose index is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.tail_index import hill_tail_index


def covered(draw: object, alpha: float, repetitions: int, seed: int, **kwargs: int) -> float:
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(repetitions):
        found = hill_tail_index(draw(rng), **kwargs)  # type: ignore[operator]
        hits += found.low <= alpha <= found.high
    return hits / repetitions


@pytest.mark.parametrize("alpha", [0.8, 1.5, 3.0])
def test_the_interval_covers_of_a_power_law(alpha: float) -> None:
    part = covered(lambda rng: rng.pareto(alpha, 400) + 1, alpha, 2000, 0)
    assert 0.935 < part < 0.965


@pytest.mark.parametrize("dof", [1.0, 2.0, 3.0])
def test_of_students_tails(dof: float) -> None:
    """A power law far out only: the square root of n is far enough out for the interval to hold."""
    part = covered(lambda rng: np.abs(rng.standard_t(dof, 10_000)), dof, 300, 1)
    assert part > 0.9


@pytest.mark.parametrize("alpha", [1.0, 1.2, 1.5])
def test_of_stable_tails(alpha: float) -> None:
    def draw(rng: np.random.Generator) -> np.ndarray:
        return np.abs(stats.levy_stable.rvs(alpha, 0.0, size=20_000, random_state=rng))

    assert covered(draw, alpha, 60, 2) > 0.8


def test_light_tails_are_above_any_power() -> None:
    rng = np.random.default_rng(3)
    found = [hill_tail_index(np.abs(rng.normal(size=5_000))) for _ in range(50)]
    assert all(f.high > 4 for f in found)
    assert np.mean([f.value for f in found]) > 5


def test_by_hand() -> None:
    found = hill_tail_index([1.0, 2.0, 4.0, 8.0, 0.5], num_tail=2)
    assert found.value == pytest.approx(2 / (math.log(8 / 2) + math.log(4 / 2)))
    assert found.num_tail == 2
    assert hill_tail_index(np.arange(1.0, 101.0)).num_tail == 10


def test_no_tail() -> None:
    assert math.isnan(hill_tail_index(np.zeros(20)).value)
    assert hill_tail_index(np.ones(20)).value == math.inf
    with pytest.raises(ValueError, match="`num_tail` must be less than the 5 samples there are, got 5"):
        hill_tail_index(np.ones(5), 5)
    with pytest.raises(ValueError, match="`num_tail` must be a whole number of at least 1, got 0"):
        hill_tail_index(np.ones(5), 0)
