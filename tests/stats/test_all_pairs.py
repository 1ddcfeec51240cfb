"""The mean over all pairs: the jackknife by hand, and how often contrasts of it err."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.all_pairs import jackknifed_pairs
from thalweg.stats.permutation import relabelling_p_values

# Typed by SciPy as less than what it gives.
ttest_ind: Any = stats.ttest_ind


def arrays(rng: np.random.Generator, num: int, n: int, of_units: float, of_pairs: float) -> np.ndarray:
    """``(num, n, n)``: what the two units of a pair bring, and what is its own."""
    u, e = rng.normal(size=(num, n)), rng.normal(size=(num, n, n))
    return of_units * (u[:, :, None] + u[:, None, :]) + of_pairs * (np.triu(e, 1) + np.triu(e, 1).mT)


def test_it_is_the_jackknife_of_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    for n in (3, 4, 7):
        matrix = arrays(rng, 1, n, 1.0, 1.0)[0]
        upper = np.triu_indices(n, 1)
        mean = matrix[upper].mean()
        by_hand = []
        for i in range(n):
            rest = np.delete(np.delete(matrix, i, 0), i, 1)
            by_hand.append(n * mean - (n - 1) * rest[np.triu_indices(n - 1, 1)].mean())
        np.fill_diagonal(matrix, math.nan)  # nobody looks at it
        found = jackknifed_pairs(matrix)
        assert found == pytest.approx(by_hand)
        assert found.mean() == pytest.approx(mean)
    # What units bring alone is theirs.
    u = rng.normal(size=5)
    assert jackknifed_pairs(u[:, None] + u) == pytest.approx(2 * u)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="at least 3 units"):
        jackknifed_pairs(np.ones((2, 2)))
    with pytest.raises(ValueError, match="finite and the same both ways"):
        jackknifed_pairs([[0, 1, 2], [1, 0, 3], [2, 4, 0]])


@pytest.mark.parametrize(
    ("of_units", "of_pairs", "excess"), [(1.0, 0.0, 1.0), (1.0, 1.4, None), (0.0, 1.0, math.sqrt(2.5))]
)
def test_its_standard_error_and_how_often_it_errs(of_units, of_pairs, excess):
    rng = np.random.default_rng(1)
    x, y = (jackknifed_pairs(arrays(rng, 4000, 6, of_units, of_pairs)) for _ in range(2))
    true = x.mean(1).std()
    stated = math.sqrt(float(x.var(1, ddof=1).mean()) / 6)
    if excess is not None:
        assert stated / true == pytest.approx(excess, rel=0.05)
    assert stated > 0.97 * true
    by_student = ttest_ind(x, y, axis=1, equal_var=False).pvalue <= 0.05
    by_labels = relabelling_p_values(x, y) <= 0.05
    assert (by_student & by_labels).mean() < 0.055


def test_six_units_decide_what_three_disjoint_pairs_cannot():
    rng = np.random.default_rng(2)
    x, y = arrays(rng, 500, 6, 0.5, 0.7) + 2.0, arrays(rng, 500, 6, 0.5, 0.7)
    for m in (x, y):
        m[:, range(6), range(6)] = 0.0
    p = relabelling_p_values(jackknifed_pairs(x), jackknifed_pairs(y))
    assert (p <= 0.05).mean() > 0.6
    k = np.arange(0, 6, 2)
    assert relabelling_p_values(x[:, k, k + 1], y[:, k, k + 1]).min() == pytest.approx(0.1)
