"""A study's numbers read back by the programs they were written for."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from tests.study.toy import write_study

from thalweg.study.export import export_table
from thalweg.study.mlflow_export import RUN_TAG, export_mlflow
from thalweg.study.plan import StudyPlan
from thalweg.study.study import Study, run_study
from thalweg.study.study_file import read_study
from thalweg.study.table import rows


@pytest.fixture
def study(toy_folder: Path) -> Study:
    plan = StudyPlan(read_study(write_study(toy_folder)), toy_folder / "out")
    run_study(plan, workers=1)
    return Study.open(plan.out)


@pytest.mark.filterwarnings("ignore:The ``noload``")  # MLflow's own, of SQLAlchemy
def test_a_study_is_read_back_by_csv_pandas_and_mlflow(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows(study)
    with export_table(study, tmp_path / "records.csv", "csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["value"]) for row in read] == [row["value"] for row in table]
    assert list(read[0]) == list(table[0])

    pandas = pytest.importorskip("pandas")
    frame = study.to_dataframe()
    assert frame["value"].tolist() == [row["value"] for row in table]
    assert set(frame["model"]) == {"bn", "plain"}
    back = pandas.read_parquet(export_table(study, tmp_path / "records.parquet", "parquet"))
    pandas.testing.assert_frame_equal(back, frame)

    mlflow = pytest.importorskip("mlflow")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    figure = tmp_path / "page.html"
    figure.write_text("a page")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # again, nothing is doubled
        export_mlflow(study, uri, [figure])
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("toy")
    found = {run.data.tags[RUN_TAG]: run for run in client.search_runs([experiment.experiment_id])}
    assert found.keys() == {task.run for task in study.tasks} | {"report"}
    for row in table:
        key = "/".join([row["name"], row["moment"], row["mode"]])
        assert found[row["run"]].data.metrics[key] == row["value"]
        assert found[row["run"]].data.params["model"] == row["model"]
    some = next(run for run in found.values() if "training/train_loss" in run.data.metrics)
    history = client.get_metric_history(some.info.run_id, "training/train_loss")
    assert [m.step for m in history] == [0, 1, 2]
    assert all(math.isfinite(m.value) for m in history)
    assert [a.path for a in client.list_artifacts(found["report"].info.run_id)] == ["page.html"]
    (artifact,) = (tmp_path / "mlartifacts").rglob("page.html")
    assert artifact.read_text() == "a page"
    assert not [p for p in elsewhere.rglob("*") if p.is_file()], "nothing lies where the command was given"
