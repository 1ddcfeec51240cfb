"""Values at a matched loss: closed forms, odd curves, and the error against repeating the measurement."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.stats.matched_loss import at_matched_loss

NAN = math.nan


def test_what_goes_evenly_with_the_logarithm_of_the_loss_is_met_exactly():
    step = np.array([0.0, 1, 3, 4, 8])
    losses, values = 2 * np.exp(-0.7 * step), 5 + 3 * step
    for target in (1.9, 1.0, 0.5, 0.01):
        found = at_matched_loss(losses, values, target)
        assert found.value == pytest.approx(5 + 3 * math.log(2 / target) / 0.7)
        assert found.before <= found.value <= found.after
    power = at_matched_loss(losses, losses**-1.5, 0.3, log=True)
    assert power.value == pytest.approx(0.3**-1.5)
    assert found.position == pytest.approx(np.interp(math.log(2 / 0.01) / 0.7, step, np.arange(5)))


def test_a_checkpoint_at_the_target_is_itself():
    for losses, place in (([1.0, 0.5, 0.2], 1), ([0.5, 0.4, 0.3], 0), ([1.0, 0.8, 0.5], 2)):
        found = at_matched_loss(losses, [10.0, 20.0, 30.0], 0.5, value_errors=[1.0, 2.0, 3.0])
        assert (found.value, found.standard_error, found.position) == (10.0 * (place + 1), place + 1.0, place)


def test_the_first_of_several_crossings_is_taken_and_said():
    found = at_matched_loss([1.0, 0.25, 0.8, 0.25], [0.0, 1.0, 5.0, 9.0], 0.5)
    assert found.value == pytest.approx(0.5)
    assert found.num_crossings == 3
    assert at_matched_loss([1.0, 0.25, 0.1], [0.0, 1.0, 5.0], 0.5).num_crossings == 1


@pytest.mark.parametrize(
    ("losses", "values", "reason"),
    [
        ([1.0, 0.9, 0.7], [1.0, 2, 3], "the loss never reaches 0.5"),
        ([0.4, 0.3, 0.2], [1.0, 2, 3], "the loss is below 0.5 at the first checkpoint already"),
        ([1.0, NAN, 0.2], [1.0, 2, 3], "the loss is nan at checkpoint 1, before the target is reached"),
        ([1.0, math.inf, NAN], [1.0, 2, 3], "the loss never reaches 0.5"),
        ([NAN, NAN, NAN], [1.0, 2, 3], "no checkpoint has a finite loss"),
        ([1.0, 0.8, 0.2], [1.0, NAN, 3], "it was not measured at checkpoint 1, beside the target"),
        ([1.0, 0.5, 0.2], [1.0, NAN, 3], "it was not measured at checkpoint 1"),
    ],
)
def test_what_is_missing_has_a_reason(losses, values, reason):
    found = at_matched_loss(losses, values, 0.5)
    assert math.isnan(found.value)
    assert math.isnan(found.standard_error)
    assert found.reason == reason
    lacking = 1.0 if "measured" in reason else NAN
    assert found.position == pytest.approx(lacking, nan_ok=True)


def test_what_is_not_beside_the_target_may_be_missing():
    found = at_matched_loss([2.0, 1.0, 0.25, 0.1], [NAN, 1, 2, NAN], 0.5, value_errors=[NAN, 0.1, 0.1, NAN])
    assert found.value == pytest.approx(1.5)
    assert not found.reason


@pytest.mark.parametrize("log", [False, True])
def test_the_standard_error_against_repetition(log):
    rng = np.random.default_rng(0)
    losses, values = np.array([2.0, 1.0, 0.3, 0.1]), np.array([4.0, 5.0, 9.0, 14.0])
    errors = np.array([0.1, 0.2, 0.25, 0.1])
    truth = at_matched_loss(losses, values, 0.6, log=log).value
    drawn = [values + errors * rng.normal(size=4) for _ in range(2000)]
    found = [at_matched_loss(losses, v, 0.6, value_errors=errors, log=log) for v in drawn]
    stated = math.sqrt(np.mean([f.standard_error**2 for f in found]))
    assert stated == pytest.approx(np.std([f.value for f in found]), rel=0.05)
    assert 0.935 <= np.mean([abs(f.value - truth) <= 1.96 * f.standard_error for f in found]) <= 0.965


@pytest.mark.parametrize(
    ("losses", "values", "more", "words"),
    [
        ([1.0, -0.5], [1.0, 2], {}, "`losses` must hold one positive loss a checkpoint"),
        ([], [], {}, "`losses` must hold one positive loss a checkpoint"),
        ([1.0, 0.2], [1.0], {}, r"`values` must hold one for each of the 2 losses, got shape \(1,\)"),
        ([1.0, 0.2], [1.0, -2], {"log": True}, "`values` must be positive for their logarithms, got -2"),
        (
            [1.0, 0.2],
            [1.0, 2],
            {"value_errors": [0.1]},
            "`value_errors` must hold one for each of the 2 checkpoints",
        ),
        (
            [1.0, 0.2],
            [1.0, 2],
            {"value_errors": [0.1, -1]},
            "`value_errors` must be standard errors >= 0, got -1",
        ),
        ([1.0, 0.2], [1.0, 2], {"log": 1}, "`log` must be True or False"),
    ],
)
def test_bad_input(losses, values, more, words):
    with pytest.raises(ValueError, match=words):
        at_matched_loss(losses, values, 0.5, **more)


def test_a_bad_target():
    with pytest.raises(ValueError, match="`target` must be positive and finite, got 0"):
        at_matched_loss([1.0], [1.0], 0)
