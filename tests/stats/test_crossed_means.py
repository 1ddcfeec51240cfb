"""`fold_standard_error`: against variance components that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.crossed_means import fold_standard_error


def simulated(
    probe: float, fold: float, both: float, num_folds: int, num_probes: int, num_tables: int, seed: int = 0
) -> np.ndarray:
    """Tables ``(num_tables, F, K)`` of the two-way model with these standard deviations and mean nought."""
    rng = np.random.default_rng(seed)
    return (
        probe * rng.normal(size=(num_tables, 1, num_probes))
        + fold * rng.normal(size=(num_tables, num_folds, 1))
        + both * rng.normal(size=(num_tables, num_folds, num_probes))
    )


def test_against_the_mean_squares_of_a_balanced_table() -> None:
    y = simulated(1, 2, 0.5, 6, 9, 1)[0]
    mean_square_folds = 9 * y.mean(1).var(ddof=1)
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    mean_square_both = (residual**2).sum() / (5 * 8)
    error, dof = fold_standard_error(y, np.full(6, 1 / 6))
    assert error == pytest.approx(math.sqrt((mean_square_folds - mean_square_both) / 54))
    assert dof == 5


@pytest.mark.parametrize("weights", [np.full(8, 1 / 8), np.array([0.13] * 7 + [0.09])])
def test_its_square_is_the_folds_share_of_the_variance(weights: np.ndarray) -> None:
    """A short fold varies more, as the mean over fewer examples does."""
    tables = simulated(3, 0, 1, 8, 12, 4000)
    rng = np.random.default_rng(1)
    scales = np.sqrt(1 / (8 * weights))
    tables = tables + scales[:, None] * rng.normal(size=(4000, 8, 1))
    squares = np.array([fold_standard_error(y, weights)[0] ** 2 for y in tables])
    true = (weights**2 * scales**2).sum()
    assert abs(squares.mean() - true) < 4 * squares.std() / math.sqrt(4000) + 0.01 * true


@pytest.mark.parametrize(("probe", "fold", "both"), [(1, 1, 1), (0.3, 1, 2), (1, 0.1, 1), (0.1, 1, 0.1)])
def test_both_parts_together_cover(probe: float, fold: float, both: float) -> None:
    tables = simulated(probe, fold, both, 10, 16, 2000)
    weights, hits = np.full(10, 0.1), 0
    for y in tables:
        samples = y.mean(0)
        error, dof = fold_standard_error(y, weights)
        half = math.hypot(stats.t.ppf(0.975, 15) * samples.std(ddof=1) / 4, stats.t.ppf(0.975, dof) * error)
        hits += abs(samples.mean()) <= half
    assert 0.935 <= hits / 2000 <= 0.985


def test_folds_that_do_not_differ() -> None:
    y = np.tile(np.arange(5.0), (4, 1))
    assert fold_standard_error(y, np.full(4, 0.25)) == (0.0, 3)
    assert fold_standard_error(y[:, :1], np.full(4, 0.25)) == (0.0, 3)


def test_exact_folds_show_their_spread_at_once() -> None:
    y = np.array([[1.0], [2.0], [4.0]])
    error, dof = fold_standard_error(y, np.full(3, 1 / 3))
    assert (error, dof) == (pytest.approx(y.std(ddof=1) / math.sqrt(3)), 2)


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="`table` must hold at least two folds, got 1"):
        fold_standard_error(np.ones((1, 5)), np.ones(1))
