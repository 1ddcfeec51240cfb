"""Groups of runs: rows are the statistics of the measures' own values, false ones as rare as stated."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.networks import images, mlp, residual, vectors
from torch import nn

import thalweg as tw
from thalweg.analyses.contrast import foreseen
from thalweg.analyses.contrast_result import Contrast
from thalweg.analyses.readings import Reading
from thalweg.analyses.sharpness_family import Member
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.rng import stream_seed
from thalweg.stats.contrasts import two_sample
from thalweg.stats.multiplicity import holm, joint_p_values
from thalweg.stats.permutation import relabelled

DATA = vectors(21)


def runs_of(num: int, scale: float = 3.0, folder: Path | None = None) -> tw.Runs:
    """Recipe b has weights `scale` times those of a: on these data a rougher surface."""

    def build(recipe: str, seed: int) -> nn.Module:
        model = mlp(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale if recipe == "b" else 1.0)
        return model

    return tw.Runs(
        tw.Run({"recipe": recipe, "seed": seed}, build, {"data": DATA})
        for recipe in "ab"
        for seed in range(num)
    )


def made_up(a: np.ndarray, b: np.ndarray, **more) -> Contrast:
    """A contrast of values ``(R, n)`` and ``(R, m)`` that nothing measured."""
    num_rows = len(a)
    tables = {"values": 1.0, "errors": 0.0, "below": 0.0, "above": 0.0}
    sides = {
        f"{name}_{side}": torch.from_numpy(x * factor if factor else np.zeros_like(x))
        for side, x in (("a", a), ("b", b))
        for name, factor in tables.items()
    }
    given = {
        "by": "recipe",
        "groups": ("a", "b"),
        "runs_a": tuple(f"a{i}" for i in range(a.shape[1])),
        "runs_b": tuple(f"b{i}" for i in range(b.shape[1])),
        "measures": tuple(f"m{i}" for i in range(num_rows)),
        "modes": (None,) * num_rows,
        "is_normalised": (False,) * num_rows,
        "larger_is_sharper": (True,) * num_rows,
        "are_lower_bounds": (False,) * num_rows,
        **sides,
        "reasons": ("",) * num_rows,
        "paired": False,
        "log": False,
        "level": 0.95,
        "correction": "joint",
        "seed": 0,
    }
    return Contrast(value=math.nan, **{**given, **more}).headed()


def test_rows_are_statistics_of_what_the_measures_return():
    runs = runs_of(5)
    calls: list[tuple[int, int]] = []
    found = tw.contrast(
        runs,
        by="recipe",
        measures={
            "sam_sharpness": {"radius": 0.1},
            "hessian_trace": {"rtol": 0.3, "method": "hutchinson"},
        },
        seed=4,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert found.modes == (None, None), "no batch norm: the three modes are one"
    values = {}
    for recipe in "ab":
        for run in runs.where(recipe=recipe):
            own = stream_seed(4, "contrast", run.label)
            objective = run.objective()
            values[run.label] = (
                tw.sam_sharpness(objective, radius=0.1, seed=own),
                tw.hessian_trace(objective, rtol=0.3, method="hutchinson", seed=own),
            )
    a, b = (
        np.array([[values[label][i].value for label in labels] for i in (0, 1)])
        for labels in (found.runs_a, found.runs_b)
    )
    assert np.array_equal(found.values_a.numpy(), a)
    assert np.array_equal(found.values_b.numpy(), b)
    for i, row in enumerate(found.rows):
        assert row.sample == two_sample(a[i], b[i])
    assert [row.p_joint for row in found.rows] == joint_p_values(relabelled(a, b)).tolist()
    assert [row.p_holm for row in found.rows] == holm([row.sample.p_value for row in found.rows]).tolist()
    sam, trace = found.rows
    assert (sam.low, sam.high) == (sam.sample.low, sam.sample.high), "exact values: nothing is added"
    assert sam.ordering.larger == "b"
    assert sam.p_corrected == sam.p_joint <= 0.05
    assert sam.measurement_share == 0
    errors = [
        [budget.probe.value if (budget := values[label][1].error).probe else 0.0 for label in labels]
        for labels in (found.runs_a, found.runs_b)
    ]
    assert max(errors[0]) > 0
    expected = sum(np.square(e).sum() / 25 for e in errors) / trace.sample.standard_error**2
    assert trace.measurement_share == pytest.approx(expected)
    assert found.value == sam.sample.difference
    assert found.interval() == (sam.low, sam.high)
    assert found.interval(0.5)[0] > sam.low
    assert calls[-1][0] == calls[-1][1]
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)


def test_it_survives_json_and_nothing_is_touched(unchanged):
    model = residual(0)
    data = images(21)

    def build(seed: int) -> nn.Module:
        with torch.no_grad():
            model.head.weight.fill_(seed / 10)
        return model

    runs = tw.Runs(
        tw.Run({"half": s % 2, "seed": s}, lambda seed=0, s=s: residual(s), {"data": data}) for s in range(4)
    )
    with unchanged(data):
        found = tw.contrast(runs, by="half", measures=["sam_sharpness"])
    assert found.modes == ("running", "recalibrated", "batch")
    text = json.dumps(found.to_dict(), allow_nan=False)
    back = Measurement.from_dict(json.loads(text))
    assert back == found
    assert back.rows == found.rows
    assert json.dumps(back.to_dict(), allow_nan=False) == text
    assert found == tw.contrast(runs, by="half", measures=["sam_sharpness"])
    assert str(found).startswith("Contrast(half: 2 0 against 2 1; sam_sharpness difference ")


def test_one_run_more_changes_no_other_runs_values():
    few, more = (tw.contrast(runs_of(n), by="recipe", measures=["hessian_trace"]) for n in (3, 4))
    assert torch.equal(more.values_a[:, :3], few.values_a)


def test_pairs_are_runs_of_one_seed():
    runs = tw.Runs([*runs_of(4)][::-1])
    found = tw.contrast(runs, by="recipe", groups=("a", "b"), measures=["sam_sharpness"], paired_by="seed")
    assert [label.split("seed=")[1] for label in found.runs_a] == [
        label.split("seed=")[1] for label in found.runs_b
    ]
    row = found.rows[0]
    assert row.sample == two_sample(found.values_a[0], found.values_b[0], paired=True)
    assert found.remarks[0].startswith(
        "Nothing can be decided: with 4 pairs no corrected p-value can be below 0.12."
    )
    assert row.ordering.larger == "undecided"


def test_logarithms_give_ratios():
    runs = runs_of(5)
    found = tw.contrast(runs, by="recipe", measures=["sam_sharpness"], log=True)
    a, b = found.values_a[0].numpy(), found.values_b[0].numpy()
    assert found.rows[0].sample == two_sample(np.log(a), np.log(b))
    signed = made_up(
        np.array([[1.0, -2.0, 3.0], [1.0, 2.0, 4.0]]), np.ones((2, 3)), log=True, reasons=("a1: no", "")
    )
    assert signed.rows[0].ordering.larger == "not measured"
    assert math.isnan(signed.value)


@pytest.mark.parametrize("log", [False, True])
def test_what_solvers_may_have_left_widens_the_interval(log):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1, 6)) + 20, rng.normal(size=(1, 6)) + 24
    plain = made_up(a, b, log=log)
    assert plain.rows[0].ordering.larger == "b"
    bounds = {
        "above_a": torch.full((1, 6), 3.0),
        "below_b": torch.full((1, 6), 1.0),
        "below_a": torch.full((1, 6), 0.5),
    }
    widened = made_up(a, b, log=log, **bounds).rows[0]
    assert widened.sample == plain.rows[0].sample
    if log:
        up = np.log((a + 3) / a).mean() + np.log(b / (b - 1)).mean()
        down = np.log(a / (a - 0.5)).mean()
    else:
        up, down = 4.0, 0.5
    assert widened.high == pytest.approx(plain.rows[0].high + up)
    assert widened.low == pytest.approx(plain.rows[0].low - down)
    assert widened.ordering.larger == "undecided"
    assert widened.p_corrected <= 0.05, "the p-value sees nothing of it"


def test_readings_tell_chance_from_bounds():
    budget = ErrorBudget(solver=0.5, probe=StandardError(0.3, 7), data=StandardError(0.4, 9))
    found = Reading.of(Measurement(value=2.0, error=budget), 0.95)
    assert found.standard_error == pytest.approx(0.5)
    assert (found.below, found.above) == pytest.approx((0.5, 0.5))
    certified = tw.top_eigenvalues(tw.Objective(mlp(0), DATA), certify_rtol=0.1, seed=0)
    found = Reading.of(certified, 0.95)
    assert found.standard_error == 0
    assert found.below == pytest.approx(certified.value - certified.lower_bound)
    assert found.above == pytest.approx(certified.upper_bound - certified.value)
    sampled = replace(certified, error=ErrorBudget(solver=0.01, data=StandardError(0.3, 7)))
    found = Reading.of(sampled, 0.95)
    assert (found.standard_error, found.below, found.above) == (0.3, 0.01, 0.01)
    assert Reading.of(Measurement(value=math.nan), 0.95).reason == "the value is not a number"


@pytest.mark.parametrize("level", [0.95, 0.999])
def test_a_lopsided_interval_of_chance_is_no_bound(level):
    """Four pairs' interval is longer above, at the higher level without an end: all of it is chance."""
    result = tw.average_sharpness(tw.Objective(mlp(0), DATA), radius=3.0, num_samples=4, seed=0)
    low, high = result.interval(level)
    assert high - result.value > 1.2 * (result.value - low)
    assert math.isinf(high) == (level == 0.999)
    found = Reading.of(result, level)
    assert (found.below, found.above) == (0, 0)
    assert found.standard_error == result.error.probe.value
    assert (found.low, found.high) == (low, high)


def test_what_an_ascent_found_is_contrasted_as_a_lower_bound():
    found = tw.contrast(runs_of(2), by="recipe", measures=["keskar_sharpness", "average_sharpness"])
    assert [row.ordering.is_lower_bound for row in found.rows] == [True, False]


def test_eigenvalues_are_bounded_at_the_level_asked_for():
    found = tw.contrast(runs_of(2), by="recipe", measures=["top_eigenvalue"], level=0.999)
    assert found.provenance["arguments"]["measures"]["top_eigenvalue"]["confidence"] == 0.999
    assert bool(torch.cat([found.above_a, found.above_b], 1).isfinite().all())


def test_what_chance_does_to_single_values_widens_no_row():
    """It is in the spread of the runs already."""
    found = tw.contrast(
        runs_of(4), by="recipe", measures={"average_sharpness": {"num_samples": 4}}, level=0.999
    )
    (row,) = found.rows
    assert (row.low, row.high) == (row.sample.low, row.sample.high)
    assert not row.ordering.is_wide


def test_a_basin_that_ends_beyond_the_scan_has_no_upper_bound():
    objective = tw.Objective(mlp(0), DATA)
    arguments = {"num_directions": 4, "loss_rise": 1.0, "seed": 0}
    whole = tw.basin_width(objective, max_distance=1e3, **arguments)
    assert whole.num_censored == 0
    found = Reading.of(whole, 0.95)
    assert found.below == found.above == whole.error.solver
    limit = float(whole.widths.median())
    censored = tw.basin_width(objective, max_distance=limit, **arguments)
    assert censored.num_censored > 0
    found = Reading.of(censored, 0.95)
    assert found.above == math.inf
    assert found.below == (censored.error.solver or 0.0)
    assert found.standard_error == censored.error.probe.value


@pytest.mark.parametrize("num", [120, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("correction", "n"), [("joint", 5), ("holm", 6)])
def test_how_often_anything_false_is_decided(correction, n, num):
    """Six quantities that hang together, of one distribution, skewed: a decision of any is false."""
    rng = np.random.default_rng(n)
    false = 0
    for _ in range(num):
        values = np.exp(0.7 * rng.normal(size=(1, 2 * n)) + 0.7 * rng.normal(size=(6, 2 * n)))
        found = made_up(values[:, :n], values[:, n:], correction=correction)
        false += any(row.ordering.larger != "undecided" for row in found.rows)
    assert false / num < 0.05 + 3 * math.sqrt(0.05 * 0.95 / num)


def test_a_planted_difference_is_found_where_holm_cannot():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(8, 5)), rng.normal(size=(8, 5))
    a[3] += 8
    joint, by_holm = (made_up(a, b, correction=c) for c in ("joint", "holm"))
    assert [i for i, row in enumerate(joint.rows) if row.ordering.larger == "a"] == [3]
    assert all(row.ordering.larger == "undecided" for row in by_holm.rows)
    assert by_holm.remarks[0].startswith(
        "Nothing can be decided: with 5 runs against 5 and 8 rows no corrected p-value can be below "
        "0.063. More runs, or fewer measures"
    )
    assert not joint.remarks[0].startswith("Nothing can be decided")


@pytest.mark.parametrize("num", [3, 4, 5])
@pytest.mark.parametrize("paired_by", [None, "seed"])
@pytest.mark.parametrize("correction", ["joint", "holm", "none"])
def test_what_can_be_decided_is_foreseen(num, paired_by, correction):
    rule = {"by": "recipe", "paired_by": paired_by, "correction": correction, "level": 0.9}
    measures = ["sam_sharpness", "keskar_sharpness"]
    before = foreseen(runs_of(num), measures=measures, **rule)
    after = tw.contrast(runs_of(num), measures=measures, **rule)
    assert before == (after.remarks[0] if after.smallest_corrected_p > 0.1 + 1e-9 else "")
    smallest = {row.sample.smallest_p for row in after.rows}
    assert smallest == {after.smallest_corrected_p / (2 if correction == "holm" else 1)}


def test_rows_foreseen_are_measures_times_modes_where_there_is_batch_norm():
    runs = tw.Runs(
        tw.Run({"half": s % 2, "seed": s}, lambda s=s: residual(s), {"data": images(21)}) for s in range(10)
    )
    rule = {"by": "half", "measures": ["sam_sharpness", "trace", "m_sharpness"], "correction": "holm"}
    assert foreseen(runs, **rule, modes="batch") == "", "3 x 0.0079"
    assert "5 runs against 5 and 9 rows" in foreseen(runs, **rule)
    assert foreseen(runs, **{**rule, "correction": "joint"}) == ""
    plain = runs_of(5)
    assert foreseen(plain, **{**rule, "by": "recipe"}) == "", "the three modes are one"
    with pytest.raises(ValueError, match="`correction` must be one of joint, holm, none"):
        foreseen(plain, "recipe", correction="bonferroni")
    with pytest.raises(ValueError, match="`by` must be one of the fields"):
        foreseen(plain, "epoch")


def bad_calls(folder: Path):
    runs = runs_of(3)
    three = tw.Runs(
        tw.Run({"r": r, "s": s}, lambda r=r, s=s: mlp(10 * r + s), {"data": DATA})
        for r in range(3)
        for s in range(2)
    )
    copies = tw.Runs(
        tw.Run({"r": r, "s": s}, lambda s=s: mlp(s), {"data": DATA}) for r in "ab" for s in range(2)
    )
    return [
        (
            lambda: tw.contrast([1], by="r"),
            TypeError,
            "`runs` must be thalweg.Runs, got list; see thalweg.Runs.from",
        ),
        (
            lambda: tw.contrast(runs, by="epoch"),
            ValueError,
            "`by` must be one of the fields recipe, seed, got 'epoch'",
        ),
        (
            lambda: tw.contrast(three, by="r"),
            ValueError,
            r"`groups` must name two of the values of r, for there are 3: 0 \(2 runs\)",
        ),
        (
            lambda: tw.contrast(three, by="r", groups=(0, 7)),
            ValueError,
            r"`groups` must be two different values of r",
        ),
        (
            lambda: tw.contrast(three, by="r", groups=(1, 1)),
            ValueError,
            r"`groups` must be two different values of r",
        ),
        (lambda: tw.contrast(runs.where(recipe="a"), by="recipe"), ValueError, "for there are 1: a"),
        (
            lambda: tw.contrast(runs, by="seed", groups=(0, 1), paired_by="seed"),
            ValueError,
            "fields other than seed: recipe; got 'seed'",
        ),
        (
            lambda: tw.contrast(runs[2:], by="recipe"),
            ValueError,
            r"recipe=a has one \(recipe=a, seed=2\): one run shows no spread",
        ),
        (
            lambda: tw.contrast(runs[1:], by="recipe", paired_by="seed"),
            ValueError,
            "must pair every run, but seed=0 is in one group alone",
        ),
        (
            lambda: tw.contrast(three, by="s", groups=(0, 1), paired_by=["r", "t"]),
            ValueError,
            "`paired_by` must be fields other than s: r; got 't'",
        ),
        (
            lambda: tw.contrast(copies, by="r", measures=["sam_sharpness"]),
            ValueError,
            r"different networks, but Run\(r=a, s=0\) and Run\(r=b, s=0\) hold",
        ),
        (
            lambda: tw.contrast(runs, by="recipe", correction="bonferroni"),
            ValueError,
            "`correction` must be one of joint, holm, none",
        ),
        (lambda: tw.contrast(runs, by="recipe", level=2), ValueError, "`level` must lie in"),
        (lambda: tw.contrast(runs, by="recipe", log="yes"), ValueError, "`log` must be True or False"),
        (
            lambda: tw.contrast(runs, by="recipe", measures="flatness"),
            ValueError,
            "`measures` must be some of .* got 'flatness'",
        ),
    ]


@pytest.mark.parametrize("case", range(15))
def test_bad_input(case, tmp_path):
    call, error, words = bad_calls(tmp_path)[case]
    with pytest.raises(error, match=words):
        call()


def test_pairs_that_are_no_pairs():
    runs = tw.Runs(
        tw.Run({"r": r, "s": s, "e": e}, lambda r=r, s=s, e=e: mlp(100 * r + 10 * s + e), {"data": DATA})
        for r in range(2)
        for s in range(2)
        for e in range(2)
    )
    with pytest.raises(
        ValueError, match="must tell the runs of r=0 apart, but r=0, s=0, e=0 and r=0, s=0, e=1 agree"
    ):
        tw.contrast(runs, by="r", paired_by="s")
    found = tw.contrast(runs, by="r", paired_by=("s", "e"), measures=["sam_sharpness"])
    assert len(found.runs_a) == 4


def test_a_diverged_run_is_named():
    def build(s: int) -> nn.Module:
        model = mlp(s)
        if s == 3:
            with torch.no_grad():
                model[2].bias.fill_(math.inf)
        return model

    runs = tw.Runs(tw.Run({"r": s % 2, "s": s}, lambda s=s: build(s), {"data": DATA}) for s in range(4))
    with pytest.raises(tw.NonFiniteLossError, match=r"^r=1, s=3: "):
        tw.contrast(runs, by="r", measures=["sam_sharpness"])


def test_a_measure_that_fails_on_one_run_leaves_its_row_out(monkeypatch):
    def fussy(objective: tw.Objective, *, seed: int, progress=None) -> Measurement:
        if float(objective.params[0]) == mlp(2)[0].weight[0, 0].item():
            raise tw.ConvergenceError("spent its budget")
        return tw.sam_sharpness(objective, seed=seed, progress=progress)

    monkeypatch.setattr(
        "thalweg.analyses.measure_choice.FAMILY", {"fussy": Member(fussy), "sam": Member(tw.sam_sharpness)}
    )
    runs = tw.Runs(tw.Run({"r": s % 2, "s": s}, lambda s=s: mlp(s), {"data": DATA}) for s in range(6))
    found = tw.contrast(runs, by="r")
    assert found.reasons == ("r=0, s=2: spent its budget", "")
    assert found.rows[0].sample is None
    assert found.rows[1].sample is not None
    assert found.rows[1].p_joint == pytest.approx(found.rows[1].sample.p_value)
