import math

import pytest

from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.report import tables


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (88.4321, 0.53, "88.43"),
        (88.4321, 0.053, "88.432"),
        (88.4321, 12.0, "88"),
        (0.9151, 0.0055, "0.9151"),
        (0.0842391, 0.0, "0.08424"),
        (57.18, 0.0, "57.18"),
        (1234567.0, 1e-9, "1234567"),
        (0.0, 0.0, "0.000"),
        (-0.25, 0.01, "−0.250"),
        (math.nan, 0.1, "not finite"),
        (math.inf, 0.1, "∞"),
        (-math.inf, 0.1, "−∞"),
        (1.2345e60, 1e59, "1.23e60"),
        (-9.999e15, 0.0, "−10.00e15"),
        (5.0, math.inf, "5.000"),
    ],
)
def test_digits_follow_the_uncertainty(value, half_width, text):
    assert tables.format_number(value, half_width) == text


def test_an_interval_without_width_is_exact():
    assert tables.format_interval(1.0, 1.0) == "exact"
    assert tables.format_interval(1.4204, 1.4596) == "1.420 to 1.460"
    assert tables.format_interval(2.0, math.inf) == "2.000 to ∞"
    assert tables.format_interval(0.5, 1.2345e60) == "0 to 1.24e60"


def test_every_source_of_uncertainty_is_named():
    budget = ErrorBudget(solver=0.0881, probe=StandardError(0.2, 7), data=StandardError(0.0017, 63))
    assert (
        tables.format_budget(budget) == "solver ≤ 0.088 · probe s.e. 0.2, 7 d.f. · data s.e. 0.0017, 63 d.f."
    )
    assert tables.format_budget(ErrorBudget()) == "solver exact · probe exact · data exact"
    below = tables.format_budget(ErrorBudget(data=StandardError(0.5)), "all", solver="from below only")
    assert below == "solver from below only · probe exact · data s.e. 0.5"


def test_seconds_by_stage_add_up(study):
    found = tables.stages(study.records)
    assert [stage.name for stage in found][:2] == ["train", "top_eigenvalues"]
    assert sum(stage.num_records for stage in found) == len(study.records)
    assert sum(stage.seconds for stage in found) == pytest.approx(sum(r.seconds for r in study.records))
    assert sum(stage.share for stage in found) == pytest.approx(1)
    assert found[0].time == "5 min 30 s"


def test_no_time_at_all_divides_by_nothing(study):
    assert tables.stages([]) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.9, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations_round_up_into_the_next_unit(seconds, text):
    assert tables.format_seconds(seconds) == text
