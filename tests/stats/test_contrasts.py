"""Two groups: intervals that cover, p-values against enumeration by hand, counts that are stated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.contrasts import _effect, measurement_share, two_sample
from thalweg.stats.permutation import relabelled

Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(spread: float) -> Draw:
    return lambda rng, n: spread * rng.normal(size=n)


def lognormal(scale: float, sigma: float) -> Draw:
    """Mean nought."""
    return lambda rng, n: scale * (np.exp(sigma * rng.normal(size=n)) - math.exp(sigma**2 / 2))


def welch_t(x: np.ndarray, y: np.ndarray) -> float:
    return abs(x.mean() - y.mean()) / math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y))


def p_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    together, seen = np.concatenate([x, y]), welch_t(x, y)
    reached = []
    for chosen in itertools.combinations(range(len(together)), len(x)):
        rest = [i for i in range(len(together)) if i not in chosen]
        reached.append(welch_t(together[list(chosen)], together[rest]) >= seen * (1 - 1e-9))
    return float(np.mean(reached))


def p_by_flips(d: np.ndarray) -> float:
    flips = np.array(list(itertools.product([-1, 1], repeat=len(d))))
    return float((np.abs(flips @ d) >= abs(d.sum()) - 1e-12).mean())


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 3), (5, 5), (2, 6), (6, 4)])
def test_against_enumeration_and_against_scipy(n, m):
    rng = np.random.default_rng(n + 10 * m)
    for shift in (0.0, 1.0, 4.0):
        x, y = rng.normal(size=n) + shift, 2 * rng.normal(size=m)
        found = two_sample(x, y, level=0.9)
        welch = stats.ttest_ind(x, y, equal_var=False)
        assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval(0.9)))
        assert found.dof == pytest.approx(welch.df)
        assert found.difference == x.mean() - y.mean()
        assert found.p_value == pytest.approx(p_by_hand(x, y))
        assert found.p_value >= found.smallest_p - 1e-12
        assert found.is_exact
        u = stats.mannwhitneyu(x, y).statistic
        assert found.superiority == pytest.approx(u / (n * m))


def test_pairs_against_enumeration_and_against_scipy():
    rng = np.random.default_rng(0)
    for n in (2, 5, 8):
        x = rng.normal(size=n) + 1
        y = x - 0.5 + 0.6 * rng.normal(size=n)
        found = two_sample(x, y, paired=True)
        test = stats.ttest_rel(x, y)
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert found.p_value == pytest.approx(p_by_flips(x - y))
        assert found.superiority == (x > y).mean()


def test_what_so_few_runs_can_show_at_best():
    def smallest(n: int, m: int, paired: bool = False) -> float:
        x, y = np.arange(n) + 100.0, np.arange(m) * 1.5
        found = two_sample(x, y, paired=paired)
        assert found.p_value == pytest.approx(found.smallest_p)
        return found.smallest_p

    assert smallest(5, 5) == pytest.approx(2 / 252)
    assert smallest(3, 3) == pytest.approx(0.1)
    assert smallest(3, 8) == pytest.approx(1 / 165)
    assert smallest(5, 5, paired=True) == pytest.approx(0.0625)


def test_of_many_runs_relabellings_are_drawn_by_seed():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=30) + 0.6, rng.normal(size=30)
    found = two_sample(x, y, seed=1)
    assert not found.is_exact
    assert found == two_sample(x, y, seed=1)
    assert found.p_value != two_sample(x, y, seed=2).p_value
    expected = stats.ttest_ind(x, y).pvalue
    assert abs(found.p_value - expected) < 4 * math.sqrt(expected / 20_000) + 0.2 * expected
    far = two_sample(x + 50, y)
    assert far.p_value == far.smallest_p == pytest.approx(1 / 20_001)


# What `thalweg.stats.contrasts` says in words: coverage at 95 %, from so much to so much.
COVERAGE = [
    *((normal(1), normal(1), n, n, 0.945, 0.975) for n in (3, 4, 5, 8)),
    (normal(1), normal(1), 3, 8, 0.925, 0.96),
    *((normal(1), normal(4), n, m, 0.93, 0.965) for n, m in ((3, 3), (5, 5), (8, 8), (3, 8), (8, 3))),
    *((lognormal(1, 0.5), lognormal(1, 0.5), n, n, 0.95, 0.985) for n in (3, 5, 8)),
    (lognormal(1, 1), lognormal(1, 1), 5, 5, 0.965, 0.99),
    (normal(0.5), lognormal(1, 0.5), 5, 5, 0.935, 0.965),
    # Where it fails, and is said to: the skewed group is the wider one.
    (lognormal(1, 1), lognormal(4, 1), 8, 3, 0.79, 0.85),
    (lognormal(1, 1), lognormal(4, 1), 5, 5, 0.81, 0.87),
]


@pytest.mark.parametrize("case", range(len(COVERAGE)))
def test_welchs_interval_covers_as_stated(case):
    draw_a, draw_b, n, m, least, most = COVERAGE[case]
    rng = np.random.default_rng(case)
    x = np.stack([draw_a(rng, n) for _ in range(4000)])
    y = np.stack([draw_b(rng, m) for _ in range(4000)])
    # Some of them by the function itself, which tells that the vectorised ones are its intervals.
    ends = stats.ttest_ind(x, y, axis=1, equal_var=False).confidence_interval(0.95)
    for i in range(0, 4000, 50 if n + m < 12 else 800):
        found = two_sample(x[i], y[i])
        assert (found.low, found.high) == pytest.approx((ends.low[i], ends.high[i]), rel=1e-9, abs=1e-12)
    covered = ((ends.low <= 0) & (ends.high >= 0)).mean()
    assert least <= covered <= most


@pytest.mark.parametrize("n", [3, 5, 8])
def test_intervals_of_pairs_cover(n):
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(700):
        shared = 3 * rng.normal(size=n)
        found = two_sample(shared + rng.normal(size=n) + 1, shared + 2 * rng.normal(size=n), paired=True)
        hits += found.low <= 1 <= found.high
    assert abs(hits / 700 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 700)


@pytest.mark.parametrize(("paired", "n"), [(False, 4), (False, 5), (False, 8), (True, 6), (True, 8)])
def test_false_positives_of_the_p_value_stay_at_the_level(paired, n):
    """Labels that mean nothing, values skewed: never above the level, and at it up to the steps of p."""
    rng = np.random.default_rng(n)
    draw = lognormal(1, 1)
    x, y = (np.stack([draw(rng, n) for _ in range(1000)]) for _ in range(2))
    found = relabelled(x, y, paired=paired)  # what `two_sample` takes its p-value from, for many at once
    assert found.p_values[7] == two_sample(x[7], y[7], paired=paired).p_value
    for level in (0.05, 0.1, 0.2):
        attainable = math.floor(level / found.smallest_p + 1e-9) * found.smallest_p
        share = (found.p_values <= level + 1e-12).mean()
        assert abs(share - attainable) < 4 * math.sqrt(attainable / 1000) + 1e-12


def test_a_difference_needs_interval_and_p_value_both():
    """Unequal spreads in unequal groups: the p-value alone is wrong too often, with the interval not."""
    rng = np.random.default_rng(0)
    found = [two_sample(rng.normal(size=8), 4 * rng.normal(size=4)) for _ in range(1000)]
    by_p = np.array([f.p_value <= 0.05 for f in found])
    by_interval = np.array([not f.low <= 0 <= f.high for f in found])
    assert by_p.mean() > 0.08
    assert (by_p & by_interval).mean() < 0.065


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("spread", [1.0, 4.0])
@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_intervals_of_the_effect_size_cover(effect, spread, paired):
    """Bonett's interval holds for unequal variances; it is wide rather than wrong for few runs."""
    rng = np.random.default_rng(5)
    unit = math.sqrt((1 + spread**2) / 2)
    hits, sizes = 0, []
    for _ in range(400):
        shared = rng.normal(size=5) if paired else 0.0
        x = (rng.normal(size=5) + shared) / (math.sqrt(2) if paired else 1) + effect * unit
        y = spread * (rng.normal(size=5) + shared) / (math.sqrt(2) if paired else 1)
        found = two_sample(x, y, paired=paired)
        hits += found.effect_low <= effect <= found.effect_high
        sizes.append(found.effect_size)
    assert 0.92 <= hits / 400 <= 1
    assert abs(np.mean(sizes) - effect) < 4 * np.std(sizes) / math.sqrt(400)


def mean_effect(num: int, n: int, m: int, spread: float, correlation: float | None = None) -> float:
    """What a true effect of one is found to be, in the mean over `num` experiments.

    The means of normal values are independent of their spreads, so that they may be taken as they are.
    """
    rng, sizes = np.random.default_rng(7), []
    unit = math.sqrt((1 + spread**2) / 2)
    for _ in range(num):
        x, y = rng.normal(size=n), rng.normal(size=m)
        if correlation is not None:
            y = correlation * x + math.sqrt(1 - correlation**2) * y
        sizes.append(_effect(x - x.mean() + unit, spread * (y - y.mean()), correlation is not None, 0.95)[0])
    return float(np.mean(sizes))


@pytest.mark.parametrize("num", [4000, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("n", "m", "spread"),
    [(8, 3, 1.0), (12, 2, 1.0), (20, 5, 1.0), (3, 8, 4.0), (5, 5, 4.0), (20, 5, 4.0)],
)
def test_the_effect_size_is_unbiased_whatever_the_groups_and_their_spreads(n, m, spread, num):
    """On n + m - 2 degrees of freedom: 1.028, 1.088, 1.02, 1.013, 1.08 and 1.15."""
    assert mean_effect(num, n, m, spread) == pytest.approx(1, abs=0.01 if num == 20_000 else 0.022)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], list(range(900))])
def test_equal_sums_of_squares_have_a_finite_effect(values):
    size, low, high = _effect(np.asarray(values, dtype=float), 1 + np.asarray(values), False, 0.95)
    assert low < size < high
    plain = -1 / np.std(values, ddof=1)
    assert 0.5 <= size / plain <= 1.03  # equal shares are the most that two groups know: above one for 4, 4
    if len(values) > 100:
        assert size == pytest.approx(plain * (1 - 3 / (8 * len(values) - 9)), rel=1e-5)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_effect_size_of_pairs_is_nearly_unbiased(correlation):
    """With n - 1 degrees of freedom 0.88, 0.90 and 0.96."""
    assert mean_effect(4000, 5, 5, 1.0, correlation) == pytest.approx(1, abs=0.04)


def test_groups_without_spread():
    same = two_sample([0.1, 0.1, 0.1], [0.1, 0.1, 0.1])
    assert (same.difference, same.low, same.high, same.p_value, same.superiority) == (0, 0, 0, 1, 0.5)
    assert math.isnan(same.effect_size)
    apart = two_sample([0.3, 0.3, 0.3, 0.3, 0.3], [0.1] * 5)
    assert (apart.low, apart.high) == pytest.approx((0.2, 0.2))
    assert apart.p_value == pytest.approx(2 / 252)
    assert apart.superiority == 1
    assert two_sample([1.0, 2.0], [1.0, 2.0], paired=True).p_value == 1


def test_small_numbers_do_not_underflow():
    x, y = np.array([1.0, 2.0, 4.0]) * 1e-150, np.array([2.0, 5.0, 3.0]) * 1e-150
    assert two_sample(x, y).dof == pytest.approx(two_sample(x * 1e150, y * 1e150).dof)


def test_which_part_is_measurement():
    """Known spreads: runs 1, measuring 2, so that four fifths of the squared error are the latter's."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        x, y = rng.normal(size=(2, 12)) + 2 * rng.normal(size=(2, 12))
        found = two_sample(x, y, paired=True)
        shares.append(measurement_share(found.standard_error, np.full(12, 2.0), np.full(12, 2.0)))
    assert np.mean([1 / s for s in shares]) == pytest.approx(1.25, rel=0.06)
    assert measurement_share(0.0, [0, 0], [0, 0]) == 0
    assert measurement_share(0.0, [0, 1], [0, 0]) == math.inf


@pytest.mark.parametrize(
    ("a", "b", "more", "words"),
    [
        ([1.0], [1.0, 2.0], {}, r"`a` must hold one value for each of at least two runs, got shape \(1,\)"),
        ([1.0, 2.0], [[1.0, 2.0]], {}, r"`b` must hold one value for each of at least two runs"),
        ([1.0, math.nan], [1.0, 2.0], {}, "`a` must hold finite values"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], {"paired": True}, "one length to be paired, got 2 and 3"),
        ([1.0, 2.0], [1.0, 2.0], {"level": 95}, r"`level` must lie in \(0, 1\), got 95"),
    ],
)
def test_bad_input(a, b, more, words):
    with pytest.raises(ValueError, match=words):
        two_sample(a, b, **more)


def test_pairs_that_agree_have_an_effect_of_nought():
    """Runs that differ in what comes later are one network until then; rounding left less than nought."""
    rng = np.random.default_rng(21)
    for _ in range(100):
        x = rng.normal(size=12)
        found = two_sample(x, x, paired=True)
        assert (found.effect_size, found.effect_low, found.effect_high) == (0, 0, 0)
