"""Which of two measures ranks the gap better: against single taus, exchange by hand, rates and coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.rank_correlation import rank_correlation
from thalweg.stats.rank_difference import rank_difference


def grid(sizes, num_seeds):
    cells = [c for c in itertools.product(*map(range, sizes)) for _ in range(num_seeds)]
    return {f"axis {a}": [c[a] for c in cells] for a in range(len(sizes))}


def gap_of(rng, columns):
    levels = np.array(list(columns.values()))
    return sum(rng.normal(size=int(axis.max()) + 1)[axis] for axis in levels)


def test_it_is_the_difference_of_the_two_taus_and_signs_are_exchanged():
    rng = np.random.default_rng(0)
    columns = grid((3, 2, 2, 2), 2)
    g = gap_of(rng, columns)
    first, second = g + rng.normal(size=48), g + 3 * rng.normal(size=48)
    found = rank_difference(first, second, g, columns, seed=0)
    taus = [rank_correlation(m, g, columns, seed=0) for m in (first, second)]
    assert found.value == pytest.approx(taus[0].granulated.value - taus[1].granulated.value)
    along = [a.tau.value - b.tau.value for a, b in zip(taus[0].axes, taus[1].axes, strict=True)]
    assert list(found.along.values()) == pytest.approx(along)
    sums = np.array([np.dot(s, along) for s in itertools.product((1, -1), repeat=4)])
    assert found.p_value == pytest.approx(min(1.0, 2 * (sums >= sums[0] - 1e-12).mean()))
    back = rank_difference(second, first, g, columns, seed=0)
    assert (back.value, back.p_value) == (-found.value, pytest.approx(found.p_value))
    best = rank_difference(g, -g, g + 1e-6 * rng.normal(size=48), columns, seed=0)
    assert best.p_value == best.smallest_p == 2 / 16


def test_two_that_rank_alike_are_seldom_told_apart():
    """Seeds alone would tell them apart: on one grid one of the two is by chance the better."""
    rng = np.random.default_rng(1)
    columns = grid((2, 2, 2, 2, 2, 2), 2)
    num, false, by_seeds = 60, 0, 0
    for i in range(num):
        g = gap_of(rng, columns)
        first, second = (gap_of(rng, columns) + 0.05 * rng.normal(size=128) for _ in range(2))
        found = rank_difference(first, second, g, columns, num_resamples=100, seed=i)
        false += found.p_value <= 0.05
        by_seeds += found.low > 0 or found.high < 0
    assert stats.binomtest(false, num, 0.05, alternative="greater").pvalue > 1e-3
    assert by_seeds > num / 4


def test_the_interval_is_about_other_seeds():
    rng = np.random.default_rng(2)
    columns = grid((3, 3), 3)
    g = gap_of(rng, columns)

    def one(seed):
        first, second, gap = (g + s * rng.normal(size=27) for s in (0.5, 1.5, 0.2))
        return rank_difference(first, second, gap, columns, num_resamples=200, seed=seed)

    found = [one(i) for i in range(300)]
    truth = np.mean([f.value for f in found])
    assert 0.9 <= np.mean([f.low <= truth <= f.high for f in found]) <= 1


def test_bad_input():
    with pytest.raises(ValueError, match="two runs in one cell at least, got one in each"):
        rank_difference([1.0, 2, 3], [1.0, 3, 2], [1.0, 2, 3], {"a": [0, 1, 2]}, seed=0)
    with pytest.raises(ValueError, match="an axis along which both measures order runs, got none"):
        rank_difference([1.0] * 4, [1.0, 3, 2, 4], [1.0, 2, 3, 4], {"a": [0, 0, 1, 1]}, seed=0)
    with pytest.raises(ValueError, match=r"`second` must hold one finite value"):
        rank_difference([1.0, 2, 3, 4], [1.0, math.nan, 2, 4], [1.0, 2, 3, 4], {"a": [0, 0, 1, 1]}, seed=0)
