"""From where a surface is looked at first."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.report.surface_camera import DISTANCE, eye

X = np.linspace(-1, 1, 41)


def wall(at: float) -> np.ndarray:
    """A ridge across the first axis, high but at its one place."""
    return np.exp(-(((X[:, None] - at) / 0.1) ** 2)) + 0 * X


@pytest.mark.parametrize("side", [-1, 1])
def test_what_lies_behind_a_ridge_is_looked_at_from_its_own_side(side):
    path = np.column_stack([np.full(20, 0.9 * side), np.linspace(-0.5, 0.5, 20), np.full(20, 0.02)])
    place = eye(X, X, wall(0.6 * side), path)
    assert place[0] * side > 0.5
    assert np.linalg.norm(place) == pytest.approx(DISTANCE)
    assert place[2] > 0


def test_a_scale_of_its_own_along_each_axis_changes_nothing():
    path = np.column_stack([np.full(20, -0.9), np.linspace(-0.5, 0.5, 20), np.full(20, 0.02)])
    place = eye(X, X, wall(-0.6), path)
    scales = np.array([1e-4, 7.0, 300.0])
    assert eye(scales[0] * X, scales[1] * X, scales[2] * wall(-0.6), path * scales) == pytest.approx(place)


@pytest.mark.parametrize("points", [np.empty((0, 3)), np.full((2, 3), np.nan), np.zeros((1, 3))])
def test_where_all_is_in_sight_the_first_place_is_taken(points):
    x, y, z = eye(X, X, np.zeros((41, 41)), points)
    assert x == pytest.approx(y)
    assert x > 0
    assert z > 0


def test_holes_are_in_nobodys_way():
    heights = wall(0.0)
    heights[15:26] = np.nan
    path = np.column_stack([np.full(5, -0.9), np.linspace(-0.5, 0.5, 5), np.full(5, 0.02)])
    assert eye(X, X, heights, path) == eye(X, X, np.where(np.isnan(heights), np.nan, 0.0), path)
