"""A study's runs in MLflow: their settings as parameters, their numbers as metrics, the page as artifact."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from thalweg.core.imports import import_extra
from thalweg.study.study import Study
from thalweg.study.table import OWN, rows
from thalweg.training.trajectory import TrainingHistory

# What names of metrics may hold; anything else becomes a dash.
_REFUSED = re.compile(r"[^A-Za-z0-9_\-. /]")
# Metrics in one call: MLflow takes no more.
MOST_METRICS = 1000
SQLITE = "sqlite:///"

RUN_TAG = "thalweg.run"


def export_mlflow(study: Study, tracking_uri: str, files: Iterable[Path] = ()) -> str:
    """Write each run of a study as a run of the experiment of its name; again, it writes what is new.

    Parameters
    ----------
    study
        Finished or not.
    tracking_uri
        Of MLflow: ``sqlite:///mlflow.db``, or a server's ``https://...``.
    files
        Figures and pages, kept as artifacts of a run of their own, ``report``.

    Returns
    -------
    str
        The address.

    Raises
    ------
    ImportError
        Without MLflow, naming the extra that brings it.

    Notes
    -----
    A metric is called ``NAME/MOMENT/MODE``, with ``/standard_error`` or ``/shared_error`` behind
    (see `thalweg.study.table.rows`); losses and accuracies of training have the epoch as step. What has no
    value is left out. Artifacts lie in ``mlartifacts`` beside an SQLite database, wherever the command was
    given; a server has its own place.
    """
    mlflow: Any = import_extra("mlflow", "mlflow")
    client = mlflow.MlflowClient(tracking_uri=tracking_uri)
    name = study.spec.name
    experiment = client.get_experiment_by_name(name)
    place = (
        experiment.experiment_id if experiment else client.create_experiment(name, _artifacts(tracking_uri))
    )
    there = {
        run.data.tags[RUN_TAG]: run
        for run in client.search_runs([place], max_results=50_000)
        if RUN_TAG in run.data.tags
    }
    parameters, metrics = _parameters(study), _metrics(study, mlflow.entities.Metric)
    for run, values in parameters.items():
        found = there.get(run)
        tags = {RUN_TAG: run, "mlflow.runName": " ".join(f"{k}={v}" for k, v in values.items())}
        run_id = found.info.run_id if found else client.create_run(place, tags=tags).info.run_id
        known = found.data.metrics if found else {}
        if not found:
            entities = [mlflow.entities.Param(_allowed(k), str(v)) for k, v in values.items()]
            client.log_batch(run_id, params=entities)
        new = [m for m in metrics.get(run, []) if m.key not in known]
        for start in range(0, len(new), MOST_METRICS):
            client.log_batch(run_id, metrics=new[start : start + MOST_METRICS])
        client.set_terminated(run_id)
    files = [file for file in files if file.exists()]
    if files:
        tags = {RUN_TAG: "report", "mlflow.runName": "report"}
        run_id = (there.get("report") or client.create_run(place, tags=tags)).info.run_id
        for file in files:
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)
    return tracking_uri


def _artifacts(tracking_uri: str) -> str | None:
    """Where artifacts lie: MLflow's own choice for a database in a file is the current directory."""
    if not tracking_uri.startswith(SQLITE):
        return None
    return (Path(tracking_uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts").as_uri()


def _parameters(study: Study) -> dict[str, Mapping[str, Any]]:
    """Settings of every run, and of every pair, by its identity."""
    found: dict[str, Mapping[str, Any]] = {}
    for task in study.tasks:
        fields = {k: v for k, v in task.labels.items() if k not in OWN}
        found.setdefault(task.run, {**fields, "seed": task.labels["seed"]})
    return found


def _metrics(study: Study, metric: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}

    def add(run: str, key: str, value: float, step: int = 0) -> None:
        if math.isfinite(value):
            found.setdefault(run, []).append(metric(_allowed(key), value, 0, step))

    for row in rows(study):
        key = "/".join([row["name"], row["moment"], row["mode"]])
        add(row["run"], key, row["value"])
        for error in ("standard_error", "shared_error"):
            if row[error]:
                add(row["run"], f"{key}/{error}", row[error])
    for record in study.records.values():
        if record.measure == TrainingHistory.measure and not record.failure:
            history = record.measurement
            assert isinstance(history, TrainingHistory)
            for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate"):
                for epoch, value in zip(
                    history.epochs.tolist(), getattr(history, name).tolist(), strict=True
                ):
                    add(record.run, f"training/{name}", value, epoch)
    return found


def _allowed(name: str) -> str:
    return _REFUSED.sub("-", name)
