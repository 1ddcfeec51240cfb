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
    return fit_power_law(X[:, None], y, errors, DOFS)


@pytest.mark.parametrize("bend", [0.0, 0.06])
def test_coverage(bend: float) -> None:
    rng = np.random.default_rng(0)
    laws = [drawn(rng, bend) for _ in range(2000)]
    rejected = np.mean([not law.fits for law in laws])
    if bend:
        assert rejected > 0.2
        return
    assert rejected < 0.015
    half = [stats.t.ppf(0.975, law.dofs[0]) * law.standard_errors[0] for law in laws]
    held = np.mean([abs(law.exponents[0] - 1.1) <= h for law, h in zip(laws, half, strict=True)])
    assert 0.935 < held < 0.965


def test_equal_weights_are_a_plain_regression() -> None:
    y = 2 * X**0.7 * np.exp(0.3 * np.sin(np.arange(len(X))))
    law = fit_power_law(X[:, None], y, 0.3 * y, DOFS)
    plain = stats.linregress(np.log(X), np.log(y))
    assert law.exponents == pytest.approx(plain.slope)
    assert law.log_factor == pytest.approx(plain.intercept)
    tight = fit_power_law(X[:, None], y, 0.001 * y, DOFS)
    assert not tight.fits
    assert tight.standard_errors == pytest.approx(plain.stderr)
    assert tight.dofs == len(X) - 2


def test_two_points_make_a_law() -> None:
    law = fit_power_law([[1], [10]], [2, 20], [0.2, 2], [10, 10])
    assert law.exponents == pytest.approx(1)
    assert law.standard_errors == pytest.approx(math.sqrt(2) * 0.1 / math.log(10))
    assert math.isnan(law.p_value)
    assert law.fits
    assert law.dofs == pytest.approx(20)


def test_two_factors_have_an_exponent_each() -> None:
    """A grid of two factors: exponents and covariance by the normal equations, and coverage of both."""
    a, b = (g.ravel() for g in np.meshgrid([0.01, 0.02, 0.08], [4.0, 16.0]))
    relative, dofs = RELATIVE[:6], DOFS[:6]
    rng = np.random.default_rng(1)
    held = []
    for _ in range(1500):
        y = 5 * a**1.2 * b**-0.9 * np.exp(relative * rng.standard_normal(6))
        errors = relative * y * np.sqrt(rng.chisquare(dofs) / dofs)
        law = fit_power_law(np.column_stack([a, b]), y, errors, dofs)
        half = stats.t.ppf(0.975, law.dofs) * law.standard_errors
        held.append(np.abs(law.exponents - [1.2, -0.9]) <= half)
    assert (np.abs(np.mean(held, 0) - 0.95) < 0.017).all()
    design, weights = np.column_stack([np.ones(6), np.log(a), np.log(b)]), (y / errors) ** 2
    covariance = np.linalg.inv(design.T @ (weights[:, None] * design))
    assert law.fits
    np.testing.assert_allclose(law.exponents, (covariance @ design.T @ (weights * np.log(y)))[1:])
    np.testing.assert_allclose(law.standard_errors, np.sqrt(np.diag(covariance))[1:])
