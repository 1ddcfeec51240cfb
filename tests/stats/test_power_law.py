"""Fitted exponents against planted ones: coverage, and values that lie on no power law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.power_law import PowerLaw, fit_power_law

X = np.array([0.01, 0.02, 0.02, 0.04, 0.08, 0.08, 0.16])
RELATIVE = np.array([0.05, 0.1, 0.03, 0.04, 0.02, 0.06, 0.03])
DOFS = np.array([20.0, 15, 40, 30, 25, 30, 60])


def drawn(rng: np.random.Generator, bend: float = 0.0) -> PowerLaw:
    """y = 3 x^1.1, log-normal, its errors estimated with their own degrees of freedom."""
    y = 3 * X**1.1 * np.exp(RELATIVE * rng.standard_normal(len(X)) + bend * np.log(X / 0.04) ** 2)
    errors = RELATIVE * y * np.sqrt(rng.chisquare(DOFS) / DOFS)
    return fit_power_law(X, y, errors, DOFS)


@pytest.mark.parametrize("bend", [0.0, 0.06])
def test_coverage(bend: float) -> None:
    rng = np.random.default_rng(0)
    laws = [drawn(rng, bend) for _ in range(2000)]
    rejected = np.mean([not law.fits for law in laws])
    if bend:
        assert rejected > 0.2
        return
    assert rejected < 0.015
    half = [float(stats.t.ppf(0.975, law.dof)) * law.standard_error for law in laws]
    held = np.mean([abs(law.exponent - 1.1) <= h for law, h in zip(laws, half, strict=True)])
    assert 0.935 < held < 0.965


def test_equal_weights_are_a_plain_regression() -> None:
    y = 2 * X**0.7 * np.exp(0.3 * np.sin(np.arange(len(X))))
    law = fit_power_law(X, y, 0.3 * y, DOFS)
    plain = stats.linregress(np.log(X), np.log(y))
    assert law.exponent == pytest.approx(plain.slope)
    assert law.log_factor == pytest.approx(plain.intercept)
    tight = fit_power_law(X, y, 0.001 * y, DOFS)
    assert not tight.fits
    assert tight.standard_error == pytest.approx(plain.stderr)
    assert tight.dof == len(X) - 2


def test_two_points_make_a_law() -> None:
    law = fit_power_law([1, 10], [2, 20], [0.2, 2], [10, 10])
    assert law.exponent == pytest.approx(1)
    assert law.standard_error == pytest.approx(math.sqrt(2) * 0.1 / math.log(10))
    assert math.isnan(law.p_value)
    assert law.fits
    assert law.dof == pytest.approx(20)
