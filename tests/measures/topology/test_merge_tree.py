"""Components and where they join: against Gudhi, SciPy's labels, and trees drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.measures.topology.surfaces import of_function, surface

import thalweg as tw
from thalweg.measures.topology.cubical import cubical_pairs
from thalweg.measures.topology.merge_tree import grid_components

# Uneven, thin and single-point axes; with few distinct heights nearly every comparison is a tie.
SHAPES = [(1,), (2,), (30,), (1, 9), (8, 11), (5, 1, 7), (5, 6, 7)]


def random_heights(shape: tuple[int, ...], seed: int, *, tied: bool, walls: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    heights = rng.integers(4, size=shape).astype(float) if tied else rng.normal(size=shape)
    if walls:
        heights[rng.random(shape) < 0.3] = np.inf
        heights.flat[0] = 0.5
    return heights


def sorted_pairs(heights: np.ndarray, births: np.ndarray, deaths: np.ndarray) -> list[tuple[float, float]]:
    flat = np.append(heights.ravel(), np.inf)
    return sorted(zip(flat[births].tolist(), flat[deaths].tolist(), strict=True))


@pytest.mark.parametrize("walls", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_components_are_gudhis_to_the_bit(shape, tied, walls):
    for seed in range(10):
        heights = random_heights(shape, seed, tied=tied, walls=walls)
        ours, theirs = grid_components(heights), cubical_pairs(heights)[0]
        assert sorted_pairs(heights, ours.minima, ours.saddles) == sorted_pairs(
            heights, theirs.births, theirs.deaths
        )
        if not tied:  # then positions are unique, too
            assert set(zip(ours.minima, ours.saddles, strict=True)) == set(
                zip(theirs.births, theirs.deaths, strict=True)
            )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_components_below_a_level_are_those_one_can_count(shape, tied):
    heights = random_heights(shape, 3, tied=tied, walls=True)
    tree = tw.persistence(surface(torch.from_numpy(heights))).merge_tree
    cross = ndimage.generate_binary_structure(len(shape), 1)
    for level in [*np.unique(heights), -9.0, 0.1, 1.5]:
        _, count = ndimage.label((heights <= level) & np.isfinite(heights), cross)
        assert tree.num_components(level) == count


@pytest.mark.parametrize("tied", [False, True])
def test_two_minima_join_at_the_lowest_level_that_has_both_in_one_component(tied):
    heights = random_heights((9, 8), 5, tied=tied, walls=True)
    tree = tw.persistence(surface(torch.from_numpy(heights))).merge_tree
    cells = [tuple(map(int, point)) for point in tree.minimum_points.tolist()]
    for i in range(len(cells)):
        for j in range(len(cells)):
            joined = math.inf
            for level in np.unique(heights[np.isfinite(heights)]):
                labels, _ = ndimage.label(heights <= level)
                if labels[cells[i]] == labels[cells[j]] != 0:
                    joined = level
                    break
            assert tree.saddle_upper_bound(i, j) == joined


def test_a_tree_by_hand():
    # Minima 0, 2, 1 and 3; between them 5, 4 and 7: 2 joins 1 at 4, 1 joins 0 at 5, 3 joins 0 at 7.
    tree = tw.persistence(surface(torch.tensor([0.0, 5, 2, 4, 1, 7, 3], dtype=torch.float64))).merge_tree
    assert tree.minimum_heights.tolist() == [0, 1, 3, 2]
    assert tree.minimum_points.flatten().tolist() == [0, 4, 6, 2]
    assert tree.saddle_upper_bounds.tolist() == [math.inf, 5, 7, 4]
    assert tree.saddle_points.flatten()[1:].tolist() == [1, 5, 3]
    assert tree.parents.tolist() == [-1, 0, 0, 1]
    assert tree.saddle_upper_bound(3, 1) == tree.saddle_upper_bound(1, 3) == 4
    assert tree.saddle_upper_bound(3, 0) == 5
    assert tree.saddle_upper_bound(3, 2) == 7
    assert tree.saddle_upper_bound(2, 2) == 3
    assert [tree.num_components(level) for level in (-1, 0, 1, 2, 3, 4, 5, 7)] == [0, 1, 2, 3, 4, 3, 2, 1]


def test_equal_heights_go_by_their_position():
    tree = tw.persistence(surface(torch.tensor([1.0, 1, 3, 1, 3, 3, 1], dtype=torch.float64))).merge_tree
    assert tree.minimum_points.flatten().tolist() == [0, 3, 6]
    assert tree.saddle_points.flatten()[1:].tolist() == [2, 4 + 1]
    assert tree.parents.tolist() == [-1, 0, 0]


def test_parents_come_first():
    for seed in range(20):
        parents = grid_components(random_heights((9, 9), seed, tied=seed % 2 == 0, walls=True)).parents
        assert (parents < np.arange(len(parents))).all()


def test_a_saddle_is_where_it_is():
    # Saddles of (x^2 - 1)^2 + (y - x)^2 lie on the diagonal, at the origin.
    result = tw.persistence(of_function(lambda x, y: (x.square() - 1).square() + (y - x).square(), 31, 31))
    tree = result.merge_tree
    assert tree.minimum_points[:2].sort(0).values == pytest.approx(torch.tensor([[-1.0, -1], [1, 1]]).numpy())
    assert tree.saddle_points[1].tolist() == pytest.approx([0, 0], abs=1e-7)


@pytest.mark.parametrize("component", [-1, 4])
def test_a_component_that_is_not_there_is_refused(component):
    tree = tw.persistence(surface(torch.tensor([0.0, 5, 2, 4, 1, 7, 3], dtype=torch.float64))).merge_tree
    with pytest.raises(ValueError, match=f"`j` must be a component from 0 to 3, got {component}"):
        tree.saddle_upper_bound(0, component)
