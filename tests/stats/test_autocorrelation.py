"""Means of correlated series against series whose correlation is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.autocorrelation import correlated_mean, drift

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


CASES = [(0.0, 0.0), (0.8, 0.0), (0.95, 0.0), (-0.5, 0.0), (1.7, -0.81)]


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


@pytest.mark.parametrize(("a", "b"), CASES)
def test_intervals_cover_and_drift_is_not_seen_where_none_is(a: float, b: float) -> None:
    x = autoregressive(2000, 2000, a, b, seed=1)
    found = correlated_mean(x)
    assert 0.93 < np.mean(np.abs(found.value) <= stats.t.ppf(0.975, found.dof) * found.standard_error) < 0.97
    p = drift(x).p_value
    assert np.mean(p < 0.05) < 0.065
    assert np.mean(p < 0.01) < 0.018
    # Squares are skewed: their interval is for the logarithm.
    squares = correlated_mean(x**2)
    half = stats.t.ppf(0.975, squares.dof) * squares.standard_error / squares.value
    assert 0.93 < np.mean(np.abs(np.log(squares.value / variance(a, b))) <= half) < 0.965


def test_drift_is_seen() -> None:
    x = autoregressive(2000, 200, 0.9, seed=2)
    ramp = np.linspace(0, 1, len(x))[:, None]
    errors = correlated_mean(x).standard_error.mean()
    assert np.mean(drift(x + 24 * errors * ramp).p_value < 0.01) > 0.9
    walk = np.random.default_rng(3).standard_normal((2000, 200)).cumsum(0)
    assert np.mean(drift(walk).p_value < 0.01) + np.mean(correlated_mean(walk).effective_size < 20) > 0.9
    assert (correlated_mean(walk).effective_size < 50).all()
    found = drift(np.concatenate([np.zeros(50), np.ones(50)]))
    assert found.difference == 1
    assert found.p_value < 1e-10


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
