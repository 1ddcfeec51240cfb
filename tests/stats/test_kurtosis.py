"""Excess kurtosis against SciPy, and its standard error where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.kurtosis import excess_kurtosis


def test_scipy_agrees() -> None:
    x = np.random.default_rng(0).standard_t(5, size=(40, 3)) + 2
    value, error = excess_kurtosis(x)
    assert value == pytest.approx(stats.kurtosis(x, bias=False))
    for i in range(3):
        without = np.array([stats.kurtosis(np.delete(x[:, i], u), bias=False) for u in range(40)])
        jackknife = math.sqrt(39 / 40 * np.square(without - without.mean()).sum())
        gaussian = math.sqrt(24 * 40 * 39**2 / (37 * 38 * 43 * 45))
        assert error[i] == pytest.approx(max(jackknife, gaussian))


def test_a_gaussian_is_within_its_error() -> None:
    rng = np.random.default_rng(1)
    z = []
    for _ in range(600):
        value, error = excess_kurtosis(rng.normal(size=50))
        z.append(float(value / error))
    assert np.mean(np.abs(z) > 1.96) < 0.06
    assert abs(np.mean(z)) < 0.2


def test_the_error_of_a_tail_with_all_moments() -> None:
    """A uniform: kurtosis -1.2; its error, which is below a Gaussian's, is not understated."""
    rng = np.random.default_rng(2)
    pairs = [excess_kurtosis(rng.uniform(size=400)) for _ in range(300)]
    values, errors = (np.array([float(p[i]) for p in pairs]) for i in (0, 1))
    assert abs(values.mean() + 1.2) < 4 * values.std() / math.sqrt(300)
    assert np.all(errors > values.std())


def test_too_few_and_constant_samples_have_none() -> None:
    value, error = excess_kurtosis(np.ones((4, 2)))
    assert value.shape == error.shape == (2,)
    assert np.isnan(value).all()
    assert np.isnan(error).all()
    assert np.isnan(excess_kurtosis(np.ones(20))[0])
