"""Made-up stores of studies: shaped as the runner leaves them, fast to make; no number was measured."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue
from thalweg.study.spec import StudySpec
from thalweg.study.store import Failure, Record, run_id
from thalweg.study.study import STUDY_FILE
from thalweg.study.study_file import read_study

VERSIONS = {"python": "3.11.7", "thalweg": "0.1.0", "torch": "2.13.0"}

# Of each measure with batch norm over that without: one number, or one a mode.
RATIOS: Mapping[str, float | Mapping[str, float]] = {
    "top_eigenvalue": {"running": 0.6, "recalibrated": 0.62, "batch": 1.7},
    "trace": 1.02,
    "sam_sharpness": 0.97,
    "adaptive_sam_sharpness": 0.7,
    "barrier": 1.4,
}
# How closely each goes along with the gap over the settings of a grid, by the logarithm.
TIES = {"sam_sharpness": 0.5, "top_eigenvalue": -0.4, "trace": 0.1}
SPREADS = {"sam_sharpness": 0.5, "trace": 0.03}
LEVELS = {"top_eigenvalue": 60.0, "trace": 400.0, "barrier": 0.8}


def batch_norm_study(num_seeds: int, **changes: Any) -> StudySpec:
    """The study that comes with the package at one rate, without what is about rates, with so many seeds;
    further fields as the file names them."""
    spec = read_study("batch-norm").frozen()
    about_rates = ("effective_smoothness", "largest_stable_rate")
    spec["grid"], spec["quantities"] = {}, {}
    spec["measures"] = {k: v for k, v in spec["measures"].items() if k not in about_rates}
    spec["claims"] = [c for c in spec["claims"] if c["measure"].partition(".")[0] not in about_rates]
    for claim in spec["claims"][:3]:  # the made-up networks are flatter with batch norm
        claim["expect"] = "smaller"
        claim["name"] = claim["name"].replace("sharper", "flatter")
        claim["text"] = claim["text"].replace("raises", "lowers")
    for part in (*spec["measures"].values(), *spec["pairs"].values(), *spec["claims"]):
        part["where"] = {}
    return StudySpec.model_validate({**spec, "seeds": list(range(1, num_seeds + 1)), **changes})


def grid_study(num_seeds: int) -> StudySpec:
    """Twelve settings, and claims on what ranks the gap."""
    ranks = {"kind": "correlation", "expect": "positive"}
    claims = [
        {**ranks, "name": "sharp", "measure": "sam_sharpness", "primary": True, "text": "Sharper is worse."},
        {**ranks, "name": "curved", "measure": "top_eigenvalue", "primary": True, "margin": 0.2},
        {**ranks, "name": "axes", "measure": "trace", "statistic": "granulated"},
        {
            **ranks,
            "name": "given",
            "measure": "sam_sharpness",
            "statistic": "partial",
            "given": ["train_loss"],
        },
    ]
    kept = ("top_eigenvalue", "trace", "sam_sharpness", "adaptive_sam_sharpness")
    measures = {k: v for k, v in batch_norm_study(2).frozen()["measures"].items() if k in kept}
    return batch_norm_study(
        num_seeds,
        name="grid",
        question="Which geometry ranks the gap?",
        grid={"axes": {"training.lr": [0.01, 0.03, 0.1], "training.weight_decay": [0.0, 0.001]}},
        moments=["epoch 4", "end"],
        measures=measures,
        pairs={},
        claims=claims,
    )


def made_up_store(
    folder: Path,
    spec: StudySpec,
    *,
    num_done: int | None = None,
    diverged: tuple[tuple[str, int], ...] = (),
    failed: Mapping[str, str] | None = None,
) -> Path:
    """Write ``study.json`` and ``records.jsonl`` of a study whose networks have batch norm where called bn.

    Parameters
    ----------
    folder
        Made if it is not there.
    spec
        The study.
    num_done
        Seeds that are done, of `spec`'s; all by default.
    diverged
        Model and seed of runs whose training gave no finite loss.
    failed
        Of a measure's name the failure, ``"refused"`` or ``"crashed"``, of the last seed's first network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks, lines = [], []
    seeds = spec.seeds[: len(spec.seeds) if num_done is None else num_done]
    for task, seed in _tasks(spec):
        tasks.append(task)
        if seed not in seeds:
            continue
        record = _record(spec, task, seed, diverged, failed or {})
        if record is not None:
            lines.append(record.to_line())
    content = {"schema": 1, "spec": spec.frozen(), "threads": 1, "tasks": tasks}
    (folder / STUDY_FILE).write_text(json.dumps(content))
    (folder / "records.jsonl").write_text("".join(lines))
    return folder


def _tasks(spec: StudySpec) -> Iterator[tuple[dict[str, Any], int]]:
    """What `thalweg.study.plan` would plan, and the seed after which it is done."""
    trainings: dict[tuple[str, int], str] = {}
    fields = {str(s.fields): s.fields for s in spec.settings}
    for seed in spec.seeds:
        for place, setting in fields.items():
            labels = {**setting, "seed": seed}
            run = run_id(labels)
            training = _task(run, "train", {**labels, "name": "train"}, ())
            trainings[place, seed] = training["key"]
            yield training, seed
            for name in ("gap", *spec.measures):
                function = "generalization_gap" if name == "gap" else spec.member(name).measure.__name__
                for moment in spec.moments:
                    for mode in _modes(spec, setting):
                        marked = {**labels, "name": name, "moment": moment, "mode": mode}
                        yield _task(run, function, marked, (training["key"],)), seed
    for name, pair in spec.pairs.items():
        if pair.across != "seed":
            continue
        for place, setting in fields.items():
            every = itertools.combinations(spec.seeds, 2)
            disjoint = zip(spec.seeds[::2], spec.seeds[1::2], strict=False)
            for a, b in every if pair.pairing == "all" else disjoint:
                needs = (trainings[place, a], trainings[place, b])
                for mode in _modes(spec, setting):
                    labels = {**setting, "seed": f"{a}-{b}", "name": name, "moment": "end", "mode": mode}
                    yield _task(run_id({"needs": needs}), pair.measure, labels, needs), b


def _modes(spec: StudySpec, setting: Mapping[str, Any]) -> list[str]:
    return list(spec.objective.modes) if "bn" in str(setting["model"]) else ["any"]


def _task(run: str, measure: str, labels: Mapping[str, Any], needs: tuple[str, ...]) -> dict[str, Any]:
    key = run_id({"run": run, **labels})
    return {"key": key, "run": run, "measure": measure, "labels": labels, "needs": needs}


def _record(
    spec: StudySpec,
    task: Mapping[str, Any],
    seed: int,
    diverged: tuple[tuple[str, int], ...],
    failed: Mapping[str, str],
) -> Record | None:
    labels, rng = task["labels"], np.random.default_rng(int(task["key"], 16))
    rest = {
        "run": task["run"],
        "task": task["key"],
        "labels": labels,
        "seconds": round(float(rng.uniform(0.5, 20)), 3),
        "host": "elsewhere",
        "versions": VERSIONS,
        "num_threads": 1,
    }
    gone = (labels["model"], seed) in diverged
    if gone and labels["name"] != "train":
        return None  # blocked
    kind: Any = "diverged" if gone else failed.get(labels["name"]) if seed == spec.seeds[-1] else None
    if kind:
        reason = "the loss of step 40 is nan" if gone else f"`{labels['name']}` <cannot> be had of it"
        return Record.of_failure(task["measure"], Failure(kind, reason), **rest)
    return Record(content=_content(task, labels, rng), **rest)


def _content(task: Mapping[str, Any], labels: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    head = {"provenance": {"function": task["measure"], "seed": 1}, "error": ErrorBudget().to_dict()}
    has_norm, network = "bn" in labels["model"], np.random.default_rng(int(task["run"], 16))
    luck = float(network.normal())
    setting = {k: v for k, v in labels.items() if k not in ("seed", "name", "moment", "mode")}
    # Of the setting, where a grid makes several.
    place = float(np.random.default_rng(int(run_id(setting), 16)).normal()) if len(setting) > 1 else 0.0
    if task["measure"] == "train":
        epochs = np.arange(7)
        losses = 2.0 * np.exp(-(0.9 if has_norm else 0.7) * epochs) + 0.2 + 0.02 * luck
        accuracies = 0.91 - 0.8 * np.exp(-epochs) + 0.003 * luck
        curves = {"train_loss": losses, "test_loss": losses + 0.03 * epochs**0.5}
        curves |= {"train_accuracy": accuracies + 0.01, "test_accuracy": accuracies}
        numbers = {k: _tensor(v) for k, v in {**curves, "learning_rate": 0.01 * np.ones(7)}.items()}
        return {**head, "measure": "train", "value": 0.9, "epochs": _tensor(epochs, "int64"), **numbers}
    age = _age(labels["moment"])
    loss = 0.2 + math.exp(-0.9 * age) + 0.01 * luck
    if labels["name"] == "gap":
        gap = 0.04 + 0.02 * age / 6 + 0.004 * luck + 0.01 * place
        accuracy = (0.89 if has_norm else 0.88) - 0.3 * math.exp(-age) + 0.002 * luck
        numbers = {"train_loss": loss, "test_loss": loss + gap, "train_accuracy": accuracy + 0.01}
        errors = {f"{name}_error": 0.004 for name in (*numbers, "test_accuracy")}
        head["error"] = ErrorBudget(data=StandardError(0.006, 999)).to_dict()
        return {
            **head,
            **errors,
            "measure": task["measure"],
            "value": gap,
            **numbers,
            "test_accuracy": accuracy,
        }
    name = labels["name"]
    stated = RATIOS.get(name, 1.1)
    ratio = stated.get(labels["mode"], 1.0) if isinstance(stated, Mapping) else stated
    level = LEVELS.get(name, 0.1) * math.exp(-0.1 * age) * (ratio if has_norm else 1.0)
    level *= math.exp(TIES.get(name, 0.0) * place)
    value = level * math.exp(SPREADS.get(name, 0.08) * (0.6 * luck + 0.8 * float(rng.normal())))
    content = {**head, "measure": task["measure"], "value": value}
    if issubclass(Measurement.classes[task["measure"]], BoundedEigenvalue):
        content["error"] = ErrorBudget(solver=0.002 * value).to_dict()
        return {**content, "lower_bound": 0.999 * value, "upper_bound": 1.01 * value, "confidence": 0.99}
    if task["measure"] == "basin_width":
        content["num_censored"] = 0
    if task["measure"] == "average_sharpness":
        content["samples"] = _tensor(value * np.array([0.8, 0.9, 1.0, 1.1, 1.2]))
        content["error"] = ErrorBudget(probe=StandardError(0.07 * value, 4)).to_dict()
    if task["measure"] == "hessian_trace":
        content["error"] = ErrorBudget(probe=StandardError(0.02 * value, 40)).to_dict()
    return content


def _age(moment: str) -> float:
    return 6.0 if moment == "end" else float(moment.split()[1])


def _tensor(values: np.ndarray, dtype: str = "float64") -> dict[str, Any]:
    return {"tensor": values.tolist(), "shape": [len(values)], "dtype": dtype}
