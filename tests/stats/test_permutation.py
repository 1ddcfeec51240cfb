"""Relabelling by matrix products: against SciPy's permutation test, with ties, and without any spread."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from thalweg.stats import permutation
from thalweg.stats.permutation import relabelled, relabelling_p_values

# Typed by SciPy as less than what it gives.
ttest_ind: Any = stats.ttest_ind
ttest_1samp: Any = stats.ttest_1samp
ttest_rel: Any = stats.ttest_rel

SIZES = [(3, 3, False), (2, 7, False), (5, 4, False), (6, 6, False), (3, 3, True), (6, 6, True)]


def studentised(a: np.ndarray, b: np.ndarray, axis: int) -> Any:
    """|t| as SciPy has it; of groups without any spread what the limit is."""
    with np.errstate(invalid="ignore", divide="ignore"):
        d = a.mean(axis) - b.mean(axis)
        return np.abs(d) / np.sqrt(a.var(axis, ddof=1) / a.shape[axis] + b.var(axis, ddof=1) / b.shape[axis])


def paired_t(a: np.ndarray, b: np.ndarray, axis: int) -> Any:
    d = a - b
    return np.abs(d.mean(axis)) / (d.std(axis, ddof=1) / math.sqrt(d.shape[axis]))


def by_scipy(x: np.ndarray, y: np.ndarray, paired: bool, **rest: Any) -> Any:
    kind: Any = "samples" if paired else "independent"
    statistic = paired_t if paired else studentised
    options = {"n_resamples": math.inf, **rest}
    return stats.permutation_test(
        (x, y), statistic, permutation_type=kind, vectorized=True, axis=-1, alternative="greater", **options
    )


@pytest.mark.parametrize(("n", "m", "paired"), SIZES)
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_all_relabellings_are_those_of_scipy(n, m, paired, offset):
    rng = np.random.default_rng(n + m)
    x, y = rng.normal(size=(20, n)) + rng.normal(size=(20, 1)), 2 * rng.normal(size=(20, m))
    x, y = x + offset, y + offset
    found = relabelled(x, y, paired=paired)
    oracle = by_scipy(x - offset, y - offset, paired)
    assert found.is_exact
    assert found.observed == pytest.approx(oracle.statistic, rel=1e-12 if not offset else 1e-8)
    assert found.p_values == pytest.approx(oracle.pvalue)
    mine, theirs = (np.sort(null, axis=0) for null in (found.null, oracle.null_distribution))
    assert mine == pytest.approx(theirs, rel=1e-10 if not offset else 1e-6, abs=1e-12 if not offset else 1e-8)
    assert relabelling_p_values(x, y, paired=paired).tolist() == found.p_values.tolist()


@pytest.mark.parametrize(("n", "m", "paired"), SIZES)
def test_ties_reach_the_statistic_as_in_scipy(n, m, paired):
    """Of whole numbers, many relabellings give the very same |t|, however it is rounded."""
    rng = np.random.default_rng(n * m)
    x, y = (rng.integers(0, 3, (60, k)).astype(float) for k in (n, m))
    x[:, 0], y[:, -1] = 4.0, 5.0  # no relabelling is without spread, where SciPy has no number
    x, y = x / 7, y / 7
    # SciPy lets equal numbers reach up to a hundred roundings.
    assert relabelled(x, y, paired=paired).p_values == pytest.approx(by_scipy(x, y, paired).pvalue)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (25, 40)])
def test_drawn_relabellings_are_statistics_of_their_labels(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.exponential(size=(3, n)) + 5, rng.exponential(size=(3, m)) + 5
    found = relabelled(x, y, seed=3)
    assert not found.is_exact
    assert found.observed == pytest.approx(np.abs(ttest_ind(x, y, axis=1, equal_var=False).statistic))
    both, labels = np.concatenate([x, y], axis=1), permutation._labels(n, m, False, 3).astype(bool)
    assert (labels.sum(1) == n).all()
    for i in range(0, len(labels), 1999):
        t = ttest_ind(both[:, labels[i]], both[:, ~labels[i]], axis=1, equal_var=False).statistic
        assert found.null[i] == pytest.approx(np.abs(t), rel=1e-11)
    # Every unit is of the first group as often as another.
    assert np.abs(labels.mean(0) - n / (n + m)).max() < 5 * math.sqrt(0.25 / len(labels))
    oracle = by_scipy(x, y, False, n_resamples=20_000, random_state=np.random.default_rng(1)).pvalue
    error = np.sqrt(2 * oracle * (1 - oracle) / 20_000)
    assert (np.abs(found.p_values - oracle) < 4 * error + 1e-4).all()


def test_drawn_signs_of_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40)) + 0.3, rng.normal(size=(2, 40))
    found = relabelled(x, y, paired=True, seed=2)
    signs = permutation._labels(40, 40, True, 2)
    assert set(np.unique(signs)) == {-1, 1}
    assert (signs[0] == 1).all()
    for i in (0, 1, 77, 20_000):
        t = ttest_1samp(signs[i] * (x - y), 0, axis=1).statistic
        assert found.null[i] == pytest.approx(np.abs(t), rel=1e-11)
    assert found.p_values == pytest.approx(ttest_rel(x, y, axis=1).pvalue, abs=0.02)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize("narrow", [0.0, 1e-4, 1e-7, 1e-10])
def test_next_to_no_spread_within_the_groups(narrow, scale):
    """There the sums of squares cancel, and each variance is taken about its own mean instead."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=9)
    x, y = scale * (2.0 + narrow * noise[:5]), scale * (1.0 + narrow * noise[5:])
    found = relabelled(x, y)
    assert float(found.p_values) == pytest.approx(1 / 126)
    if narrow:
        assert float(found.observed) == pytest.approx(
            float(abs(ttest_ind(x, y, equal_var=False).statistic)), rel=1e-5
        )
        assert np.isfinite(found.null).all()
    else:
        assert float(found.observed) == math.inf
    pairs = relabelled(x[:4], y, paired=True)
    assert float(pairs.p_values) == pytest.approx(2 / 16)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3])
def test_equal_values_show_nothing(value):
    """0.1 is not a mean of 0.1's to the last digit, which must not be taken for a difference."""
    for n, m in ((3, 3), (4, 5), (30, 40)):
        x, y = np.full(n, value), np.full(m, value)
        found = relabelled(x, y)
        assert found.observed == 0
        assert found.p_values == 1
        assert (found.null == 0).all()
    assert relabelled(x[:3], y[:3], paired=True).p_values == 1


def test_a_group_of_equal_values_beside_one_that_varies():
    x, y = np.array([0.1, 0.1, 0.1]), np.array([0.1, 0.4, 0.3])
    found = relabelled(x, y)
    oracle = by_scipy(x, y, False)
    assert float(found.p_values) == pytest.approx(float(oracle.pvalue))


def test_rows_do_not_hang_on_each_other_nor_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 2, 12)) + 0.5, rng.normal(size=(7, 2, 14))
    together = relabelled(x, y, seed=1)
    assert together.null.shape == (20_001, 7, 2)
    assert relabelled(x[3, 1], y[3, 1], seed=1).p_values == together.p_values[3, 1]
    monkeypatch.setattr(permutation, "BLOCK", 1000)
    assert relabelled(x, y, seed=1).p_values.tolist() == together.p_values.tolist()
    assert relabelling_p_values(x, y, seed=1).tolist() == together.p_values.tolist()
    assert relabelling_p_values(x, y, seed=2).tolist() != together.p_values.tolist()
