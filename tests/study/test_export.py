"""A study's numbers read back by the programs they were written for."""

from __future__ import annotations

import csv
import math
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    plan = StudyPlan(read_study(write_study(toy_folder, seeds="seeds = 1")), toy_folder / "out")
    run_study(plan, workers=1)
    return Study.open(plan.out)


def test_a_study_is_read_back_by_csv_and_pandas(study: Study, tmp_path: Path) -> None:
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


class Stored:
    """A run as MLflow hands it out."""

    def __init__(self, run_id: str, tags: dict[str, str]) -> None:
        self.info = SimpleNamespace(run_id=run_id)
        self.data = SimpleNamespace(tags=tags, metrics={}, params={})


class StandIn:
    """What `export_mlflow` calls of MLflow's client, in memory: its database takes long to make."""

    def __init__(self) -> None:
        self.places: dict[str, str | None] = {}
        self.runs: dict[str, Stored] = {}
        self.history: list[tuple[str, Any]] = []
        self.artifacts: list[tuple[str, str]] = []

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in self.places else None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        assert name not in self.places
        self.places[name] = artifact_location
        return name

    def search_runs(self, experiments: list[str], max_results: int = 1000) -> list[Stored]:
        assert all(experiment in self.places for experiment in experiments)
        return [*self.runs.values()]

    def create_run(self, experiment: str, tags: dict[str, str]) -> Stored:
        run = Stored(f"{experiment} {len(self.runs)}", tags)
        return self.runs.setdefault(run.info.run_id, run)

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        data = self.runs[run_id].data
        data.params |= {p.key: p.value for p in params}
        data.metrics |= {m.key: m.value for m in metrics}
        self.history += [(run_id, m) for m in metrics]

    def log_artifact(self, run_id: str, path: str) -> None:
        self.artifacts.append((run_id, path))

    def set_terminated(self, run_id: str) -> None:
        assert run_id in self.runs

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [m for run, m in self.history if (run, m.key) == (run_id, key)]


def test_a_study_is_written_as_runs_once(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = StandIn()
    entities = SimpleNamespace(
        Metric=namedtuple("Metric", "key value timestamp step"), Param=namedtuple("Param", "key value")
    )
    stand_in = SimpleNamespace(MlflowClient=lambda tracking_uri: client, entities=entities)
    monkeypatch.setattr("thalweg.study.mlflow_export.import_extra", lambda *_: stand_in)
    figure = tmp_path / "page.html"
    figure.write_text("a page")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # again, nothing is doubled
        export_mlflow(study, uri, [figure, tmp_path / "none"])
    report = check_runs(study, client, client.search_runs(["toy"]))
    assert len(client.history) == len({(run, m.key, m.step) for run, m in client.history})
    assert set(client.artifacts) == {(report, str(figure))}
    assert client.places == {"toy": (tmp_path / "mlartifacts").as_uri()}, "not where the command was given"


def check_runs(study: Study, client: Any, runs: list[Any]) -> str:
    """Every run has its settings, numbers and history; gives the one of the report."""
    found = {run.data.tags[RUN_TAG]: run for run in runs}
    assert len(found) == len(runs)
    assert found.keys() == {task.run for task in study.tasks} | {"report"}
    for row in rows(study):
        key = "/".join([row["name"], row["moment"], row["mode"]])
        assert found[row["run"]].data.metrics[key] == row["value"]
        assert found[row["run"]].data.params["model"] == row["model"]
    some = next(run for run in found.values() if "training/train_loss" in run.data.metrics)
    history = client.get_metric_history(some.info.run_id, "training/train_loss")
    assert [m.step for m in history] == [0, 1, 2]
    assert all(math.isfinite(m.value) for m in history)
    return found["report"].info.run_id


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload``")  # MLflow's own, of SQLAlchemy
def test_a_study_is_read_back_by_mlflow(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    report = check_runs(study, client, client.search_runs([experiment.experiment_id]))
    assert [a.path for a in client.list_artifacts(report)] == ["page.html"]
    (artifact,) = (tmp_path / "mlartifacts").rglob("page.html")
    assert artifact.read_text() == "a page"
    assert not [p for p in elsewhere.rglob("*") if p.is_file()], "nothing lies where the command was given"
