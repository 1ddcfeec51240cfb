"""Adaptive grids: nested levels, what a quadratic costs, ridges, kinks, holes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from thalweg.solvers.adaptive_grid import Refined, coarse_points, filled, grid_levels, levels, refine


def run(
    function: Callable[..., np.ndarray], shape: tuple[int, ...], tolerance: float
) -> tuple[Refined, np.ndarray, np.ndarray]:
    """What was evaluated, the surface made of it, and the truth."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    truth = function(*np.meshgrid(*axes, indexing="ij"))
    asked: list[int] = []

    def evaluate(flat: list[int]) -> np.ndarray:
        asked.extend(flat)
        assert flat == sorted(flat)
        return truth.reshape(-1)[flat]

    found = refine(evaluate, axes, lambda values: np.full(values.shape, tolerance))
    assert len(asked) == len(set(asked)), "no point twice"
    assert sorted(asked) == np.flatnonzero(found.evaluated).tolist()
    return found, filled(np.where(found.evaluated, truth, 7e7), found.evaluated, axes), truth


@pytest.mark.parametrize("n", [3, 5, 7, 9, 21, 25, 51, 101])
def test_levels_are_nested_symmetric_and_halve_the_gaps(n: int) -> None:
    found = levels(n)
    assert len(found[0]) == min(n, 5)
    assert found[-1].tolist() == list(range(n))
    for nodes in found:
        assert (nodes + nodes[::-1] == n - 1).all()
        assert {0, n // 2, n - 1} <= set(nodes.tolist())
    for coarse, fine in pairwise(found):
        assert set(coarse.tolist()) < set(fine.tolist())
        assert np.diff(fine).max() == -(-np.diff(coarse).max() // 2)


def test_axes_of_other_lengths_refine_together() -> None:
    scheme = grid_levels((25, 3))
    assert [[len(nodes) for nodes in level] for level in scheme] == [[5, 3], [9, 3], [17, 3], [25, 3]]
    assert len(coarse_points((25, 3))) == 15
    sizes = [[len(nodes) for nodes in level] for level in grid_levels((25, 51))]
    assert sizes == [[5, 5], [9, 9], [17, 17], [25, 33], [25, 51]]


def test_no_axis_is_left_out_of_the_first_test() -> None:
    """A function of the short axis alone: the long one would find nothing to refine."""
    _, surface, truth = run(lambda a, b: np.exp(-((a / 0.2) ** 2)) + 0 * b, (13, 51), 0.01)
    np.testing.assert_allclose(surface, truth, atol=0.01)


def test_a_cubic_is_evaluated_no_further_than_its_test() -> None:
    found, surface, truth = run(lambda a, b: a**3 - 2 * a * b**2 + 3 * b - 1, (51, 25), 1e-9)
    assert found.evaluated.sum() == 9 * 9
    np.testing.assert_allclose(surface, truth, atol=1e-12)
    assert found.errors.max() < 1e-12


@pytest.mark.parametrize("width", [0.3, 0.1, 0.05])
@pytest.mark.parametrize(
    ("shape", "function"),
    [
        ((51, 51), lambda w, a, b: np.exp(-(((a - 0.7 * b) / w) ** 2))),
        ((51, 51), lambda w, a, b: np.abs(a + 0.3 * b) / w),
        ((101,), lambda w, a: np.tanh((a - 0.31) / w)),
    ],
    ids=["ridge", "kink", "step"],
)
def test_the_error_is_within_the_one_stated_and_that_within_the_tolerance(shape, function, width) -> None:
    found, surface, truth = run(lambda *x: function(width, *x), shape, 0.01)
    assert (np.abs(surface - truth) <= found.errors + 1e-12).all()
    assert found.errors.max() <= 0.01
    assert not found.errors[found.evaluated].any()
    assert 0 < found.evaluated.mean() < 0.8


def wells(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    heights, widths = rng.uniform(0.3, 1, 4), rng.uniform(0.02, 0.3, 4)
    places = rng.uniform(-0.9, 0.9, (4, 2))
    holes = [
        h * np.exp(-((a - x) ** 2 + (b - y) ** 2) / w)
        for h, w, (x, y) in zip(heights, widths, places, strict=True)
    ]
    return 0.3 * (a**2 + b**2) - sum(holes)


def ring(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    x, y = rng.uniform(-0.3, 0.3, 2)
    radius, steepness = rng.uniform(0.3, 0.9), rng.uniform(2, 6)
    return np.tanh(steepness * ((a - x) ** 2 + (b - y) ** 2 - radius**2)) ** 2


def double_well(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 4 * (a**2 - rng.uniform(0.2, 0.6)) ** 2 + (b - rng.uniform(-1, 1) * a) ** 2


def kinks(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    slopes = rng.normal(size=(6, 3))
    return sum(np.abs(u * a + v * b + w / 2) for u, v, w in slopes)


def relu_network(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross-entropy of a layer of 6 ReLUs on 40 examples, along two random directions."""
    x, y = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    first, last = rng.normal(size=(3, 4, 6)), 1.5 * rng.normal(size=(3, 6, 3))
    steps = np.stack([np.ones(a.size), 1.5 * a.ravel(), 1.5 * b.ravel()], 1)
    hidden = np.maximum(np.einsum("nd,tdh->tnh", x, np.einsum("tk,kdh->tdh", steps, first)), 0)
    logits = np.einsum("tnh,thc->tnc", hidden, np.einsum("tk,khc->thc", steps, last))
    logits -= logits.max(2, keepdims=True)
    losses = np.log(np.exp(logits).sum(2)) - logits[:, np.arange(40), y]
    return losses.mean(1).reshape(a.shape)


@pytest.mark.parametrize("shape", [(101,), (33, 33)], ids=["line", "plane"])
@pytest.mark.parametrize("surface", [wells, ring, double_well, kinks, relu_network])
def test_the_tolerance_and_the_error_stated_hold_at_nearly_all_points(surface, shape) -> None:
    """Counted over random surfaces of a kind, at the points that were interpolated."""
    rng, missed, beyond, whole = np.random.default_rng(0), 0, 0, 0
    for share in (0.02, 0.004):
        for _ in range(10 if len(shape) == 1 else 4):
            seed = rng.integers(2**31)

            def function(a, b=None, seed=seed):
                return surface(np.random.default_rng(seed), a, 0 * a + 0.1 if b is None else b)

            extent = np.ptp(function(*np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")))
            found, guess, truth = run(function, shape, share * extent)
            error, inside = np.abs(guess - truth), ~found.evaluated
            missed += (error > share * extent)[inside].sum()
            beyond += (error > found.errors + 1e-12)[inside].sum()
            whole += inside.sum()
            assert found.errors.max() <= share * extent * (1 + 1e-12)
    assert whole > 100
    assert missed <= 0.02 * whole, "at 98 % of the points the tolerance asked for"
    assert beyond <= 0.05 * whole, "at 95 % what is stated there"


def test_what_lies_between_the_points_of_a_test_is_missed() -> None:
    """Why the error is called an estimate."""
    found, surface, truth = run(lambda a: np.exp(-(((a - 0.0625) / 0.02) ** 2)), (129,), 0.01)
    assert np.abs(surface - truth).max() > 0.9
    assert found.errors.max() < 0.01


def test_a_loss_that_is_not_finite_is_never_filled_in() -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        found, surface, truth = run(lambda a, b: np.log(a + 0.5 * b + 0.8), (33, 17), 0.01)
        hole = ~np.isfinite(np.where(np.isneginf(truth), np.nan, truth))
    assert hole.any()
    assert np.array_equal(np.isnan(surface), hole)
    assert found.evaluated[hole].all()
    assert not found.evaluated.all()


def test_further_axes_in_front_are_filled_alike() -> None:
    axes = [np.linspace(-1, 1, 17), np.linspace(-2, 2, 9)]
    a, b = np.meshgrid(*axes, indexing="ij")
    evaluated = np.zeros(a.shape, dtype=bool)
    evaluated.reshape(-1)[coarse_points(a.shape)] = True
    stack = np.stack([a * b, a - b**2, np.ones_like(a)])
    np.testing.assert_allclose(filled(stack, evaluated, axes), stack, atol=1e-12)
    linear = filled(np.stack([3 * a - b, a**2]), evaluated, axes, order=1)
    np.testing.assert_allclose(linear[0], (3 * a - b), atol=1e-12)
    assert (linear[1] >= a**2 - 1e-12).all(), "chords of a convex function lie above it"


def test_several_functions_share_the_points_that_any_of_them_needs() -> None:
    axes = [np.linspace(-1, 1, 33)]
    asked: list[int] = []

    def smooth(flat):
        return axes[0][flat] ** 2

    def kinked(flat):
        return np.abs(axes[0][flat] - 0.4)

    def both(flat):
        asked.extend(flat)
        return np.stack([smooth(flat), kinked(flat)])

    def allowed(values):
        return np.full_like(values, 0.01)

    found, alone, calm = (refine(f, axes, allowed) for f in (both, kinked, smooth))
    assert np.array_equal(found.evaluated, alone.evaluated)
    assert np.allclose(found.errors, alone.errors)
    assert sorted(asked) == np.flatnonzero(found.evaluated).tolist()
    assert calm.evaluated.sum() == 9 < found.evaluated.sum() < 33
