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
        self.artifacts: dict[tuple[str, str], bytes] = {}

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
        run = Stored(f"{experiment} {len(self.runs)}", dict(tags))
        return self.runs.setdefault(run.info.run_id, run)

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        data = self.runs[run_id].data
        assert not {p.key for p in params} & data.params.keys(), "MLflow changes no parameter"
        data.params |= {p.key: p.value for p in params}
        self.history += [(run_id, m) for m in metrics]
        for key in {m.key for m in metrics}:
            latest = max(self.get_metric_history(run_id, key), key=lambda m: (m.step, m.timestamp, m.value))
            data.metrics[key] = latest.value

    def log_artifacts(self, run_id: str, folder: str) -> None:
        for path in filter(Path.is_file, Path(folder).rglob("*")):
            self.artifacts[run_id, str(path.relative_to(folder))] = path.read_bytes()

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[run_id].data.tags[key] = value

    def set_terminated(self, run_id: str) -> None:
        assert run_id in self.runs

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [m for run, m in self.history if (run, m.key) == (run_id, key)]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """What is exported to."""
    client = StandIn()
    entities = SimpleNamespace(
        Metric=namedtuple("Metric", "key value timestamp step"), Param=namedtuple("Param", "key value")
    )
    stand_in = SimpleNamespace(MlflowClient=lambda tracking_uri: client, entities=entities)
    monkeypatch.setattr("thalweg.study.mlflow_export.import_extra", lambda *_: stand_in)
    return client


FILES = {"page.html": b"a page", "figures/one.svg": b"<svg/>"}


def test_a_study_is_written_as_runs_once(study: Study, tmp_path: Path, client: StandIn) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # again, nothing is doubled
        export_mlflow(study, uri, FILES)
    report = check_runs(study, client, client.search_runs(["toy"]))
    assert len(client.history) == len({(run, m.key, m.step) for run, m in client.history})
    assert client.artifacts == {(report, name): content for name, content in FILES.items()}
    assert client.places == {"toy": (tmp_path / "mlartifacts").as_uri()}, "not where the command was given"


def test_what_a_changed_study_measures_takes_the_place_of_what_it_did(
    study: Study, toy_folder: Path, client: StandIn
) -> None:
    """Another radius makes other sharpness, larger or smaller; a name that is gone stays, and is marked."""
    export_mlflow(study, "here")
    changes = {
        "[measures.sam_sharpness]": "[measures.sam_sharpness]\narguments = { radius = 0.01 }",
        "[measures.average]": "[measures.mean]",
        "seeds": "seeds = [1]",
        "[pairs.barrier]": "[pairs.hill]",
    }
    plan = StudyPlan(read_study(write_study(toy_folder, **changes)), study.path)
    run_study(plan, workers=1)
    changed = Study.open(plan.out)
    export_mlflow(changed, "here")
    check_runs(changed, client, client.search_runs(["toy"]), has_report=False)
    for run in client.runs.values():
        unused = run.data.tags["thalweg.unused"].split(", ")
        assert {name.partition("/")[0] for name in unused} == {"average"}
        assert run.data.metrics.keys() >= {*unused}
    renamed = {"plain": 'plane = "toy_networks:Net"', "groups": 'groups = ["bn", "plane"]'}
    plan = StudyPlan(read_study(write_study(toy_folder, **changes, **renamed)), study.path)
    run_study(plan, workers=1)
    export_mlflow(Study.open(plan.out), "here")
    assert {run.data.tags["mlflow.runName"].split()[0] for run in client.runs.values()} == {
        "model=bn",
        "model=plane",
    }


def check_runs(study: Study, client: Any, runs: list[Any], has_report: bool = True) -> str:
    """Every run has its settings, numbers and history; gives the one of the report."""
    found = {run.data.tags[RUN_TAG]: run for run in runs}
    assert len(found) == len(runs)
    assert found.keys() == {task.run for task in study.tasks} | ({"report"} if has_report else set())
    for row in rows(study):
        key = "/".join([row["name"], row["moment"], row["mode"]])
        assert found[row["run"]].data.metrics[key] == row["value"]
        parameters = found[row["run"]].data.params
        expected = {"model": row["model"], "seed": str(row["seed"]), "lr": "0.1", "epochs": "2"}
        expected |= {"batch_size": "16", "momentum": "0.9", "num_train": "all", "build": "toy_networks:Net"}
        expected |= {"model.batch_norm": "True"} if row["model"] == "bn" else {}
        assert expected.items() <= parameters.items()
    some = next(run for run in found.values() if "training/train_loss" in run.data.metrics)
    history = client.get_metric_history(some.info.run_id, "training/train_loss")
    assert [m.step for m in history] == [0, 1, 2]
    assert all(math.isfinite(m.value) for m in history)
    return found["report"].info.run_id if has_report else ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload``")  # MLflow's own, of SQLAlchemy
def test_a_study_is_read_back_by_mlflow(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # again, nothing is doubled
        export_mlflow(study, uri, FILES)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("toy")
    report = check_runs(study, client, client.search_runs([experiment.experiment_id]))
    for name, content in FILES.items():
        there = Path(client.download_artifacts(report, name, str(tmp_path)))
        assert there.read_bytes() == content
    (artifact,) = (tmp_path / "mlartifacts").rglob("page.html")
    assert artifact.read_text() == "a page"
    assert not [p for p in elsewhere.rglob("*") if p.is_file()], "nothing lies where the command was given"
