"""Means of correlated series against series whose correlation is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.autocorrelation import _beyond_bridge, correlated_mean, drift

BEFORE = 300


def autoregressive(n: int, columns: int, a: float, b: float = 0.0, seed: int = 0) -> np.ndarray:
    """``(n, columns)``, stationary: x_t = a x_(t-1) + b x_(t-2) + noise of variance one."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + BEFORE, columns))
    for t in range(2, n + BEFORE):
        x[t] += a * x[t - 1] + b * x[t - 2]
    return x[BEFORE:]


def variance(a: float, b: float = 0.0) -> float:
    return (1 - b) / ((1 + b) * ((1 - b) ** 2 - a**2))


def time(a: float, b: float = 0.0) -> float:
    """The spectrum at nought over the variance."""
    return 1 / (1 - a - b) ** 2 / variance(a, b)


CASES = [(0.0, 0.0), (0.8, 0.0), (0.95, 0.0), (1.7, -0.81)]

# Those that swing to and fro, of which tau is below 1: a step near twice the stable one, and heavy ball's.
SWINGING = [(-0.5, 0.0), (-0.9, 0.0), (0.2, -0.9)]


@pytest.mark.parametrize(("a", "b"), CASES)
def test_time_and_error(a: float, b: float) -> None:
    x = autoregressive(20_000, 40, a, b)
    found = correlated_mean(x)
    assert found.time.mean() == pytest.approx(time(a, b), rel=0.1)
    expected = np.sqrt(variance(a, b) * time(a, b) / len(x))
    assert np.sqrt(np.mean(found.standard_error**2)) == pytest.approx(expected, rel=0.06)
    np.testing.assert_allclose(found.effective_size, len(x) / found.time)
    # The degrees of freedom are at most those of the squared error's own scatter, here over the columns.
    spread = np.var(found.standard_error**2) / np.mean(found.standard_error**2) ** 2
    assert 0.5 * spread < 2 / np.median(found.dof) < 3 * spread


@pytest.mark.parametrize(("a", "b"), CASES + SWINGING)
def test_intervals_cover_and_drift_is_not_seen_where_none_is(a: float, b: float) -> None:
    x = autoregressive(2000, 1000, a, b, seed=1)
    found = correlated_mean(x)
    if (a, b) in SWINGING:
        assert time(a, b) < 1
        assert (found.time == 1).mean() > 0.99
        held = np.abs(found.value) <= stats.t.ppf(0.975, found.dof) * found.standard_error
        assert held.mean() > 0.99
    else:
        assert (
            0.93 < np.mean(np.abs(found.value) <= stats.t.ppf(0.975, found.dof) * found.standard_error) < 0.97
        )
    # Two hundred independent samples and more; half as many make the levels twice as large.
    few = 1 if time(a, b) < 10 else 2
    p = drift(x).p_value
    assert (0 if (a, b) in SWINGING else 0.02) <= np.mean(p < 0.05) < 0.08 * few
    assert np.mean(p < 0.01) < 0.025 * few
    # Squares are skewed: their interval is for the logarithm.
    squares = correlated_mean(x**2)
    half = stats.t.ppf(0.975, squares.dof) * squares.standard_error / squares.value
    assert 0.925 < np.mean(np.abs(np.log(squares.value / variance(a, b))) <= half) < 0.965


def test_drift_is_seen() -> None:
    n, errors = 2000, 19 * np.sqrt(1 / (1 - 0.9**2) / 19 / 2000)  # of the mean
    x = autoregressive(n, 100, 0.9, seed=2)
    t = np.arange(n)[:, None]
    assert np.mean(drift(x + 24 * errors * t / n).p_value < 0.01) > 0.8
    assert np.mean(drift(x + 12 * errors * (t > n / 2)).p_value < 0.01) > 0.75
    # What fades within the first tenth, and moves the mean by six standard errors.
    assert np.mean(drift(x + 6 * errors * 10 * (t < n / 10)).p_value < 0.01) > 0.85
    walk = np.random.default_rng(3).standard_normal((n, 100)).cumsum(0)
    assert (correlated_mean(walk).effective_size < 50).all()
    assert drift(np.repeat([0.0, 1.0], 50)).p_value < 1e-10


def test_the_law_of_the_statistic() -> None:
    """Its quantiles at 50, 10, 5, 1 and 0.1 %, by Csorgo and Faraway (1996), table 1."""
    found = _beyond_bridge(np.array([0.11888, 0.34730, 0.46136, 0.74346, 1.16786]))
    np.testing.assert_allclose(found, [0.5, 0.1, 0.05, 0.01, 0.001], rtol=2e-3)
    np.testing.assert_allclose(_beyond_bridge(np.array([0.0, 1e9])), [1.0, 0.0], atol=1e-12)


def test_what_does_not_vary() -> None:
    found = correlated_mean(np.full((30, 2), 3.0))
    assert found.value.tolist() == [3.0, 3.0]
    assert found.standard_error.tolist() == [0.0, 0.0]
    assert found.time.tolist() == [1.0, 1.0]
    assert drift(np.full(30, 3.0)).p_value == 1
    few = correlated_mean(np.arange(7.0))
    assert few.value == 3
    assert np.isnan(few.standard_error)


def test_shapes_do_not_matter() -> None:
    x = autoregressive(500, 6, 0.5)
    flat, block = correlated_mean(x), correlated_mean(x.reshape(500, 2, 3))
    np.testing.assert_allclose(block.standard_error.ravel(), flat.standard_error)
    np.testing.assert_allclose(correlated_mean(x[:, 4]).time, flat.time[4])
