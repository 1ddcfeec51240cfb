"""Power: by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.power import detectable_difference, seeds_for_equivalence, seeds_needed, units_needed
from thalweg.stats.verdicts import Claim, judge


@pytest.mark.parametrize(("n", "m", "power"), [(3, 3, 0.8), (5, 5, 0.5), (4, 9, 0.9)])
def test_the_detectable_difference_is_detected_that_often(n, m, power):
    rng = np.random.default_rng(0)
    shift = detectable_difference(n, m, power=power)
    x, y = rng.normal(size=(20_000, n)) + shift, rng.normal(size=(20_000, m))
    seen = (stats.ttest_ind(x, y, axis=1).pvalue < 0.05).mean()
    # The far side's false finds, which the definition leaves out, are below a tenth of a percent.
    assert abs(seen - power) < 4 * math.sqrt(power * (1 - power) / 20_000) + 1e-3


def test_of_pairs():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(20_000, 6)) + detectable_difference(6, 6, paired=True)
    assert abs((stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean() - 0.8) < 0.012


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("difference", [0.2, 1.0, 2.5, 30.0])
def test_units_needed_are_the_fewest(difference, paired):
    n = units_needed(difference, paired=paired)
    assert detectable_difference(n, n, paired=paired) <= difference
    assert n == 2 or detectable_difference(n - 1, n - 1, paired=paired) > difference


def test_bad_input():
    with pytest.raises(ValueError, match="`difference` must be a number of standard deviations > 0, got 0"):
        units_needed(0)
    with pytest.raises(ValueError, match=r"`difference` of 1e-06 standard deviations needs more than 65,536"):
        units_needed(1e-6)
    with pytest.raises(ValueError, match="`num_a` and `num_b` must be at least 2, got 1 and 5"):
        detectable_difference(1, 5)
    with pytest.raises(ValueError, match=r"`power` must lie in \(0, 1\), got 80"):
        detectable_difference(5, 5, power=80)


def judged(ratio, spread, num, paired, margin, direction, repeats):
    """Share of single claims that come out, by simulation."""
    rng = np.random.default_rng(1)
    claims = [
        Claim(
            np.exp(spread * rng.normal(size=num)) * ratio,
            np.exp((0.0 if paired else spread) * rng.normal(size=num)),
            direction,
            margin=margin,
            paired=paired,
        )
        for _ in range(repeats)
    ]
    return np.mean([f.answer == "supported" for f in judge(claims, correction="none", seed=0)])


@pytest.mark.parametrize(
    ("paired", "ratio", "spread"), [(False, 1.5, 0.2), (False, 2.0, 0.3), (True, 1.5, 0.25), (True, 1.2, 0.1)]
)
def test_so_many_seeds_find_the_ratio_that_often(paired, ratio, spread):
    num = seeds_needed(ratio, spread, paired=paired)
    assert seeds_needed(1 / ratio, spread, paired=paired) == num
    assert seeds_needed(math.log(ratio), spread, ratio=False, paired=paired) == num
    found = judged(ratio, spread, num, paired, None, "larger", 500)
    assert found > 0.8 - 0.03 - 4 * math.sqrt(0.16 / 500)
    if num > (6 if paired else 4):  # fewer cannot decide at all
        assert judged(ratio, spread, num - 1, paired, None, "larger", 500) < 0.8 + 0.03 + 4 * math.sqrt(
            0.16 / 500
        )


@pytest.mark.parametrize(("paired", "margin", "spread"), [(False, 1.5, 0.2), (True, 1.3, 0.15)])
def test_so_many_seeds_show_equivalence_that_often(paired, margin, spread):
    num = seeds_for_equivalence(margin, spread, paired=paired)
    assert seeds_for_equivalence(math.log(margin), spread, ratio=False, paired=paired) == num
    found = judged(1.0, spread, num, paired, margin, "equivalent", 500)
    assert found > 0.8 - 0.03 - 4 * math.sqrt(0.16 / 500)
    assert judged(1.0, spread, num - 1, paired, margin, "equivalent", 500) < 0.8 + 0.03 + 4 * math.sqrt(
        0.16 / 500
    )


def test_seeds_that_no_p_value_needs_fewer_of():
    """However large the difference: four a group, six pairs; ten claims ask for more."""
    assert (seeds_needed(100, 0.01), seeds_needed(100, 0.01, paired=True)) == (4, 6)
    assert (seeds_needed(100, 0.01, num_claims=10), seeds_needed(100, 0.01, paired=True, num_claims=10)) == (
        6,
        9,
    )
    assert seeds_for_equivalence(100, 0.01) == 4


def test_where_relabelling_takes_no_steps_it_is_students_power():
    assert seeds_needed(0.5, 1.0, ratio=False) == units_needed(0.5)
    # Schuirmann's test with both sides at 2.5 %: the normal approximation of Chow, Shao and Wang (2008), 3.2.
    approximate = 2 * ((stats.norm.ppf(0.975) + stats.norm.ppf(0.9)) / 0.25) ** 2
    assert seeds_for_equivalence(0.25, 1.0, ratio=False) == pytest.approx(approximate, rel=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: seeds_needed(1.0, 0.2), "`difference` must be a factor > 0 other than 1, got 1.0"),
        (lambda: seeds_needed(0, 0.2, ratio=False), "`difference` must be a number other than 0, got 0"),
        (lambda: seeds_needed(-1.5, 0.2), "`difference` must be a factor > 0 other than 1, got -1.5"),
        (lambda: seeds_needed(1.5, 0.0), "`spread` must be positive and finite, got 0.0; that of the values"),
        (
            lambda: seeds_needed(1.5, 0.2, num_claims=0),
            "`num_claims` must be a whole number of at least 1, got 0",
        ),
        (lambda: seeds_needed(1.0001, 1.0), "`spread` of 1 asks for more than 65,536 seeds of each group"),
        (lambda: seeds_for_equivalence(1.0, 0.2), "`margin` must be a number > 1, got 1.0"),
    ],
)
def test_bad_input_of_seeds(call, words):
    with pytest.raises(ValueError, match=words):
        call()
