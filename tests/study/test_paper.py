"""The paper's study: what tells its tasks apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.study.tiny_paper import TINY

from thalweg.study import paper
from thalweg.study.paper import NETWORKS, PaperStudy
from thalweg.study.paper_settings import PRESETS, PaperSettings, load_preset
from thalweg.study.runner import Task
from thalweg.study.store import Store


def test_presets_are_valid_and_the_papers_is_the_papers() -> None:
    for name in PRESETS:
        assert isinstance(load_preset(name), PaperSettings)
    preset = load_preset("paper")
    assert preset.data.num_train is None
    assert preset.curvature.num_examples is None
    t = preset.training
    assert (t.epochs, t.learning_rate, t.momentum, t.batch_size) == (6, 0.01, 0.9, 128)
    assert {name: seed for name, (_, seed) in NETWORKS.items()} == {"A1": 1, "A2": 2, "B": 3}


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="`preset` must be one of paper, smoke, got 'full'"):
        load_preset("full")


X, Y = torch.zeros(300, 1, 28, 28), torch.zeros(300, dtype=torch.long)


def study(num_train: int = 300, num_test: int = 200, /, **sections: Any) -> PaperStudy:
    """A study on made-up data, of which nothing is run; `sections` change the tiny settings."""
    settings = {name: {**section, **sections.get(name, {})} for name, section in TINY.items()}
    data = (X[:num_train], Y[:num_train]), (X[:num_test] + 1, Y[:num_test])
    return PaperStudy(PaperSettings.model_validate(settings), *data, Path("nowhere"))


def keys(tasks: list[Task]) -> dict[tuple[str, ...], str]:
    """Key of each task by its measure, its labels and how many of the same came before."""
    found: dict[tuple[str, ...], str] = {}
    for task in tasks:
        name = (task.measure, *(str(v) for v in task.labels.values()))
        while name in found:
            name = ("another", *name)
        found[name] = task.key
    return found


def changed(before: list[Task], after: list[Task]) -> set[tuple[str, ...]]:
    """Names of the tasks whose keys differ."""
    old, new = keys(before), keys(after)
    assert old.keys() == new.keys()
    return {tuple(n for n in name if n != "another") for name in old if old[name] != new[name]}


def test_runs_differ_by_seed_settings_and_data() -> None:
    studies = (study(), study(299), study(training={"epochs": 3}))
    runs = {t.run for s in studies for t in s.tasks()}
    # Three networks and one pair for each of three studies.
    assert len(runs) == 12
    found = [t.key for t in study().tasks()]
    assert len(set(found)) == len(found)
    assert Store(Path("nowhere")).records() == []


def test_runs_differ_by_code_dtype_and_device_not_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = study().tasks()
    real = paper.versions()
    for name in ("thalweg", "torch"):
        with monkeypatch.context() as patch:
            patch.setattr(paper, "versions", lambda name=name: {**real, name: "another"})
            assert len(changed(before, study().tasks())) == len(
                {(t.measure, *t.labels.values()) for t in before}
            )
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_default_dtype", lambda: torch.float64)
        assert not {t.run for t in study().tasks()} & {t.run for t in before}
    on_meta = dataclasses.replace(study(), device=torch.device("meta"))
    assert not {t.run for t in on_meta.tasks()} & {t.run for t in before}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert not changed(before, study().tasks())


@pytest.mark.parametrize(
    ("section", "change", "measures"),
    [
        ("curvature", {"num_examples": 33}, {"top_eigenvalues"}),
        ("curvature", {"levels": [8, 16]}, {"top_eigenvalues"}),
        ("sharpness", {"num_steps": 3}, {"sam_sharpness"}),
        ("sharpness", {"spread_num_batches": 3}, {"sam_sharpness_spread"}),
        ("slices", {"num_examples": 71}, {"line_slice"}),
        ("path", {"num_points": 5}, {"linear_path"}),
    ],
)
def test_a_changed_setting_changes_the_keys_it_decides_and_no_other(
    section: str, change: dict[str, Any], measures: set[str]
) -> None:
    assert {name[0] for name in changed(study().tasks(), study(**{section: change}).tasks())} == measures


def test_a_spread_is_identified_by_its_calibration_in_the_mode_that_has_one() -> None:
    found = changed(study().tasks(), study(sharpness={"num_examples": 33}).tasks())
    assert {name[-1] for name in found if name[0] == "sam_sharpness_spread"} == {"recalibrated"}


def test_settings_beyond_the_data_are_the_data() -> None:
    sections = ("curvature", "sharpness", "slices")
    wide = study(**{name: {"num_examples": 10**6} for name in sections}).tasks()
    exact = study(**{name: {"num_examples": 300} for name in sections}).tasks()
    assert not changed(wide, exact)
    everything = {"slices": {"num_examples": 300}, "sharpness": {"num_examples": 300}}
    assert not changed(exact, study(**everything, curvature={"num_examples": None}).tasks())
    # A path on the test data has fewer.
    paths = [t for t in study(path={"num_examples": 250}).tasks() if t.measure == "linear_path"]
    sizes = {(t.labels["split"], t.arguments["objective"]["num_examples"]) for t in paths}
    assert sizes == {("train", 250), ("test", 200)}


def test_a_measures_own_defaults_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = study().tasks()

    def top_eigenvalues(objective: Any, k: int = 1, *, max_matvecs: int = 99, **rest: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(paper, "top_eigenvalues", top_eigenvalues)
    assert {name[0] for name in changed(before, study().tasks())} == {"top_eigenvalues"}


def test_a_warm_start_is_identified_by_what_it_starts_from_and_takes_no_levels() -> None:
    found = {
        t.labels["batch_norm"]: t
        for t in study(curvature={"levels": [8]}).tasks()
        if t.measure == "top_eigenvalues" and t.labels["model"] == "A1"
    }
    assert found["recalibrated"].arguments["start"] == found["running"].key
    levels = {mode: t.arguments["levels"] for mode, t in found.items()}
    assert levels == {"running": (8,), "recalibrated": None, "batch": (8,)}
    with pytest.raises(LookupError, match="top_eigenvalues A1 train running must be recorded before"):
        found["recalibrated"].compute(lambda part, whole: None)


def test_training_keeps_a_checkpoint_at_most_a_hundred_steps_old(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(paper, "train", lambda *args, **options: calls.append(options))
    task = study().tasks()[0]
    task.compute(lambda part, whole: None)
    assert [options["checkpoint_every"] for options in calls] == [100]
    assert task.seconds_before() == 0, "no checkpoint yet"
