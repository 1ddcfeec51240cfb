"""Where rays first cross a level: closed forms for many at once, the scan's limits, walls, jumps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thalweg.core.errors import ConvergenceError
from thalweg.measures.sharpness.crossings import first_crossings

SCAN = {"level": 0.1, "first": 0.05, "growth": 2.0, "limit": 8.0, "rtol": 0.01}


def counted(curves):
    """Rises along rays as `first_crossings` takes them, and the points it asked for, round by round."""
    rounds: list[list[tuple[int, float]]] = []

    def rises(points: list[tuple[int, float]]) -> Tensor:
        rounds.append(points)
        return torch.tensor([curves[ray](t) for ray, t in points], dtype=torch.float64)

    return rises, rounds


def parabola(g: float, h: float):
    return lambda t: g * t + h * t * t / 2


def test_many_parabolas_at_once() -> None:
    coefficients = [(0.1, 90), (-0.3, 5), (0, 0.1), (0, 1e4), (2, -0.1), (0, 1e-9)]
    rises, rounds = counted([parabola(g, h) for g, h in coefficients])
    found = first_crossings(rises, 6, **SCAN)
    for i, (g, h) in enumerate(coefficients[:5]):
        truth = (-g + math.sqrt(g * g + 2 * h * 0.1)) / h
        t, bound = float(found.distances[i]), float(found.bounds[i])
        assert abs(t - truth) <= bound <= 0.01 * truth * 1.01
        assert found.lower[i] <= truth <= found.upper[i]
    assert found.reached.tolist() == [True] * 5 + [False]
    assert found.distances[5] == math.inf
    assert found.lower[5] == 8.0
    points = [point for asked in rounds for point in asked]
    assert len(points) == len(set(points)), "no point is evaluated twice"
    assert len(points) <= 6 * 11
    assert len(rounds[0]) == 6, "all rays share a round"


def test_at_the_level_nought_a_parabola_is_solved_by_one_chord() -> None:
    rises, rounds = counted([parabola(-2.0, 50.0)])
    found = first_crossings(rises, 1, level=0.0, first=0.03, growth=2.0, limit=10, rtol=1e-3)
    assert float(found.distances) == pytest.approx(4 / 50, rel=1e-12)
    assert len(rounds) <= 7


def test_a_bump_between_two_distances_is_seen_by_a_finer_scan_alone() -> None:
    def bumpy(t: float) -> float:
        return 1.0 if 0.55 < t < 0.7 else 0.01 * t * t

    coarse, fine = (
        first_crossings(counted([bumpy])[0], 1, **{**SCAN, "first": 0.1, "growth": growth})
        for growth in (2.0, 1.2)
    )
    assert float(coarse.distances) == pytest.approx(math.sqrt(10), rel=0.01)
    assert float(fine.distances) == pytest.approx(0.55, rel=0.01)


def test_what_is_not_finite_is_a_wall() -> None:
    for bad in (math.inf, math.nan):
        rises, _ = counted([lambda t, bad=bad: bad if t > 0.3 else 0.0])
        found = first_crossings(rises, 1, **SCAN)
        assert float(found.distances) == pytest.approx(0.3, rel=0.011)
        assert float(found.lower) <= 0.3 <= float(found.upper)


def test_the_limit_is_visited_itself() -> None:
    rises, rounds = counted([parabola(0, 2 * 0.1 / 49.0)])  # crosses at 7
    assert float(first_crossings(rises, 1, **SCAN).distances) == pytest.approx(7, rel=0.01)
    rises, rounds = counted([parabola(0, 2 * 0.1 / 81.0)])  # would cross at 9
    assert not first_crossings(rises, 1, **SCAN).reached.any()
    assert rounds[-1] == [(0, 8.0)]


def test_a_jump_at_the_point_itself_is_an_error() -> None:
    with pytest.raises(ConvergenceError, match=r"risen by more than 0.1 at a distance of .* already"):
        first_crossings(counted([lambda t: 1.0])[0], 1, **SCAN)


def test_small_steps_look_inwards_as_far_as_large_ones() -> None:
    """To 2^-40 of the first distance, not for forty steps: 1.05^40 is a mere 7."""
    scan = {"level": 0.1, "first": 8.0, "growth": 1.05, "limit": 8.0, "rtol": 1e-4}
    found = first_crossings(counted([parabola(0, 2 * 0.1 / 1e-6)])[0], 1, **scan)  # crosses at 1e-3
    assert float(found.distances[0]) == pytest.approx(1e-3, rel=1e-3)
