"""The band around a whole surface: Student's at one point, never too narrow on many."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from thalweg.measures.topology.noise_band import sup_norm_band
from thalweg.stats.clustered_mean import mean_standard_error

GRID = np.linspace(-1, 1, 60)
SMOOTH = np.stack([np.ones(60), GRID, GRID**2])


def band(folds: np.ndarray, sizes: np.ndarray, level: float = 0.95, draws: int = 1000, **more) -> float:
    return sup_norm_band(folds, sizes, **{"level": level, "num_draws": draws, "seed": 0, **more})


@pytest.mark.parametrize("num_folds", [2, 3, 5, 20])
def test_at_one_point_it_is_students_interval(num_folds):
    folds = np.random.default_rng(0).normal(size=(num_folds, 1))
    sizes = np.full(num_folds, 7)
    error, dof = mean_standard_error(folds.T)
    for level in (0.5, 0.8, 0.95):
        c = band(folds, sizes, level, 100_000)
        # To four standard errors of the quantile: where the density is f, sqrt(level (1 - level) / B) / f.
        half = stats.t.ppf(0.5 + level / 2, dof)
        allowed = 4 * np.sqrt(level * (1 - level) / 100_000) / (2 * stats.t.pdf(half, dof))
        assert c / error[0] == pytest.approx(half, abs=allowed)


def test_folds_weigh_what_they_hold():
    # Three folds of 10 examples and one of 5: the clustered standard error, with the short one last.
    values = np.random.default_rng(1).normal(size=35)
    folds = np.array([values[:10].mean(), values[10:20].mean(), values[20:30].mean(), values[30:].mean()])
    (error,), dof = mean_standard_error(values[None], 10)
    c = band(folds[:, None], np.array([10, 10, 10, 5]), draws=100_000)
    assert c / error == pytest.approx(stats.t.ppf(0.975, dof), rel=0.03)


def test_points_are_drawn_together():
    one = np.random.default_rng(2).normal(size=(12, 1))
    sizes = np.full(12, 4)
    same = band(np.repeat(one, 50, axis=1), sizes)
    assert same == pytest.approx(band(one, sizes), rel=1e-12), "the same error at all points"
    apart = np.random.default_rng(2).normal(size=(12, 50)) * one.std()
    assert band(apart, sizes) > 1.2 * band(one, sizes)


def test_the_unit_and_a_shift_of_the_loss_do_not_matter():
    folds, sizes = np.random.default_rng(3).normal(size=(6, 20)), np.full(6, 9)
    c = band(folds, sizes)
    assert band(-1000 * folds, sizes) == pytest.approx(1000 * c)
    assert band(folds + 5, sizes) == pytest.approx(c)
    assert band(folds * 0 + np.arange(20), sizes) == pytest.approx(0, abs=1e-12)


def test_error_that_does_no_harm_is_left_out():
    folds = np.random.default_rng(4).normal(size=(6, 20)) * np.r_[np.ones(10), np.full(10, 100.0)]
    sizes = np.full(6, 9)
    low = band(folds[:, :10], sizes)
    assert band(folds, sizes) > 30 * low
    assert band(folds, sizes, margins=np.r_[np.zeros(10), np.full(10, 1e6)]) == low
    assert band(folds, sizes, margins=np.r_[np.zeros(10), np.full(10, 50.0)]) > low, "it may reach that far"


def test_two_folds_and_enough_draws_are_needed():
    folds = np.random.default_rng(5).normal(size=(4, 3))
    with pytest.raises(ValueError, match="at least two folds, got 1"):
        band(folds[:1], np.array([9]))
    with pytest.raises(ValueError, match=r"`num_draws` must be at least 19 for `level` = 0\.95, got 18"):
        band(folds, np.full(4, 9), draws=18)
    assert band(folds, np.full(4, 9), draws=19) > 0


def coverage(num_folds: int, field: str, repetitions: int) -> float:
    """How often the band around the mean of all examples has all of the true surface, which is nought."""
    rng = np.random.default_rng(num_folds)
    sizes = np.where(np.arange(num_folds) % 3, 20, 10)
    starts = np.r_[0, sizes.cumsum()[:-1]]
    inside = 0
    for seed in range(repetitions):
        match field:
            case "independent":
                examples = rng.normal(size=(sizes.sum(), 60))
            case "smooth":
                examples = rng.normal(size=(sizes.sum(), 3)) @ SMOOTH
            case "skewed":  # far from normal, and thirty times noisier at the ends than in the middle
                examples = (rng.exponential(size=(sizes.sum(), 3)) - 1) @ SMOOTH * (0.03 + GRID**4)
        folds = np.add.reduceat(examples, starts) / sizes[:, None]
        inside += np.abs(examples.mean(0)).max() <= band(folds, sizes, draws=199, seed=seed)
    return inside / repetitions


FIELDS = ["independent", "smooth", "skewed"]


@pytest.mark.parametrize("field", FIELDS)
def test_it_covers(field):
    # Three standard errors of the count below nominal are 0.917.
    assert coverage(8, field, 300) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("num_folds", [2, 4, 8, 16, 32])
def test_it_covers_in_2000_repetitions(num_folds, field):
    covered = coverage(num_folds, field, 2000)
    assert covered >= 0.94
    if num_folds >= 16 and field == "smooth":
        assert covered <= 0.975, "hardly wider than need be, once there are folds enough"
