"""The numbers of a study, one a row: which run, when, in which mode, what, and how certain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from thalweg.analyses.generalization_gap import GeneralizationGap
from thalweg.analyses.readings import Reading, number_reading
from thalweg.core.measurement import Measurement, StandardError
from thalweg.measures.sharpness.average_sharpness import AverageSharpness
from thalweg.study.quantities import quantity_rows
from thalweg.study.store import Record

if TYPE_CHECKING:
    from thalweg.study.spec import StudySpec
    from thalweg.study.study import PlannedTask, Study

# Labels that every task has, beside the study's own fields.
OWN = ("name", "moment", "mode", "seed")

# The mode of networks without batch norm, where the three are one function.
ANY_MODE = "any"

# Keys of a row beside the study's own fields and the seed.
COLUMNS = frozenset(
    {
        *("run", "name", "measure", "moment", "mode", "value", "standard_error", "shared_error", "below"),
        *("above", "low", "high", "is_lower_bound", "status", "reason", "warning", "seconds", "host"),
    }
)

# Numbers of every network, at every moment, in every mode.
PERFORMANCE = ("gap", "train_loss", "test_loss", "train_accuracy", "test_accuracy")

# Results whose data error is for the distribution that the examples are drawn from. All runs are measured on
# the same ones: such an error moves all of them together, and is no noise of any run.
OF_POPULATION = (GeneralizationGap, AverageSharpness)

NAN = math.nan


def rows(study: Study) -> list[dict[str, Any]]:
    """All numbers of a study, in the order they were planned.

    Returns
    -------
    list of dict
        Keys: ``run``; the study's fields (``model``, ``lr``, ...) and ``seed``; ``name``, ``measure``,
        ``moment``, ``mode`` (``"any"`` without batch norm); ``value``, ``standard_error`` of its random
        parts that differ from run to run, ``shared_error`` of the examples, which are the same for all runs
        (nought where the value is meant of just these), ``below`` and ``above`` of what is not random,
        ``low`` and ``high`` of all of it at the study's level;
        ``is_lower_bound``; ``status`` (done, diverged, refused, crashed, blocked, open) and ``reason``;
        ``warning``, what the result itself says against taking the value for what it is called; ``seconds``,
        ``host``. Without a value that is NaN. Quantities of the study come last, those of whole
        runs at the moment ``"run"``.
    """
    spec = study.spec
    measured = [row for task in study.tasks for row in _rows(study, task, spec)]
    states = {t.run: (study.state(t), _failure(study, t)) for t in study.tasks if t.measure == "train"}
    return [*measured, *quantity_rows(spec, measured, states)]


def _rows(study: Study, task: PlannedTask, spec: StudySpec) -> Iterator[dict[str, Any]]:
    if task.measure == "train":
        return
    level = spec.level
    record = study.records.get(task.key)
    labels = task.labels
    fields = {k: v for k, v in labels.items() if k not in OWN}
    head = {
        "run": task.run,
        **fields,
        "seed": labels["seed"],
        "name": labels["name"],
        "measure": task.measure,
        "moment": labels["moment"],
        "mode": labels["mode"],
    }
    status = study.state(task)
    tail = {
        "status": status,
        "reason": _reason(study, task, record),
        "warning": "",
        "seconds": record.seconds if record else NAN,
        "host": record.host if record else "",
    }
    asked = spec.measures.get(labels["name"])
    numbers = {f"{labels['name']}.{number}": number for number in asked.numbers} if asked else {}
    if record is None or record.failure:
        names = PERFORMANCE if task.measure == GeneralizationGap.measure else (labels["name"], *numbers)
        for name in names:
            yield {**head, "name": name, **_numbers(Reading.missing("")), **tail}
        return
    # Without its arrays, which lie in files of their own.
    result = Measurement.from_dict(record.content)
    tail["warning"] = "; ".join(getattr(result, "warnings", ()))
    if isinstance(result, GeneralizationGap):
        for name, reading in _performance(result, level).items():
            yield {**head, "name": name, **_numbers(reading, reading.standard_error), **tail}
    else:
        data = result.error.data if isinstance(result, OF_POPULATION) else None
        yield {**head, **_numbers(Reading.of(result, level), data.value if data else 0.0), **tail}
        for name, number in numbers.items():
            # Its time is that of the measure.
            reading = number_reading(result, number, level)
            yield {**head, "name": name, **_numbers(reading), **tail, "seconds": NAN}


def _numbers(reading: Reading, shared: float = 0.0) -> dict[str, Any]:
    # In quadrature, and up to rounding nought where all of it is shared.
    own = 0.0 if shared == reading.standard_error else reading.standard_error
    return {
        "value": reading.value,
        "standard_error": math.sqrt(max(own**2 - shared**2, 0.0)) if own else own,
        "shared_error": shared,
        "below": reading.below,
        "above": reading.above,
        "low": reading.low,
        "high": reading.high,
        "is_lower_bound": reading.is_lower_bound,
    }


def _reason(study: Study, task: PlannedTask, record: Record | None) -> str:
    if record is not None:
        return record.failure.reason if record.failure else ""
    for key in task.needs:
        needed = study.records.get(key)
        if needed is not None and needed.failure:
            return f"training {needed.failure.kind}: {needed.failure.reason}"
    return ""


def _failure(study: Study, task: PlannedTask) -> str:
    record = study.records.get(task.key)
    return f"training {record.failure.kind}: {record.failure.reason}" if record and record.failure else ""


def _performance(result: GeneralizationGap, level: float) -> Mapping[str, Reading]:
    """What a network does on data, number by number."""
    # The gap's degrees of freedom are the fewer of its two parts', and never too many for either.
    of_gap = result.error.data or StandardError(0.0)
    numbers = {
        "gap": (result.value, of_gap.value),
        "train_loss": (result.train_loss, result.train_loss_error),
        "test_loss": (result.test_loss, result.test_loss_error),
        "train_accuracy": (result.train_accuracy, result.train_accuracy_error),
        "test_accuracy": (result.test_accuracy, result.test_accuracy_error),
    }
    found = {}
    for name, (value, error) in numbers.items():
        half = StandardError(error, of_gap.dof).half_width(level)
        found[name] = Reading(value, value - half, value + half, error)
    return found
