"""A study's runs in MLflow: their settings as parameters, their numbers as metrics, the page as artifact."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thalweg.core.imports import import_extra
from thalweg.study.grid import Settings
from thalweg.study.spec import StudySpec
from thalweg.study.study import Study
from thalweg.study.table import OWN, rows
from thalweg.training.trajectory import TrainingHistory

# What names of metrics may hold; anything else becomes a dash.
_REFUSED = re.compile(r"[^A-Za-z0-9_\-. /]")
# Metrics in one call: MLflow takes no more.
MOST_METRICS = 1000
SQLITE = "sqlite:///"

# Behind it the number by epoch.
CURVE = "training/"

RUN_TAG, NAME_TAG = "thalweg.run", "mlflow.runName"
# What MLflow still has and the study no longer asks for; MLflow takes no longer tags.
UNUSED_TAG, LONGEST_TAG = "thalweg.unused", 5000
REPORT = "report"


def export_mlflow(study: Study, tracking_uri: str, figures: Mapping[str, bytes] | None = None) -> str:
    """Write each run of a study as a run of the experiment of its name; again, what is new or has changed.

    Parameters
    ----------
    study
        Finished or not.
    tracking_uri
        Of MLflow: ``sqlite:///mlflow.db``, or a server's ``https://...``.
    figures
        Pages and figures by file name, kept as artifacts of a run of their own, ``report``.

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
    value is left out. A number that is measured in another way than before stands behind the old one in the
    metric's history, and is the one that is shown; what the study no longer asks for is named in the tag
    ``thalweg.unused`` of the run, or is the run. Parameters are the study's fields, the seed and all that the
    run is trained with. Artifacts lie in ``mlartifacts`` beside an SQLite database, wherever the command was
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
    runs, metrics = _runs(study), _metrics(study, mlflow.entities.Metric)
    trained = _Trained(study.spec)
    for run, fields in runs.items():
        tags = {RUN_TAG: run, NAME_TAG: " ".join(f"{k}={v}" for k, v in fields.items())}
        stored = there.pop(run, None) or client.create_run(place, tags=tags)
        run_id, data = stored.info.run_id, stored.data
        values = {_allowed(k): str(v) for k, v in {**trained.with_fields(fields), **fields}.items()}
        new = [mlflow.entities.Param(k, v) for k, v in values.items() if k not in data.params]
        if new:
            client.log_batch(run_id, params=new)
        own = metrics.get(run, [])
        # The curve of a training never changes; anything else may have been measured in another way.
        changed = [
            m
            for m in own
            if m.key not in data.metrics or (not m.key.startswith(CURVE) and data.metrics[m.key] != m.value)
        ]
        for start in range(0, len(changed), MOST_METRICS):
            client.log_batch(run_id, metrics=changed[start : start + MOST_METRICS])
        unused = sorted(data.metrics.keys() - {m.key for m in own})
        _set_tags(client, stored, {**tags, UNUSED_TAG: ", ".join(unused)[:LONGEST_TAG]})
        client.set_terminated(run_id)
    report = there.pop(REPORT, None)
    for stored in there.values():
        _set_tags(client, stored, {UNUSED_TAG: "the run"})
    if figures:
        tags = {RUN_TAG: REPORT, NAME_TAG: REPORT}
        run_id = (report or client.create_run(place, tags=tags)).info.run_id
        with TemporaryDirectory() as folder:
            for file, content in figures.items():
                path = Path(folder) / file
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            client.log_artifacts(run_id, folder)
        client.set_terminated(run_id)
    return tracking_uri


def _set_tags(client: Any, stored: Any, tags: Mapping[str, str]) -> None:
    for tag, value in tags.items():
        if stored.data.tags.get(tag, "") != value:
            client.set_tag(stored.info.run_id, tag, value)


def _artifacts(tracking_uri: str) -> str | None:
    """Where artifacts lie: MLflow's own choice for a database in a file is the current directory."""
    if not tracking_uri.startswith(SQLITE):
        return None
    return (Path(tracking_uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts").as_uri()


def _runs(study: Study) -> dict[str, Mapping[str, Any]]:
    """Fields and seed of every run, and of every pair, by its identity."""
    found: dict[str, Mapping[str, Any]] = {}
    for task in study.tasks:
        fields = {k: v for k, v in task.labels.items() if k not in OWN}
        found.setdefault(task.run, {**fields, "seed": task.labels["seed"]})
    return found


class _Trained:
    """What the study's networks are trained with."""

    def __init__(self, spec: StudySpec) -> None:
        self._known = spec.fields
        self._settings = [(s.fields, _flat(spec, s)) for s in spec.settings]

    def with_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a run with these fields; of a pair what its two networks share."""
        own = {k: v for k, v in fields.items() if v in self._known.get(k, ())}
        found = [flat for of_setting, flat in self._settings if own.items() <= of_setting.items()]
        shared = found[0].items() if found else ()
        return {k: v for k, v in shared if all(k in other and other[k] == v for other in found)}


def _flat(spec: StudySpec, settings: Settings) -> dict[str, Any]:
    return {
        "build": spec.models[settings.model].build,
        **{f"model.{name}": value for name, value in settings.arguments.items()},
        "init_scale": settings.init_scale,
        "dataset": spec.data.name,
        **{name: "all" if value is None else value for name, value in settings.data.items()},
        "loss": spec.loss,
        **settings.training,
    }


def _metrics(study: Study, metric: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    # MLflow shows the latest.
    now = time.time_ns() // 1_000_000

    def add(run: str, key: str, value: float, step: int = 0) -> None:
        if math.isfinite(value):
            found.setdefault(run, []).append(metric(_allowed(key), value, now, step))

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
                    add(record.run, f"{CURVE}{name}", value, epoch)
    return found


def _allowed(name: str) -> str:
    return _REFUSED.sub("-", name)
