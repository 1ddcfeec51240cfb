"""Verdicts from rows made up on purpose: right under planted effects, seldom wrong under none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from scipy import stats

from thalweg.study.evidence import Evidence
from thalweg.study.foresight import GridForesight, foresight
from thalweg.study.spec import StudySpec
from thalweg.study.verdicts import verdicts

CONTRAST = {"by": "model", "groups": ["bn", "plain"], "mode": "running"}


def spec(claims: list[dict[str, Any]], seeds: int = 6, **more: Any) -> StudySpec:
    content = {
        "name": "made-up",
        "seeds": seeds,
        "models": {"bn": "small_cnn_bn", "plain": "small_cnn"},
        "moments": ["epoch 1", "epoch 2", "end"],
        "objective": {"modes": ["running", "batch"]},
        "measures": {"top_eigenvalue": {}, "trace": {}, "basin_width": {}},
        "claims": claims,
        **more,
    }
    return StudySpec.model_validate(content)


Planted = Callable[[Mapping[str, Any]], float]


def evidence(
    made: StudySpec, planted: Planted, errors: float = 0.0, whole: Planted | None = None, **over: Planted
) -> Evidence:
    """Rows of all measures and performances: `over` by name, `planted` for the others.

    `whole` is that of a quantity of the whole run, called ``hard``.
    """
    rows = []
    names = [*made.measures, "gap", "train_loss", "test_loss", "train_accuracy", "test_accuracy"]
    for setting in made.settings:
        for seed in made.seeds:
            labels = {**setting.fields, "seed": seed}
            for name in [*names, *(["hard"] if whole else [])]:
                for moment in made.moments if name != "hard" else ["run"]:
                    for mode in made.objective.modes if setting.model == "bn" else ["any"]:
                        place = {**labels, "name": name, "moment": moment, "mode": mode}
                        value = (whole if whole and name == "hard" else over.get(name, planted))(place)
                        rows.append(
                            {
                                "run": str(labels),
                                **place,
                                "measure": name,
                                "value": value,
                                "standard_error": errors,
                                "below": 0.0,
                                "above": 0.0,
                                "low": value,
                                "high": value,
                                "is_lower_bound": False,
                                "status": "diverged" if math.isnan(value) else "done",
                                "reason": "training diverged" if math.isnan(value) else "",
                                "seconds": 1.0,
                                "host": "here",
                            }
                        )
    return Evidence(rows)


def falling(place: Mapping[str, Any]) -> float:
    """A training loss: lower with batch norm, at every moment."""
    step = {"epoch 1": 0, "epoch 2": 1, "end": 2}[place["moment"]]
    return (0.4 if place["model"] == "bn" else 0.5) * 0.7**step


def noisy(rng: np.random.Generator, effect: Mapping[str, float], spread: float = 0.2) -> Planted:
    return lambda place: effect.get(place["model"], 1.0) * math.exp(spread * rng.normal())


def claim(name: str, measure: str, expect: str = "smaller", **more: Any) -> dict[str, Any]:
    return {"name": name, "measure": measure, "expect": expect, "primary": True, **CONTRAST, **more}


def test_planted_effects_are_found_whichever_way_they_go() -> None:
    rng = np.random.default_rng(0)
    made = spec(
        [
            claim("smaller", "top_eigenvalue", margin=1.1),
            claim("opposite", "trace"),
            claim("nothing much", "basin_width", margin=1.5),
            claim("same", "basin_width", "equivalent", margin=1.5),
            claim("unclear", "test_loss"),
        ]
    )
    shown = evidence(
        made,
        noisy(rng, {}),
        top_eigenvalue=noisy(rng, {"bn": 0.3}),
        trace=noisy(rng, {"bn": 3.0}),
        basin_width=noisy(rng, {}, 0.02),
        train_loss=falling,
    )
    answers = {v.claim.name: (v.answer, v.cell.basis) for v in verdicts(made, shown)}
    assert answers == {
        "smaller": ("supported", "smaller"),
        "opposite": ("refuted", "larger"),
        "nothing much": ("refuted", "equivalent"),
        "same": ("supported", "equivalent"),
        "unclear": ("undecided", ""),
    }


def test_the_numbers_of_a_verdict_are_welchs_and_holms() -> None:
    """Worked out again from the values, with SciPy alone."""
    rng = np.random.default_rng(1)
    made = spec([claim("one", "top_eigenvalue"), claim("two", "trace")])
    shown = evidence(
        made,
        noisy(rng, {}),
        top_eigenvalue=noisy(rng, {"bn": 0.75}),
        trace=noisy(rng, {"bn": 0.6}),
        train_loss=falling,
    )
    found = verdicts(made, shown)
    raw = []
    for verdict in found:
        a, b = (
            np.log(
                [
                    v.value
                    for v in shown.values(verdict.claim.measure, "running", "end")
                    if v.fields["model"] == m
                ]
            )
            for m in ("bn", "plain")
        )
        welch = stats.ttest_ind(a, b, equal_var=False)
        low, high = welch.confidence_interval(0.95)
        cell = verdict.cell
        assert cell.effect == pytest.approx(math.exp(a.mean() - b.mean()))
        assert (cell.low, cell.high) == pytest.approx((math.exp(low), math.exp(high)))
        exact = stats.permutation_test(
            (a, b),
            lambda x, y: stats.ttest_ind(x, y, equal_var=False).statistic,
            vectorized=False,
            n_resamples=np.inf,
            alternative="less",
        )
        # Student's and the relabelling p-value, doubled one-sided; the larger counts.
        p = max(
            2 * float(stats.ttest_ind(a, b, equal_var=False, alternative="less").pvalue),
            2 * float(exact.pvalue),
        )
        assert cell.p_support == pytest.approx(min(1.0, p), rel=1e-6)
        raw.append(min(1.0, p))
    adjusted = {0: max(raw), 1: 2 * min(raw)}
    smaller = raw.index(min(raw))
    for place, verdict in enumerate(found):
        expected = adjusted[1] if place == smaller else max(adjusted[1], max(raw))
        assert verdict.p_support == pytest.approx(min(1.0, expected))


@pytest.mark.parametrize("num", [60, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("margin", [None, 1.15])
def test_false_verdicts_are_no_oftener_than_stated(margin: float | None, num: int) -> None:
    """No difference at all: a supported claim is false; with these, four of them in one family."""
    rng = np.random.default_rng(2)
    names = ["top_eigenvalue", "trace", "test_loss", "gap"]
    made = spec(
        [claim(n, n, "larger", **({"margin": margin} if margin else {})) for n in names], moments=["end"]
    )
    made = made.model_copy(update={"measures": {k: made.measures[k] for k in ("top_eigenvalue", "trace")}})
    wrong = 0
    for _ in range(num):
        shown = evidence(made, noisy(rng, {}), train_loss=falling)
        wrong += any(v.answer == "supported" for v in verdicts(made, shown))
    # At most (1 - level) / 2 each way, over the family.
    assert stats.binomtest(wrong, num, 0.025, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("num", [80, pytest.param(800, marks=pytest.mark.slow)])
def test_power_under_a_planted_effect_is_what_foresight_says(num: int) -> None:
    rng = np.random.default_rng(3)
    made = spec([claim("one", "top_eigenvalue")], moments=["end"], measures={"top_eigenvalue": {}})
    (seen,) = foresight(made)
    ratio = math.exp(-0.2 * seen.detectable)
    found = 0
    for _ in range(num):
        shown = evidence(made, noisy(rng, {}), top_eigenvalue=noisy(rng, {"bn": ratio}), train_loss=falling)
        found += verdicts(made, shown)[0].answer == "supported"
    assert found / num == pytest.approx(0.8, abs=0.13 if num < 800 else 0.05)


def test_a_measure_that_is_the_smaller_the_sharper_is_asked_the_other_way_round() -> None:
    rng = np.random.default_rng(4)
    made = spec([claim("flatter", "top_eigenvalue", "smaller")])
    shown = evidence(
        made,
        noisy(rng, {}),
        top_eigenvalue=noisy(rng, {"bn": 0.3}),
        basin_width=noisy(rng, {"bn": 3.0}),
        train_loss=falling,
    )
    (verdict,) = verdicts(made, shown)
    cells = {(c.measure, c.mode, c.matching): c for c in verdict.cells}
    width = cells["basin_width", "running", "end"]
    assert (width.expects, width.answer, width.basis) == ("larger", "supported", "larger")
    assert cells["trace", "batch", "epoch 1"].answer == "undecided"
    assert len(cells) == 3 * 2 * 3


def test_at_equal_loss_values_lie_between_those_of_the_moments() -> None:
    def steep(place: Mapping[str, Any]) -> float:
        return 10 / falling(place) * (1 + 0.01 * place["seed"])

    made = spec([claim("equal", "top_eigenvalue", "equivalent", margin=1.05, matched_loss=0.3)])
    shown = evidence(made, lambda place: 1.0 + 0.01 * place["seed"], top_eigenvalue=steep, train_loss=falling)
    (verdict,) = verdicts(made, shown)
    # 10 over the loss is even in logarithms, so that interpolation is exact.
    assert [v.value for v in verdict.cell.values_a] == pytest.approx(
        [10 / 0.3 * (1 + 0.01 * s) for s in made.seeds]
    )
    assert verdict.answer == "supported"
    assert {c.matching for c in verdict.cells} == {"epoch 1", "epoch 2", "end", "loss = 0.3"}
    never = spec([claim("equal", "top_eigenvalue", matched_loss=0.01)])
    cell = verdicts(never, evidence(never, steep, train_loss=falling))[0].cell
    assert cell.reason.startswith("too few runs have a value: 0 of bn and 0 of plain")
    assert len(cell.missing) == 12
    assert all("0.01" in v.reason for v in cell.missing)


def test_what_diverged_is_left_out_and_said() -> None:
    rng = np.random.default_rng(5)

    def some(place: Mapping[str, Any]) -> float:
        return math.nan if place["seed"] == 1 else noisy(rng, {"bn": 0.3})(place)

    made = spec([claim("one", "top_eigenvalue")])
    (verdict,) = verdicts(made, evidence(made, noisy(rng, {}), top_eigenvalue=some, train_loss=falling))
    assert (verdict.cell.num_a, verdict.cell.num_b) == (5, 5)
    assert [v.reason for v in verdict.cell.missing] == ["training diverged"] * 2

    def nowhere(place: Mapping[str, Any]) -> float:
        return math.nan if place["seed"] == 1 else falling(place)

    equal = spec([claim("one", "top_eigenvalue", matched_loss=0.3)])
    (verdict,) = verdicts(equal, evidence(equal, noisy(rng, {}), top_eigenvalue=some, train_loss=nowhere))
    assert [v.reason for v in verdict.cell.missing] == ["training diverged"] * 2


def test_a_correlation_over_a_grid_is_found_and_nothing_is_where_there_is_none() -> None:
    grid = {
        "axes": {
            "model": ["plain"],
            "training.lr": [0.01, 0.02, 0.05, 0.1],
            "training.batch_size": [16, 32, 64, 128],
        }
    }
    correlation = {"ranks": "gap", "primary": True}
    claims = [
        {"name": "rank", "measure": "trace", "expect": "positive", **correlation},
        {
            "name": "granulated",
            "measure": "trace",
            "expect": "positive",
            "statistic": "granulated",
            **correlation,
        },
        {"name": "other way", "measure": "trace", "expect": "negative", **correlation},
        {"name": "noise", "measure": "basin_width", "expect": "positive", **correlation},
    ]
    made = spec(claims, seeds=3, grid=grid, moments=["end"])
    rng = np.random.default_rng(6)

    def heat(place: Mapping[str, Any]) -> float:
        return place["lr"] / place["batch_size"] * math.exp(0.1 * rng.normal())

    shown = evidence(made, noisy(rng, {}), trace=heat, gap=heat)
    answers = {v.claim.name: v.answer for v in verdicts(made, shown)}
    assert answers["rank"] == "supported"
    assert answers["granulated"] == "supported"
    assert answers["other way"] == "refuted"
    assert answers["noise"] == "undecided"
    given = {"statistic": "partial", "given": ["test_loss"]}
    partial = spec([{**claims[0], **given}], seeds=3, grid=grid, moments=["end"])
    # All that ties the two is held equal.
    both = evidence(
        partial, noisy(rng, {}), trace=heat, gap=heat, test_loss=lambda p: p["lr"] / p["batch_size"]
    )
    assert verdicts(partial, both)[0].answer == "undecided"


def test_foresight_says_what_cannot_be_decided_and_how_many_seeds_a_margin_needs() -> None:
    made = spec([claim("one", "top_eigenvalue", margin=1.3)], seeds=2)
    assert "can decide nothing: no corrected p-value can be below 0.33" in str(foresight(made)[0])
    made = spec([claim("one", "top_eigenvalue", margin=1.3)])
    (before,) = foresight(made)
    assert math.isnan(before.spread)
    rng = np.random.default_rng(7)
    (after,) = foresight(made, evidence(made, noisy(rng, {}), train_loss=falling))
    assert 0.1 < after.spread < 0.4
    assert after.seeds is not None
    assert after.seeds > 2
    words = str(after)
    assert f"the margin of 1.3 needs {after.seeds} seeds" in words


HARDNESS = {
    "axes": {
        "model": ["plain"],
        "training.lr": [0.01, 0.02, 0.05, 0.1],
        "training.batch_size": [32, 64, 128],
        "init_scale": [0.5, 1.0],
    }
}


def hardness(claims: list[dict[str, Any]]) -> StudySpec:
    own = {"quantities": {"hard": {"kind": "diverged"}}, "moments": ["start", "end"]}
    return spec(claims, seeds=2, grid=HARDNESS, **own)


def outcomes(made: StudySpec, planted: Planted, hard: Planted) -> Evidence:
    """Two columns of `planted`, noise elsewhere, and an outcome of each run."""
    rng = np.random.default_rng(11)
    return evidence(made, noisy(rng, {}), whole=hard, trace=planted, top_eigenvalue=planted)


def luck_of(place: Mapping[str, Any]) -> float:
    """Of a setting, which its hyperparameters do not tell."""
    key = [int(1000 * place["lr"]), place["batch_size"], int(10 * place["init_scale"])]
    return float(np.random.default_rng(key).normal())


def test_a_feature_that_foretells_is_seen_and_one_that_does_not_is_refuted() -> None:
    prediction = {"outcome": "hard", "primary": True, "moment": "start", "margin": 1.2}
    made = hardness(
        [
            {"name": "tells", "features": ["trace", "top_eigenvalue"], "expect": "helps", **prediction},
            {"name": "nothing", "features": ["trace"], "expect": "nothing", **prediction},
            {"name": "ranks", "measure": "trace", "ranks": "hard", "expect": "positive", "moment": "start"},
        ]
    )
    rng = np.random.default_rng(12)

    def feature(place: Mapping[str, Any]) -> float:
        return math.exp(luck_of(place) + 0.05 * rng.normal())

    def hard(place: Mapping[str, Any]) -> float:
        steps = luck_of(place) - 0.3 * math.log(place["lr"]) + 0.05 * rng.normal()
        return math.inf if steps > 1.5 else steps

    shown = outcomes(made, feature, hard)
    tells, nothing, ranks = verdicts(made, shown)
    assert (tells.answer, tells.cell.basis) == ("supported", "helps")
    assert nothing.answer == "refuted"
    assert tells.cell.effect < 0.7
    assert tells.cell.high < 1
    # All features together, and each alone; and an outcome is the same whatever the moment.
    assert tells.cell.measure == "trace + top_eigenvalue"
    assert {c.measure for c in tells.cells} == {tells.cell.measure, "top_eigenvalue", "trace", "basin_width"}
    by_place = {(c.measure, c.mode, c.matching): c for c in tells.cells}
    alone = by_place["basin_width", "running", "start"]
    assert alone.answer != "supported"
    # Runs of an infinite outcome are ranked, as the hardest.
    assert tells.cell.num_a == ranks.cell.num_a == 48
    assert sum(math.isinf(v.value) for v in ranks.cell.values_b) >= 2
    assert ranks.answer == "supported"
    found = tells.cell.prediction
    assert found is not None
    assert found.num_configurations == 24
    # The p-values are corrected as all others are.
    assert tells.p_support == pytest.approx(2 * tells.cell.p_support)

    noise = outcomes(made, lambda p: math.exp(rng.normal()), hard)
    tells, nothing, ranks = verdicts(made, noise)
    assert (tells.answer, nothing.answer) == ("refuted", "supported")
    assert tells.cell.basis == "equivalent"
    assert ranks.answer == "undecided"


def test_what_outcomes_a_constant_or_missing_leave_is_told() -> None:
    claims = [{"name": "tells", "features": ["trace"], "outcome": "hard", "expect": "helps"}]
    made = hardness(claims)
    (verdict,) = verdicts(made, outcomes(made, luck_of, lambda _: math.inf))
    assert "`outcome` must not be constant" in verdict.cell.reason
    (verdict,) = verdicts(made, outcomes(made, luck_of, lambda p: math.nan if p["lr"] > 0.01 else luck_of(p)))
    assert verdict.cell.num_a == 12
    assert len(verdict.cell.missing) == 36


def test_foresight_says_what_a_grid_can_decide() -> None:
    rank = {"name": "ranks", "measure": "trace", "ranks": "hard", "expect": "positive", "primary": True}
    tell = {
        "name": "tells",
        "features": ["trace"],
        "outcome": "hard",
        "expect": "helps",
        "primary": True,
        "where": {"lr": 0.01, "batch_size": 32},
    }
    ranks, tells = foresight(hardness([rank, tell]))
    # 4! x 3! x 2! exchanges of levels.
    assert ranks.smallest_p == pytest.approx(2 * 2 / 288)
    assert str(ranks).startswith("ranks: 48 runs of 24 settings find a tau of about 0.8")
    assert str(ranks).endswith("between settings with probability 0.8 among 2 primary claims.")
    assert "tells: 4 runs of 2 settings can decide nothing" in str(tells)
    few = spec(
        [{**rank, "ranks": "gap"}],
        seeds=2,
        grid={"axes": {"model": ["plain"], "training.lr": [0.01, 0.02, 0.03, 0.04]}},
    )
    # Of 24 orders the one seen and its reverse: 2 / 24.
    assert "no corrected p-value can be below 0.083" in str(foresight(few)[0])


def test_foresight_counts_no_exchange_that_changes_nothing() -> None:
    """Temperature is that of both models, a fresh network that of every rate: these are no exchanges."""
    heat = {"measure": "trace", "ranks": "heat", "expect": "negative", "primary": True}
    made = spec(
        [
            {"name": "hot", **heat},
            {"name": "of-one", **heat, "measure": "basin_width"},
            {"name": "given", **heat, "statistic": "partial", "given": ["train_loss"]},
            {"name": "fresh", **heat, "ranks": "gap", "moment": "start"},
        ],
        seeds=3,
        grid={"axes": {"training.lr": [0.01, 0.02, 0.04, 0.08], "training.batch_size": [32, 64, 128]}},
        data={"num_train": 128},
        moments=["start", "end"],
        quantities={"heat": {"kind": "temperature"}},
        measures={"trace": {}, "basin_width": {"where": {"model": "bn"}}},
    )
    hot, of_one, given, fresh = foresight(made)
    assert [hot.smallest_p, of_one.smallest_p, given.smallest_p] == pytest.approx([8 / 144, 8 / 144, 8 / 288])
    assert [line.num_settings for line in (hot, of_one) if isinstance(line, GridForesight)] == [24, 12]
    # Of two models alone.
    assert fresh.smallest_p > 1
