"""Variance components: the analysis of variance by hand, unbiased where negative, intervals that cover."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.variance_components import _noncentrality, variance_components


def nested(num_a: int, num_h: int, num_seeds: int) -> dict[str, list]:
    rows = [r for r in itertools.product(range(num_a), range(num_h)) for _ in range(num_seeds)]
    return {"architecture": [r[0] for r in rows], "recipe": rows}


def by_name(found):
    return {c.name: c for c in found.components}


def test_balanced_it_is_the_analysis_of_variance():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(3, 4, 5)) + np.arange(3)[:, None, None] + rng.normal(size=(3, 4, 1))
    found = variance_components(y.ravel(), nested(3, 4, 5), seed=0)
    within = y.var(axis=2, ddof=1).mean()
    a = 20 * np.square(y.mean((1, 2)) - y.mean()).sum()
    h = 5 * np.square(y.mean(2) - y.mean((1, 2))[:, None]).sum()
    c = by_name(found)
    assert c["architecture"].variance == pytest.approx((a - 2 * within) / 60)
    assert c["recipe"].variance == pytest.approx((h - 9 * within) / 60)
    assert c["seed"].variance == pytest.approx(within)
    assert [c[n].dof for n in ("architecture", "recipe", "seed")] == [2, 9, 48]
    assert found.total == pytest.approx(sum(x.variance for x in found.components))
    assert sum(x.share for x in found.components) == pytest.approx(1)
    one_way = variance_components(y.ravel(), {"recipe": nested(3, 4, 5)["recipe"]}, seed=0)
    f = stats.f_oneway(*y.reshape(12, 5)).statistic
    omega = 11 * (f - 1) / (11 * (f - 1) + 60)  # Hays' omega squared
    assert one_way.components[0].share == pytest.approx(omega)


def test_crossed_factors_leave_the_rest_to_interactions():
    rng = np.random.default_rng(1)
    effect = np.array([[0.0, 2.0], [2.0, 0.0]])  # all of it interaction
    y = effect[:, :, None] + 0.1 * rng.normal(size=(2, 2, 6))
    labels = {"lr": np.repeat([0, 1], 12).tolist(), "width": np.tile(np.repeat([0, 1], 6), 2).tolist()}
    c = by_name(variance_components(y.ravel(), labels, seed=0))
    assert c["interactions"].variance == pytest.approx(1, rel=0.2)
    assert abs(c["lr"].variance) < 0.01
    assert "interactions" not in by_name(variance_components(y.ravel(), {"lr": labels["lr"]}, seed=0))


@pytest.mark.parametrize("with_errors", [False, True])
def test_unbalanced_estimates_are_unbiased_and_may_be_negative(with_errors):
    rng = np.random.default_rng(2)
    a = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    h = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    labels = {"architecture": a, "recipe": list(zip(a, h, strict=True))}
    mean = np.array([0.0, 0.4, 0.3, 0.3])[h]  # nearly nothing, and nothing within the second
    e = np.linspace(0.2, 1.2, 11) if with_errors else np.zeros(11)
    drawn = []
    for i in range(2000):
        y = mean + np.sqrt(0.5 + e**2) * rng.normal(size=11)
        found = variance_components(y, labels, errors=e if with_errors else None, seed=i, num_resamples=100)
        drawn.append([c.variance for c in found.components])
    means = [mean[np.array(a) == k].mean() for k in (0, 1)]
    between = np.mean(np.square(np.array(means)[a] - mean.mean()))
    recipes = np.mean(np.square(mean - np.array(means)[a]))
    truth = [between, recipes, 0.5, *([np.mean(e**2)] if with_errors else [])]
    error = np.std(drawn, axis=0) / math.sqrt(2000)
    assert (np.abs(np.mean(drawn, axis=0) - truth) <= 4 * error + 1e-12).all()
    assert (np.array(drawn)[:, 0] < 0).mean() > 0.3


def coverage(num_a, num_h, num_seeds, size, noise, repeats):
    rng = np.random.default_rng(3)
    labels = nested(num_a, num_h, num_seeds)
    a = np.array(labels["architecture"])
    mean = size * (rng.normal(size=num_a)[a] + np.repeat(rng.normal(size=num_a * num_h), num_seeds))
    within = np.array([mean[a == k].mean() for k in range(num_a)])[a]
    truth = np.array([np.square(within - mean.mean()).mean(), np.square(mean - within).mean(), 1.0])
    hits = np.zeros((2, 3))
    for i in range(repeats):
        found = variance_components(mean + noise(rng, len(mean)), labels, seed=i, num_resamples=400)
        for j, c in enumerate(found.components):
            hits[0, j] += c.low <= truth[j] <= c.high
            hits[1, j] += c.share_low <= truth[j] / truth.sum() <= c.share_high
    return hits / repeats


def normal(rng, n):
    return rng.normal(size=n)


def skewed(rng, n):
    return rng.gamma(4, size=n) / 2 - 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "noise", "least"),
    [
        ((2, 4, 3, 1.0), normal, 0.93),
        ((2, 4, 3, 0.3), normal, 0.93),
        ((2, 4, 6, 0.5), normal, 0.93),
        ((2, 4, 3, 1.0), skewed, 0.86),
    ],
)
def test_intervals_cover(design, noise, least):
    covered = coverage(*design, noise, 2000)
    print(design, noise.__name__, covered.round(3).tolist())
    assert (covered >= least).all()
    assert (covered <= 0.99).all()


def test_intervals_cover_few_times():
    assert (coverage(2, 4, 3, 0.5, normal, 150) >= 0.89).all()


def test_no_more_than_the_seed():
    """Nothing but seeds: shares lie within the possible though the estimates need not."""
    rng = np.random.default_rng(4)
    lows = []
    for i in range(100):
        found = by_name(variance_components(rng.normal(size=24), nested(2, 4, 3), seed=i, num_resamples=200))
        lows.append(found["recipe"].low)
        assert 0 <= found["recipe"].share_low <= found["recipe"].share_high <= 1
    assert np.mean(np.array(lows) <= 1e-12) > 0.93


def test_errors_that_are_all_of_the_spread_leave_the_seed_nothing():
    rng = np.random.default_rng(5)
    y = rng.normal(size=400)
    labels = {"cell": np.repeat(np.arange(4), 100).tolist()}
    c = by_name(variance_components(y, labels, errors=np.ones(400), seed=0))
    assert abs(c["seed"].share) < 0.2
    assert (c["measurement"].variance, c["measurement"].low) == pytest.approx((1, 1))
    none = by_name(variance_components(y, labels, seed=0))
    assert none["seed"].variance == pytest.approx(c["seed"].variance + 1)


def test_units_do_not_matter_and_seeds_without_spread_are_exact():
    rng = np.random.default_rng(6)
    y = rng.normal(size=24)
    plain, small = (variance_components(s * y, nested(2, 4, 3), seed=0) for s in (1.0, 1e-150))
    assert [c.share_low for c in plain.components] == pytest.approx([c.share_low for c in small.components])
    exact = by_name(variance_components([1.0, 1, 3, 3, 5, 5], {"lr": "aabbcc"}, seed=0))
    assert exact["lr"].variance == pytest.approx(8 / 3)
    assert (exact["lr"].low, exact["lr"].high) == pytest.approx((8 / 3, 8 / 3))
    assert exact["seed"].variance == pytest.approx(0)


def test_the_noncentrality_inverts_the_distribution():
    for dof, truth in ((1, 0.3), (5, 40.0), (12, 1e6)):
        level = np.array([0.01, 0.4, 0.99])
        x = stats.ncx2.ppf(level, dof, truth)
        assert _noncentrality(x, dof, level) == pytest.approx(truth, rel=1e-4)
    big = _noncentrality(np.array([0.99e8, 1.01e8]), 7, np.array([0.3, 0.3]))
    assert big[1] - big[0] == pytest.approx(2e6, rel=1e-3)  # across the change of method


@pytest.mark.parametrize(
    ("y", "factors", "more", "words"),
    [
        ([1.0, 2, 3], {"lr": "abc"}, {}, "`factors` must leave two runs in one cell at least"),
        ([1.0, 1, 1], {"lr": "aab"}, {}, "`values` must not all be equal, got 1"),
        ([1.0, 2, math.nan], {"lr": "aab"}, {}, "`values` must hold one finite value a run"),
        (
            [1.0, 2, 3],
            {"lr": "aab", "same": "xxy"},
            {},
            r"`factors\['same'\]` must add levels to the factors before",
        ),
        ([1.0, 2, 3], {"lr": "aaa"}, {}, r"`factors\['lr'\]` must add levels .* it is constant"),
        (
            [1.0, 2, 3],
            {"lr": "aa"},
            {},
            r"`factors\['lr'\]` must hold one label for each of the 3 runs, got 2",
        ),
        ([1.0, 2, 3], {}, {}, "`factors` must hold at least one column of labels"),
        (
            [1.0, 2, 3],
            {"lr": "aab"},
            {"errors": [1.0, 2]},
            r"`errors` must hold one finite value for each of the 3",
        ),
    ],
)
def test_bad_input(y, factors, more, words):
    with pytest.raises(ValueError, match=words):
        variance_components(y, factors, seed=0, **more)
