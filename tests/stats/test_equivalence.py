"""Tests against points: enumeration by hand, Student by SciPy, false findings at the edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.equivalence import findings


def t_of(x, y, paired):
    if paired:
        return stats.ttest_rel(x, y).statistic
    return stats.ttest_ind(x, y, equal_var=False).statistic


def relabelled_by_hand(x, y, paired):
    """Share of relabellings that reach |t|."""
    seen, reached = abs(t_of(x, y, paired)), []
    if paired:
        for signs in itertools.product([1, -1], repeat=len(x)):
            d = np.array(signs) * (x - y)
            reached.append(abs(stats.ttest_1samp(d, 0).statistic) >= seen * (1 - 1e-9))
    else:
        both = np.concatenate([x, y])
        for chosen in itertools.combinations(range(len(both)), len(x)):
            rest = np.setdiff1d(np.arange(len(both)), chosen)
            reached.append(abs(t_of(both[list(chosen)], both[rest], False)) >= seen * (1 - 1e-9))
    return float(np.mean(reached))


def one_sided(x, y, point, side, paired):
    test = stats.ttest_rel(x - point, y, alternative=side) if paired else stats.ttest_ind(
        x - point, y, equal_var=False, alternative=side
    )  # fmt: skip
    if test.pvalue > 0.5:
        return 1.0
    return max(2 * test.pvalue, relabelled_by_hand(x - point, y, paired))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("shift", [0.0, 0.7, -2.5])
def test_against_student_and_against_enumeration(paired, shift):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=5) + shift, rng.normal(size=5 if paired else 4)
    m, down, up = 2.0, 0.2, 0.1
    (found,) = findings([x], [y], [m], down=down, up=up, paired=paired, seed=0)
    assert found.p_larger == pytest.approx(one_sided(x, y, down, "greater", paired))
    assert found.p_smaller == pytest.approx(one_sided(x, y, -up, "less", paired))
    inside = max(one_sided(x, y, -m + down, "greater", paired), one_sided(x, y, m - up, "less", paired))
    assert found.p_equivalent == pytest.approx(inside)
    beyond = min(one_sided(x, y, m + down, "greater", paired), one_sided(x, y, -m - up, "less", paired))
    assert found.p_beyond == pytest.approx(min(1, 2 * beyond))
    test = stats.ttest_rel(x, y) if paired else stats.ttest_ind(x, y, equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert (found.sample.low, found.sample.high) == pytest.approx((low - down, high + up))


def test_the_findings_are_those_of_the_interval_where_relabelling_agrees():
    """With six a group it can, and as a rule it does: then all is read off the interval."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(150, 6)) + rng.uniform(-3, 3, size=(150, 1)), rng.normal(size=(150, 6))
    differ = 0
    for f in findings(x, y, np.full(150, 1.5), seed=0):
        low, high = f.sample.low, f.sample.high
        for p, by_interval in (
            (f.p_larger, low > 0),
            (f.p_smaller, high < 0),
            (f.p_equivalent, low > -1.5 and high < 1.5),
        ):
            assert by_interval or p > 0.05
            differ += by_interval != (p <= 0.05)
    assert differ < 0.05 * 450


def test_rows_together_are_rows_alone_drawn_or_not():
    rng = np.random.default_rng(2)
    for n in (4, 12):
        x, y = rng.normal(size=(3, n)) + 1, rng.normal(size=(3, n))
        margins = [0.5, math.nan, 2.0]
        together = findings(x, y, margins, seed=5)
        for r in range(3):
            (alone,) = findings(x[r : r + 1], y[r : r + 1], margins[r : r + 1], seed=5)
            assert (alone.sample, alone.p_larger) == (together[r].sample, together[r].p_larger)
            assert alone.p_equivalent == pytest.approx(together[r].p_equivalent, nan_ok=True)
    assert math.isnan(together[1].p_equivalent)
    assert math.isnan(together[1].p_beyond)


@pytest.mark.parametrize("paired", [False, True])
def test_false_findings_at_the_edges(paired):
    """At the margin itself groups are found equivalent, or beyond it, with half of 1 - level at most."""
    rng, n, repeats = np.random.default_rng(3), 6, 800
    margin = 3.0
    x, y = rng.gamma(4, size=(repeats, n)) / 2 + margin, rng.gamma(4, size=(repeats, n)) / 2
    found = findings(x, y, np.full(repeats, margin), paired=paired, level=0.8, seed=0)
    spread = 4 * math.sqrt(0.1 * 0.9 / repeats)
    equivalent = np.mean([f.p_equivalent <= 0.2 for f in found])
    assert equivalent < 0.1 + spread
    assert equivalent > 0.02
    assert np.mean([f.p_beyond <= 0.2 for f in found]) < 0.1 + spread


def test_without_spread():
    apart, same = findings([[2.0] * 5, [1.0] * 5], [[1.0] * 5, [1.0] * 5], [0.5, 0.5], seed=0)
    assert (apart.p_larger, apart.p_smaller, apart.p_equivalent) == (pytest.approx(2 / 252), 1, 1)
    assert (same.p_larger, same.p_smaller) == (1, 1)
    assert same.p_equivalent == pytest.approx(2 / 252)


def test_bad_input():
    with pytest.raises(ValueError, match="`margins` must be positive, or NaN where there is none, got"):
        findings([[1.0, 2]], [[1.0, 2]], [0.0], seed=0)
    with pytest.raises(ValueError, match="`a` must hold one finite value for each of at least two runs"):
        findings([[1.0]], [[1.0, 2]], [1.0], seed=0)
    with pytest.raises(ValueError, match="`b` must hold one finite value"):
        findings([[1.0, 2]], [[1.0, math.nan]], [1.0], seed=0)
