"""`mean_standard_error`: against formulas by hand, and against the spread it claims to estimate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.clustered_mean import UnitMoments, mean_standard_error


def test_independent_examples_give_the_textbook_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=(3, 11))
    errors, dof = mean_standard_error(x)
    np.testing.assert_allclose(errors, x.std(-1, ddof=1) / math.sqrt(11))
    assert dof == 10


def test_equal_units_give_the_standard_error_of_their_means() -> None:
    x = np.random.default_rng(0).normal(size=(2, 12))
    errors, dof = mean_standard_error(x, 4)
    np.testing.assert_allclose(errors, x.reshape(2, 3, 4).mean(-1).std(-1, ddof=1) / math.sqrt(3))
    assert dof == 2


def test_a_short_last_unit_weighs_what_its_examples_do() -> None:
    x = np.random.default_rng(0).normal(size=10)
    error, dof = mean_standard_error(x, 4)
    parts = [x[:4], x[4:8], x[8:]]
    residuals = [len(p) / 10 * (p.mean() - x.mean()) for p in parts]
    np.testing.assert_allclose(error, math.sqrt(3 / 2 * sum(r**2 for r in residuals)))
    assert dof == 2


def test_nan_stays_in_its_own_row() -> None:
    x = np.ones((2, 4))
    x[0, 2] = math.nan
    errors, _ = mean_standard_error(x)
    assert math.isnan(errors[0])
    assert errors[1] == 0


@pytest.mark.parametrize(("n", "unit"), [(1, 1), (5, 5), (5, 8)])
def test_one_unit_is_refused(n: int, unit: int) -> None:
    with pytest.raises(ValueError, match="at least two independent units"):
        mean_standard_error(np.zeros(n), unit)


@pytest.mark.parametrize("unit", [1, 8])
def test_intervals_cover_and_the_standard_error_is_the_spread(unit: int) -> None:
    """2,000 samples of 93 examples, which share a part with their unit: 11 units of 8 and a last one of 5."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(2000, 93 // unit + 1)).repeat(unit, axis=1)[:, :93] if unit > 1 else 0
    x = shared + rng.normal(size=(2000, 93))
    errors, dof = mean_standard_error(x, unit)
    # The standard deviation of 2,000 means is known to 1.6 %; five of those, and 1 % for the linearisation.
    assert np.sqrt(np.mean(errors**2)) / x.mean(1).std() == pytest.approx(1, abs=0.09)
    covered = np.mean(np.abs(x.mean(1)) <= stats.t.ppf(0.975, dof) * errors)
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize(("unit", "cuts"), [(1, (5, 9)), (4, (8, 20))])
def test_parts_merge_to_the_whole(unit: int, cuts: tuple[int, int]) -> None:
    """Also far from nought, where sums of squares would cancel."""
    x = 1e6 + np.random.default_rng(0).normal(size=(3, 27))
    first, second, third = (UnitMoments.of(part, unit) for part in np.split(x, cuts, axis=1))
    whole = first.merge(second).merge(third)
    expected, dof = mean_standard_error(x, unit)
    np.testing.assert_allclose(whole.standard_error(), expected, rtol=1e-8)
    np.testing.assert_allclose(whole.mean, x.mean(1), rtol=1e-15)
    assert whole.num_units - 1 == dof
    assert whole.num_examples == 27


def test_equal_examples_have_no_error_however_merged() -> None:
    x = np.full((1, 10), 0.1)
    merged = UnitMoments.of(x[:, :3]).merge(UnitMoments.of(x[:, 3:]))
    assert merged.standard_error().tolist() == [0.0]
