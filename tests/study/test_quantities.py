"""Quantities of whole runs, and runs that diverge but keep what was measured of them before."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.study.toy import write_study

from thalweg.study.evidence import Evidence
from thalweg.study.plan import StudyPlan
from thalweg.study.quantities import temperature
from thalweg.study.study import Study, run_study
from thalweg.study.study_file import read_study
from thalweg.study.table import rows
from thalweg.study.verdicts import verdicts
from thalweg.training.loss_reached import reached_step

MORE = """
[grid.axes]
model = ["plain"]
"training.lr" = [0.001, 0.3, 1e38]
init_scale = [1.0, 2.0]
[measures.curvature]
measure = "curvature_profile"
numbers = ["lambda_max", "negative_mass"]
moments = ["start", "step 6"]
[quantities.steps]
kind = "steps_to_loss"
loss = 0.55
[quantities.final]
kind = "outcome"
moment = "end"
[quantities.accurate]
kind = "outcome"
of = "test_accuracy"
[quantities.curved]
kind = "outcome"
of = "curvature"
moment = "start"
[quantities.curved_later]
kind = "outcome"
of = "curvature"
moment = "step 6"
[quantities.diverged]
kind = "diverged"
[quantities.hopeless]
kind = "diverged"
above = 0.6
[quantities.temperature]
kind = "temperature"
[quantities.drop]
kind = "loss_drop"
[[claims]]
name = "ranks"
measure = "curvature.lambda_max"
ranks = "final"
moment = "start"
expect = "positive"
[[claims]]
name = "foretells"
features = ["curvature", "drop"]
outcome = "steps"
moment = "step 6"
expect = "helps"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    from tests.study.toy import write_module

    folder = tmp_path_factory.mktemp("quantities")
    write_module(folder)
    text = write_study(
        folder,
        MORE,
        moments='moments = ["start", "step 6", "end"]\nlook_every = 1',
        epochs="epochs = 8",
    )
    # Of one model, and without the pairs and the contrast.
    head, _, tail = text.read_text().partition("[pairs.barrier]")
    text.write_text(head + tail[tail.index("[grid.axes]") :])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr("thalweg.study.study.cores", lambda: 1)  # networks this small only wait for threads
        run_study(StudyPlan(read_study(text), folder / "runs"), workers=1)
    return Study.open(folder / "runs")


def numbers(study: Study, name: str, lr: float, moment: str) -> list[float]:
    return [r["value"] for r in rows(study) if (r["name"], r["lr"], r["moment"]) == (name, lr, moment)]


def test_a_run_that_diverged_keeps_what_was_measured_before(study: Study) -> None:
    states = {t.labels["lr"]: set() for t in study.tasks}
    for task in study.tasks:
        states[task.labels["lr"]].add((task.labels["name"], task.labels.get("moment"), study.state(task)))
    gone = states[1e38]
    assert ("train", None, "diverged") in gone
    assert {("gap", "start", "done"), ("curvature", "start", "done"), ("steps", "run", "done")} <= gone
    assert {("gap", "step 6", "blocked"), ("gap", "end", "blocked")} <= gone
    # The network at the start is that of the other rates.
    assert numbers(study, "train_loss", 1e38, "start") == numbers(study, "train_loss", 0.3, "start")
    assert numbers(study, "final", 1e38, "run") == [math.inf] * 4
    assert numbers(study, "diverged", 1e38, "run") == [1.0] * 4
    assert numbers(study, "diverged", 0.3, "run") == [0.0] * 4


def test_what_diverged_ranks_as_the_worst_and_what_was_measured_before_stays(study: Study) -> None:
    """Infinity would be the best of accuracies; and a number that is there is no infinity."""
    assert numbers(study, "accurate", 1e38, "run") == [-math.inf] * 4
    assert all(0 <= x <= 1 for x in numbers(study, "accurate", 0.3, "run"))
    assert numbers(study, "curved", 1e38, "run") == numbers(study, "curvature", 1e38, "start")
    assert all(math.isnan(x) for x in numbers(study, "curved_later", 1e38, "run"))
    reasons = [r["reason"] for r in rows(study) if (r["name"], r["lr"]) == ("curved_later", 1e38)]
    assert all("diverged" in reason for reason in reasons)


def test_batches_of_all_the_data_have_no_temperature() -> None:
    """Among them a rate orders nothing: there is no noise for it to heat."""
    hot: dict[int, set[float]] = {}
    for settings in read_study("why-sgd", "laptop").settings:
        hot.setdefault(settings.training["batch_size"], set()).add(temperature(settings))
    assert hot[5000] == {0.0}
    assert sorted(hot[256]) == pytest.approx([rate / 25.6 for rate in (0.01, 0.02, 0.04, 0.08)])
    assert min(hot[32]) == max(hot[256]), "equal temperatures are ties"


def test_steps_to_a_loss_are_those_of_the_looks_and_infinite_where_it_was_never_reached(study: Study) -> None:
    assert numbers(study, "steps", 0.001, "run") == [math.inf] * 4
    assert numbers(study, "steps", 1e38, "run") == [math.inf] * 4
    steps = numbers(study, "steps", 0.3, "run")
    assert all(0 < step <= 32 for step in steps)
    folders = [p for p in (study.path / "checkpoints").iterdir() if reached_step(p, 0.55) is not None]
    assert sorted(reached_step(p, 0.55) or 0 for p in folders) == sorted(steps)


def test_the_other_quantities_are_what_they_say(study: Study) -> None:
    table = {(r["run"], r["name"], r["moment"]): r for r in rows(study)}
    settings = {tuple(s.fields.values()): s for s in study.spec.settings}
    seen = 0
    for (run, name, moment), row in table.items():
        if name == "temperature":
            training = settings[row["model"], row["lr"], row["init_scale"]].training
            expected = row["lr"] / training["batch_size"] / (1 - training["momentum"])
            assert row["value"] == pytest.approx(expected, rel=1e-12)
            assert moment == "run"
        if row["lr"] == 1e38:
            continue
        if name == "drop":
            before, after = (table[run, "train_loss", at]["value"] for at in ("start", moment))
            assert row["value"] == pytest.approx(math.log(before / after))
            assert moment in ("step 6", "end")
            seen += 1
        if name == "final":
            assert row["value"] == table[run, "train_loss", "end"]["value"]
        if name == "hopeless":
            assert row["value"] == float(table[run, "train_loss", "end"]["value"] > 0.6)
    assert seen == 2 * 8


def test_further_numbers_of_a_result_are_columns_with_their_intervals(study: Study) -> None:
    found = [r for r in rows(study) if r["name"] == "curvature.negative_mass" and r["status"] == "done"]
    assert len(found) == 12 + 8
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in found)
    records = [r.measurement for r in study.records.values() if r.measure == "curvature_profile"]
    largest = [r for r in rows(study) if r["name"] == "curvature.lambda_max" and r["status"] == "done"]
    stated = {record.lambda_max for record in records}  # type: ignore[attr-defined]
    assert {r["value"] for r in largest} == stated


def test_runs_that_diverged_are_in_the_ranks_and_predictions(study: Study) -> None:
    ranks, foretells = verdicts(study.spec, Evidence(rows(study)))
    assert ranks.cell.num_a == 12
    assert not ranks.cell.missing
    assert math.isfinite(ranks.cell.effect)
    # After six steps there is nothing of those that diverged in the first: they are named, and not ranked.
    assert len(foretells.cell.missing) == 4
    assert all("diverged" in v.reason for v in foretells.cell.missing)
    # Four settings are left, too few to leave one out.
    assert "at least 5 configurations, got 4" in foretells.cell.reason


def test_initial_weights_are_scaled_and_make_other_runs(study: Study) -> None:
    runs = {(r["lr"], r["init_scale"], r["seed"]): r["run"] for r in rows(study)}
    assert len(set(runs.values())) == 12
    loss = {k: numbers(study, "train_loss", k, "start") for k in (0.001, 0.3)}
    assert loss[0.001] == loss[0.3], "at the start the rate makes no difference"
    assert len(set(loss[0.3])) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[quantities.a]\nkind = "steps_to_loss"', "steps_to_loss needs a loss"),
        ('[quantities.a]\nkind = "temperature"\nloss = 1.0', "temperature takes no loss"),
        ('[quantities.a]\nkind = "loss_drop"', "quantities.a: a drop is from the start"),
        ('[quantities.a]\nkind = "outcome"\nof = "b"', "`quantities.a.of` must be one of gap, train_loss"),
        ('[quantities.a]\nkind = "outcome"\nmoment = "step 7"', "`quantities.a.moment` must be some of"),
        ('[quantities.gap]\nkind = "temperature"', "quantities.gap: the name is taken"),
        (
            '[measures.c]\nmeasure = "curvature_profile"\nnumbers = ["mass"]',
            "`measures.c.numbers` must be some",
        ),
        (
            '[[claims]]\nname = "p"\nfeatures = ["gap"]\noutcome = "gap"\nexpect = "helps"',
            "the outcome itself",
        ),
        (
            '[[claims]]\nname = "p"\nfeatures = ["gap"]\noutcome = "test_loss"\nexpect = "nothing"',
            "a claim of nothing needs a margin",
        ),
    ],
)
def test_what_is_wrong_is_told(toy_folder: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_study(write_study(toy_folder, text))
