"""What a grid may hide: closed forms of what every second point of it hides, and of doubt within cells."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.measures.topology.grid_error import grid_error


def error(f, *axes: np.ndarray, ceiling: float = math.inf) -> float:
    return grid_error(f(*np.meshgrid(*axes, indexing="ij")), axes, ceiling)


EVEN = np.linspace(-1, 1, 11)  # spacing 0.2
UNEVEN = np.array([-1.0, -0.9, -0.3, 0.2, 1.0])


@pytest.mark.parametrize("axes", [(EVEN,), (UNEVEN,), (EVEN, UNEVEN), (EVEN, EVEN, UNEVEN)])
def test_nothing_is_hidden_of_a_plane(axes):
    def plane(*x):
        return sum((k + 1) * t for k, t in enumerate(x))

    assert error(plane, *axes) == pytest.approx(0, abs=1e-12)


def test_of_a_parabola_the_coarse_grid_misses_four_times_what_the_fine_one_does():
    # Between points s apart x^2 is below its chord by s^2 / 4; every second point: s^2.
    assert error(np.square, EVEN) == pytest.approx(0.2**2)
    assert error(lambda x, y: x**2 + 3 * y**2, EVEN, EVEN) == pytest.approx(4 * 0.2**2)
    # 0.2 is 0.5 from one neighbour and 0.8 from the other.
    assert error(np.square, UNEVEN) == pytest.approx(0.5 * 0.8)


def test_of_a_kink_it_is_at_least_what_the_fine_grid_misses():
    for kink in np.linspace(-0.1, 0.1, 9):
        fine = np.linspace(-1, 1, 20_001)
        hidden = np.abs(np.interp(fine, EVEN, np.abs(EVEN - kink)) - np.abs(fine - kink)).max()
        assert error(lambda x, kink=kink: np.abs(x - kink), EVEN) >= hidden - 1e-9


def test_a_saddle_within_a_cell_is_in_doubt_between_its_corners():
    # Low corners 1 and 2 face each other, so do 5 and 7: the loss may join the low ones anywhere from 2 to 5.
    heights = np.array([[1.0, 5, 5], [7, 2, 5], [5, 5, 5]])
    cell = grid_error(heights, (np.arange(3.0), np.arange(3.0)))
    between = max(
        abs(5 - (1 + 5) / 2), abs(2 - (7 + 5) / 2), abs(5 - 5), abs(7 - (1 + 5) / 2), abs(2 - (5 + 5) / 2),
        abs(2 - (1 + 5 + 5 + 5) / 4),
    )  # fmt: skip
    assert cell == pytest.approx(between + (5 - 2))
    # Turned over, it is the other diagonal.
    assert grid_error(heights[::-1], (np.arange(3.0), np.arange(3.0))) == cell


def test_opposite_corners_of_a_cube_are_in_doubt_too():
    heights = np.full((3, 3, 3), 4.0)
    heights[0, 0, 0], heights[1, 1, 1] = 0.0, 1.0
    axes = (np.arange(3.0),) * 3
    between = 3.0  # of the middle, from neighbours of height 4
    assert grid_error(heights, axes) == pytest.approx(between + (4 - 1))
    heights[0, 0, 1] = heights[0, 1, 1] = 0.5  # a way along edges, no higher than the ends
    assert grid_error(heights, axes) == pytest.approx(3.5), "of the second low corner, from neighbours of 4"


def test_above_the_ceiling_nothing_matters():
    def f(x):
        return np.where(np.abs(x) < 0.5, x**2, 100 * x**4)

    assert error(f, EVEN) > 10
    assert error(f, EVEN, ceiling=0.16) == pytest.approx(0.2**2)


def test_beside_walls_only_what_is_known_counts():
    heights = np.square(EVEN)
    heights[5] = np.inf
    assert grid_error(heights, (EVEN,)) == pytest.approx(0.2**2)
    assert grid_error(np.where(np.arange(11) % 2, np.inf, 1.0), (EVEN,)) == math.inf


def test_an_axis_of_two_points_says_nothing():
    assert grid_error(np.zeros((5, 2)), (np.arange(5.0), np.arange(2.0))) == math.inf
