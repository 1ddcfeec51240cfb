"""The page of a study shows what single runs' dynamics look like, if the store has it."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
from tests import networks
from tests.measures.dynamics.quadratics import objective
from tests.report.made_up_studies import batch_norm_study, made_up_store

import thalweg as tw
from thalweg.report import study_pictures
from thalweg.report.study_page import write_study_page
from thalweg.report.study_pictures import run_pictures
from thalweg.study.store import Record
from thalweg.study.study import Study

TEMPERATURE: dict[str, Any] = {"lr": 0.3, "batch_size": 8, "num_directions": 3, "burn_in": 50}
MADE = "average_sharpness", "trace", "top_eigenvalue", "basin_width", "sam_sharpness"


def results() -> dict[str, tw.Measurement]:
    """One of each measure that takes a network, and one without directions."""
    data = tw.Objective(networks.mlp(), networks.vectors())
    return {
        "noise": tw.gradient_noise(data, k=2, seed=0),
        "bare": tw.gradient_noise(data, k=0, seed=0),
        "heat": tw.sgd_temperature(objective(), **TEMPERATURE, num_steps=300, loss_every=1, seed=0),
        "scaling": tw.temperature_scaling(
            objective(),
            lrs=[0.1, 0.2],
            batch_sizes=[4, 8],
            num_directions=2,
            num_steps=200,
            burn_in=20,
            seed=0,
        ),
        "short": tw.local_learning_coefficient(data, num_chains=2, burn_in=2, num_steps=20, seed=0),
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two seeds of two networks, whose records of four names are replaced by real results, without arrays."""
    found, folder = results(), tmp_path_factory.mktemp("pictures")
    measured = dict(zip(MADE, found, strict=True))
    made_up_store(folder, batch_norm_study(2, moments=["epoch 2", "end"]))

    def renamed(entry: dict[str, Any]) -> dict[str, Any]:
        name = measured.get(entry["labels"]["name"])
        if name is None:
            return entry
        labels = {**entry["labels"], "name": name}
        content = found[name].to_dict()
        if "key" in entry:
            return {**entry, "labels": labels, "measure": content["measure"]}
        return {**entry, **content, "labels": labels}

    planned = json.loads((folder / "study.json").read_text())
    planned["tasks"] = [renamed(task) for task in planned["tasks"]]
    (folder / "study.json").write_text(json.dumps(planned))
    lines = [renamed(json.loads(line)) for line in (folder / "records.jsonl").read_text().splitlines()]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Study.open(folder)


def test_one_picture_a_setting_of_its_first_run_at_the_last_moment(study: Study) -> None:
    shown = {pictures.name: pictures for pictures in run_pictures(study)}
    assert set(shown) == {"noise", "bare", "heat", "scaling", "short"}
    for name in ("noise", "heat", "scaling"):
        assert len(shown[name].pictures) == 2, "one a network"
        for picture in shown[name].pictures:
            assert picture.image.startswith("data:image/svg+xml;base64,")
            assert "seed 1" in picture.title
            assert "end" in picture.title
    # Two seeds, two moments, three modes with batch norm and one without.
    assert shown["noise"].num_left_out == 2 * 2 * (3 + 1) - 2
    for picture in shown["bare"].pictures:
        assert not picture.image
        assert "measured with k=0" in picture.words


def test_the_page_has_them(study: Study, tmp_path: Path) -> None:
    page = write_study_page(study, tmp_path / "report.html").read_text()
    assert 'href="#pictures"' in page
    for name in ("noise", "heat", "scaling"):
        assert page.count(f'id="figure-{name}-') == 2
    assert "14 more have pictures" in page


def test_what_a_result_says_against_its_value_stands_with_its_run(study: Study, tmp_path: Path) -> None:
    warned = [row for row in study.rows if row["name"] == "short"]
    (warnings,) = {"; ".join(r.measurement.warnings) for r in study.records.values() if is_short(r)}
    assert warnings
    assert {row["warning"] for row in warned} == {warnings}
    assert {row["warning"] for row in study.rows if row["name"] != "short"} == {""}
    assert all(v.warning == warnings for v in study.evidence.values("short", "running", "end"))
    page = write_study_page(study, tmp_path / "report.html").read_text()
    assert page.count(f'<span class="absent">{html.escape(warnings)}</span>') == len(warned)


def is_short(record: Record) -> bool:
    return record.measure == "local_learning_coefficient"


def test_pictures_of_many_settings_are_cut(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_pictures, "MOST", 1)
    shown = {pictures.name: pictures for pictures in run_pictures(study)}
    assert len(shown["noise"].pictures) == 1
    assert shown["noise"].num_left_out == 15


def test_a_study_without_any_has_no_such_section(tmp_path: Path) -> None:
    study = Study.open(made_up_store(tmp_path / "plain", batch_norm_study(2)))
    assert run_pictures(study) == []
    assert "pictures" not in write_study_page(study, tmp_path / "report.html").read_text()
