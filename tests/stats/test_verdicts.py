"""Verdicts: the table of answers, the family's error by counting, and what the intervals cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.contrasts import two_sample
from thalweg.stats.multiplicity import holm
from thalweg.stats.verdicts import Claim, judge

BASE = np.array([-1.2, -0.7, -0.2, 0.2, 0.7, 1.2]) / 10


def claim(difference, direction, margin=0.5, scale=1.0, **more):
    return Claim(difference + scale * BASE, scale * BASE[::-1], direction, margin=margin, ratio=False, **more)


@pytest.mark.parametrize(
    ("difference", "scale", "larger", "smaller", "equivalent"),
    [
        (1.0, 1, ("supported", "larger"), ("refuted", "larger"), ("refuted", "beyond")),
        (-1.0, 1, ("refuted", "smaller"), ("supported", "smaller"), ("refuted", "beyond")),
        (0.0, 1, ("refuted", "equivalent"), ("refuted", "equivalent"), ("supported", "equivalent")),
        # There, and too small to matter: the margin goes first.
        (0.25, 1, ("refuted", "equivalent"), ("refuted", "larger"), ("supported", "equivalent")),
        # Larger, perhaps by no more than the margin.
        (0.5, 1, ("supported", "larger"), ("refuted", "larger"), ("undecided", "")),
        (0.0, 9, ("undecided", ""), ("undecided", ""), ("undecided", "")),
    ],
)
def test_the_table_of_answers(difference, scale, larger, smaller, equivalent):
    wanted = {"larger": larger, "smaller": smaller, "equivalent": equivalent}
    for direction, answer in wanted.items():
        (found,) = judge([claim(difference, direction, scale=scale)], seed=0)
        assert (found.answer, found.basis) == answer, direction


def test_without_a_margin_only_the_opposite_refutes():
    for difference, answer in ((0.0, "undecided"), (0.25, "supported"), (-1.0, "refuted")):
        (found,) = judge([claim(difference, "larger", margin=None)], seed=0)
        assert found.answer == answer
        assert math.isnan(found.p_equivalent)


def test_so_few_runs_decide_nothing_and_say_so():
    a, b = [5.0, 5.1, 5.2], [1.0, 1.1, 1.2]
    (found,) = judge([Claim(a, b, "larger")], seed=0)
    assert found.answer == "undecided"
    assert found.low > 1  # by Student's distribution alone it would be
    assert found.smallest_p == pytest.approx(0.1)
    pairs = judge([Claim(np.arange(5) + 9.0, np.ones(5), "larger", paired=True)], seed=0)[0]
    assert (pairs.answer, pairs.smallest_p) == ("undecided", pytest.approx(0.0625))


def test_a_ratio_is_a_difference_of_logarithms():
    rng = np.random.default_rng(0)
    a, b = np.exp(rng.normal(size=6) + 1), np.exp(rng.normal(size=8))
    (found,) = judge([Claim(a, b, "larger", margin=1.3)], level=0.9, seed=0)
    plain = judge(
        [Claim(np.log(a), np.log(b), "larger", margin=math.log(1.3), ratio=False)], level=0.9, seed=0
    )[0]
    assert found.effect == pytest.approx(stats.gmean(a) / stats.gmean(b))
    assert (found.low, found.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    assert (found.p_larger, found.p_equivalent) == pytest.approx((plain.p_larger, plain.p_equivalent))
    sample = two_sample(np.log(a), np.log(b), level=0.9)
    assert found.sample.effect_size == pytest.approx(sample.effect_size)
    assert found.sample.p_value == pytest.approx(sample.p_value)
    turned = judge([Claim(b, a, "smaller", margin=1.3)], level=0.9, seed=0)[0]
    assert (turned.effect, turned.p_support) == pytest.approx((1 / found.effect, found.p_support))


def test_pairs_take_out_what_they_share():
    rng = np.random.default_rng(1)
    shared = np.exp(3 * rng.normal(size=7))
    a, b = 1.5 * shared * np.exp(0.05 * rng.normal(size=7)), shared
    assert judge([Claim(a, b, "larger", paired=True)], seed=0)[0].answer == "supported"
    assert judge([Claim(a, b, "larger")], seed=0)[0].answer == "undecided"


def test_what_solvers_left_is_added_and_errors_are_not():
    a, b = 2 + BASE, 1 + BASE
    plain = judge([Claim(a, b, "larger", ratio=False)], seed=0)[0]
    half = np.full(6, 0.6)
    with_errors = judge([Claim(a, b, "larger", ratio=False, errors_a=half / 10, errors_b=half / 10)], seed=0)[
        0
    ]
    assert (with_errors.low, with_errors.high) == (plain.low, plain.high)
    assert with_errors.measurement_share == pytest.approx(2 * 0.06**2 / 6 / plain.sample.standard_error**2)
    assert math.isnan(plain.measurement_share)
    wide = judge([Claim(a, b, "larger", ratio=False, below_a=half, above_b=half)], seed=0)[0]
    assert (wide.low, wide.high) == pytest.approx((plain.low - 1.2, plain.high))
    assert (plain.answer, wide.answer) == ("supported", "undecided")
    # A value that may be nought has no lower bound in logarithms.
    open_ended = judge([Claim(a, b, "larger", below_a=3 * a)], seed=0)[0]
    assert (open_ended.answer, open_ended.low) == ("undecided", pytest.approx(0, abs=1e-100))
    assert open_ended.high > 1


def test_holm_runs_over_what_supports_and_over_what_refutes():
    rng = np.random.default_rng(2)
    claims = [
        Claim(rng.normal(size=n) + d, rng.normal(size=6), direction, margin=3.0, ratio=False)
        for n, d, direction in ((6, 2, "larger"), (7, 1, "larger"), (6, 0, "equivalent"), (6, -2, "larger"))
    ]
    found = judge(claims, seed=0)
    for side in ("support", "refute"):
        plain = [getattr(f, f"p_{side}") for f in found]
        assert [getattr(f, f"p_{side}_corrected") for f in found] == pytest.approx(holm(plain).tolist())
    alone = judge(claims, correction="none", seed=0)
    assert [f.p_support_corrected for f in alone] == [f.p_support for f in found]
    assert [f.p_support for f in alone] == [judge([c], seed=0)[0].p_support for c in claims]
    assert judge([], seed=0) == []


@pytest.mark.parametrize(
    "truths",
    [
        (0.0, 0.0, 0.0, 0.0),  # at nought each may falsely be supported
        (2.0, 2.0, 2.0, 2.0),  # at the margin each may falsely be refuted
        (0.0, 2.0, 0.0, 2.0),
        (-9.0, 9.0, 0.0, 2.0),  # two that are certain, which Holm takes out of the count
    ],
)
def test_no_verdict_of_a_family_is_false_as_often_as_stated(truths):
    """Claims "larger" with a margin of 2; their values hang together."""
    rng, repeats, level = np.random.default_rng(3), 400, 0.8
    claims = []
    for _ in range(repeats):
        shared = rng.normal(size=(2, 5))
        for d in truths:
            x, y = 0.6 * shared + 0.8 * rng.normal(size=(2, 5))
            claims.append(Claim(x + d, y, "larger", margin=2.0, ratio=False))
    # All are relabelled in one go, and corrected family by family, as `judge` does.
    single = judge(claims, level=level, correction="none", seed=0)
    false = 0
    for i in range(repeats):
        family = single[4 * i : 4 * i + 4]
        support = holm([f.p_support for f in family]) <= 1 - level + 1e-12
        refute = holm([f.p_refute for f in family]) <= 1 - level + 1e-12
        if i < 5:
            answers = [f.answer for f in judge(claims[4 * i : 4 * i + 4], level=level, seed=0)]
            assert answers == [
                "refuted" if r else "supported" if s else "undecided"
                for s, r in zip(support, refute, strict=True)
            ]
        wrong = [
            (s and not r and d <= 0) or (r and d >= 2)
            for s, r, d in zip(support, refute, truths, strict=True)
        ]
        false += any(wrong)
    assert false / repeats <= 1 - level + 3 * math.sqrt(level * (1 - level) / repeats)
    assert false > 0


def test_a_planted_effect_is_found_and_a_planted_nothing_refuted():
    rng = np.random.default_rng(4)
    claims = [
        Claim(np.exp(0.2 * rng.normal(size=6)) * r, np.exp(0.2 * rng.normal(size=6)), "larger", margin=2.0)
        for r in (3.0, 1.0, 1 / 3)
        for _ in range(50)
    ]
    answers = np.array([f.answer for f in judge(claims, correction="none", seed=0)]).reshape(3, 50)
    assert (answers[0] == "supported").mean() > 0.95
    assert (answers[1] == "refuted").mean() > 0.95
    assert (answers[2] == "refuted").mean() > 0.95


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"a": [1.0]},
            r"`claims\[1\]`: `a` must hold one finite value for each of at least two runs, got \[1.0\]",
        ),
        ({"b": [1.0, math.nan]}, r"`claims\[1\]`: `b` must hold one finite value"),
        ({"b": [1.0, -2.0]}, "`b` must hold positive values to be compared by ratio"),
        ({"direction": "bigger"}, "`direction` must be one of larger, smaller, equivalent, got 'bigger'"),
        ({"direction": "equivalent"}, "`margin` must be given for a claim of equivalence"),
        ({"margin": 0.9}, "`margin` must be a number > 1, a factor; 1.1 for a tenth, got 0.9"),
        ({"margin": 0, "ratio": False}, "`margin` must be a number > 0, in the unit of the values, got 0"),
        ({"paired": True, "a": [1.0, 2, 3]}, "`a` and `b` must have one length to be paired, got 3 and 2"),
        ({"errors_a": [1.0]}, "`errors_a` must hold one number >= 0 for each of the 2 values"),
        ({"below_b": [1.0, -1]}, "`below_b` must hold one number >= 0 for each of the 2 values"),
        ({"ratio": 1}, "`ratio` must be True or False, got 1"),
    ],
)
def test_bad_input(more, words):
    good = {"a": [1.0, 2.0], "b": [1.0, 3.0], "direction": "larger"}
    with pytest.raises(ValueError, match=words):
        judge([Claim(**good), Claim(**(good | more))], seed=0)


def test_bad_rules():
    with pytest.raises(ValueError, match="`correction` must be one of holm, none, got 'joint'"):
        judge([], correction="joint", seed=0)
    with pytest.raises(ValueError, match=r"`level` must lie in \(0, 1\), got 95"):
        judge([], level=95, seed=0)
