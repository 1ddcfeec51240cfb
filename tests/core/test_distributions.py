"""Against `scipy.stats`, far into the tails and for degrees of freedom of any size."""

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.core.distributions import chi_squared_quantile, f_tail, student_quantile, student_tail

DOFS = np.array([0.05, 0.3, 0.999, 1, 1.5, 2, math.pi, 5, 10, 29.5, 100, 333.3, 1e4, 1e8, 1e12, math.nan])
STUDENT_DOFS = np.array([*DOFS, 0.0, -1.0, math.inf])
TAILS = np.array([1e-100, 1e-20, 1e-9, 1e-4, 0.01, 0.025, 0.2, 0.4, 0.49999])
LEVELS = np.array([0.0, *TAILS, 0.5, *(1 - TAILS), 1.0, math.nan])
POINTS = np.array([0.0, *np.logspace(-9, 9, 37), 1e100, math.inf, math.nan])


def same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=0)


def test_student_quantile():
    levels = np.array([*LEVELS, -0.1, 1.1])[:, None]
    same(student_quantile(levels, STUDENT_DOFS), stats.t.ppf(levels, STUDENT_DOFS))
    same(-student_quantile(LEVELS[:, None], STUDENT_DOFS), stats.t.isf(LEVELS[:, None], STUDENT_DOFS))


@pytest.mark.parametrize(("p", "dof"), [(0.0, 5), (1e-300, 3), (0.238, 0.00209)])
def test_student_quantile_too_far_out_for_a_float_is_on_its_own_side(p, dof):
    assert student_quantile(p, dof) < -1e90  # plus infinity by SciPy's `stdtrit`


def test_student_tail():
    x = np.concatenate([-POINTS, POINTS])[:, None]
    same(student_tail(x, STUDENT_DOFS), stats.t.sf(x, STUDENT_DOFS))


def test_f_tail():
    x, numerator, denominator = np.concatenate([-POINTS, POINTS]), DOFS[:, None, None], DOFS[:, None]
    same(f_tail(x, numerator, denominator), stats.f.sf(x, numerator, denominator))


def test_chi_squared_quantile():
    same(chi_squared_quantile(LEVELS[:, None], DOFS), stats.chi2.ppf(LEVELS[:, None], DOFS))


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (student_quantile(0.75, 1), 1.0),  # Cauchy's
        (student_quantile(0.9, 2), 0.8 * math.sqrt(2 / (1 - 0.8**2))),
        (student_tail(1.0, 1), 0.25),
        (f_tail(3.0, 2, 4), (1 + 2 * 3.0 / 4) ** -2.0),
        (chi_squared_quantile(0.9, 2), 2 * math.log(10)),
    ],
)
def test_closed_forms(found, wanted):
    same(found, wanted)
