"""Measures of some settings alone, and of the start, which needs no training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.study.test_verdicts import CONTRAST, evidence, spec
from tests.study.toy import write_study

import thalweg as tw
from thalweg.models.registry import build_model
from thalweg.study.moments import parsed
from thalweg.study.plan import StudyPlan
from thalweg.study.study_file import read_study
from thalweg.study.verdicts import verdicts

RATES = '[grid.axes]\n"training.lr" = [0.1, 0.2]\n'
SOME = {
    "[measures.sam_sharpness]": "[measures.sam_sharpness]\nwhere = { lr = 0.1 }",
    "[pairs.barrier]": "[pairs.barrier]\nwhere = { lr = 0.1 }",
}


def tasks(folder: Path, *lines: str, **replaced: str) -> dict[str, dict]:
    """Keys and labels of what is planned."""
    plan = StudyPlan(read_study(write_study(folder, "".join(lines), **replaced)), folder / "out")
    return {task.key: {**task.labels, "measure": task.measure} for task in plan.tasks}


def test_an_axis_more_adds_what_is_asked_of_it_and_leaves_the_rest(toy_folder: Path) -> None:
    before = tasks(toy_folder)
    after = tasks(toy_folder, RATES, **SOME)
    assert set(before) <= set(after), "no task of before has another key"
    added = [labels for key, labels in after.items() if key not in before]
    assert {labels["lr"] for labels in added} == {0.2}
    assert {labels["name"] for labels in added} == {"train", "gap", "average"}
    assert {after[key]["lr"] for key in before} == {0.1}
    every = tasks(toy_folder, RATES)
    assert {labels["name"] for labels in every.values() if labels["lr"] == 0.2} == {
        *("train", "gap", "sam_sharpness", "average", "barrier")
    }


@pytest.mark.parametrize(
    ("table", "where", "message"),
    [
        ("measures.sam_sharpness", "width = 1", r"`measures.sam_sharpness.where` must be one of model, lr"),
        ("pairs.barrier", "lr = 0.3", r"`pairs.barrier.where.lr` must be one of 0.1, 0.2, got 0.3"),
    ],
)
def test_a_setting_that_is_none_is_told(toy_folder: Path, table: str, where: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks(toy_folder, RATES, **{f"[{table}]": f"[{table}]\nwhere = {{ {where} }}"})


def test_the_start_is_there_without_training(toy_folder: Path) -> None:
    more = '[measures.fresh]\nmeasure = "fisher_rao_norm"\nmoments = ["start"]\nmodes = ["batch"]\n'
    plan = StudyPlan(read_study(write_study(toy_folder, more)), toy_folder / "out")
    fresh = [task for task in plan.tasks if task.labels["name"] == "fresh"]
    assert [(t.labels["model"], t.labels["moment"], t.labels["mode"]) for t in fresh[:2]] == [
        ("bn", "start", "batch"),
        ("plain", "start", "any"),
    ]
    run = plan.runs[0]
    network, built = (
        plan.network(run, parsed("start")),
        build_model("toy_networks:Net", 1, batch_norm=True),
    )
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), built.parameters(), strict=True))
    data = plan.train_data(run.settings)
    objective = tw.Objective(built.eval(), data, batch_norm="batch", batch_size=16)
    assert fresh[0].compute(lambda *_: None).value == tw.fisher_rao_norm(objective).value
    assert not (toy_folder / "out").exists()


def test_a_claim_at_the_start_is_answered_there() -> None:
    claim = {
        **CONTRAST,
        "name": "fresh",
        "moment": "start",
        "expect": "larger",
        "margin": 1.2,
    }
    names = ("top_eigenvalue", "largest_stable_learning_rate")
    measures = {name: {"moments": ["start"]} for name in names}
    made = spec([{**claim, "measure": "largest_stable_learning_rate"}], measures=measures)
    planted = spec([], moments=["start"], measures=measures)
    rows = evidence(planted, lambda place: 2.0 if place["model"] == "bn" else 1.0)
    (verdict,) = verdicts(made, rows)
    assert verdict.cell.matching == "start"
    assert verdict.cell.effect == pytest.approx(2.0)
    assert verdict.answer == "supported"
    assert {cell.matching for cell in verdict.cells} == {"start"}
    # A rate is the larger the flatter, as a width is, an eigenvalue the smaller.
    assert {cell.measure: cell.expects for cell in verdict.cells} == {
        "largest_stable_learning_rate": "larger",
        "top_eigenvalue": "smaller",
    }
