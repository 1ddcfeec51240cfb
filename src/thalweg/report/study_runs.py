"""Every run of a study in full, what failed or is missing, and what produced the records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thalweg.report.study_words import NOT_YET, title_of
from thalweg.report.tables import flatten, format_interval, format_number, format_seconds
from thalweg.study.study import PlannedTask, Study

FAILED = ("diverged", "refused", "crashed", "blocked")
STATES_IN_WORDS = {
    "diverged": "diverged: the loss was not finite, and it would be again",
    "refused": "refused: the measure says why it cannot be taken",
    "crashed": "crashed: another run of the study tries again",
    "blocked": "blocked: the training they need failed",
}


@dataclass(frozen=True)
class RunCell:
    """A value with its interval, seconds and warning, or why there is none; all text."""

    value: str = ""
    interval: str = ""
    seconds: str = ""
    reason: str = ""
    warning: str = ""


@dataclass
class RunDetails:
    """One run, or one pair of runs.

    Parameters
    ----------
    run, title
        Its identity, and its setting and seed in words.
    facts
        How it was trained; empty of a pair.
    modes
        Columns of the table.
    rows
        Measure, moment, and in each mode a cell or none.
    num_failed, seconds
        Values that failed; the time all took.
    """

    run: str
    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    rows: dict[tuple[str, str], dict[str, RunCell]] = field(default_factory=dict)
    num_failed: int = 0
    seconds: float = 0.0

    @property
    def time(self) -> str:
        """The seconds in words."""
        return format_seconds(self.seconds)

    @property
    def num_values(self) -> int:
        """Numbers there are."""
        return sum(not cell.reason for row in self.rows.values() for cell in row.values())


@dataclass(frozen=True)
class Trouble:
    """What of a study has no value for one reason."""

    state: str
    reason: str
    tasks: tuple[str, ...]


def run_details(study: Study) -> list[RunDetails]:
    """All runs, in the order they were planned, then all pairs."""
    found: dict[str, RunDetails] = {}
    for task in study.tasks:
        details = found.setdefault(task.run, RunDetails(task.run, title_of(task.labels)))
        record = study.records.get(task.key)
        if record:
            details.seconds += record.seconds
            details.num_failed += record.failure is not None
        if task.measure == "train":
            details.facts = _training(study, task)
    for row in study.rows:
        details = found[row["run"]]
        if row["mode"] not in details.modes:
            details.modes.append(row["mode"])
        details.rows.setdefault((row["name"], row["moment"]), {})[row["mode"]] = _cell(row)
    return sorted(found.values(), key=lambda details: not details.facts)


def troubles(study: Study) -> list[Trouble]:
    """What failed, by state and reason; tasks that nobody has begun are none."""
    found: dict[tuple[str, str], list[str]] = {}
    for task in study.tasks:
        state = study.state(task)
        if state not in FAILED:
            continue
        record = study.records.get(task.key)
        reason = record.failure.reason if record and record.failure else ""
        found.setdefault((state, reason), []).append(_task_in_words(task))
    ordered = sorted(found.items(), key=lambda item: FAILED.index(item[0][0]))
    return [Trouble(STATES_IN_WORDS[state], reason, tuple(tasks)) for (state, reason), tasks in ordered]


def _task_in_words(task: PlannedTask) -> str:
    place = [task.labels["name"], task.labels.get("moment", ""), task.labels.get("mode", "")]
    return f"{title_of(task.labels)}: {', '.join(p for p in place if p and p != 'any')}"


def _training(study: Study, task: PlannedTask) -> list[tuple[str, str]]:
    record = study.records.get(task.key)
    head = [("run", task.run), ("state", study.state(task))]
    head += [(k, str(v)) for k, v in task.labels.items() if k != "name"]
    if record is None:
        return head
    head.append(("seconds training", format_seconds(record.seconds)))
    if record.failure:
        return [*head, ("reason", record.failure.reason)]
    return head + flatten({k: v for k, v in record.content["provenance"].items() if k != "function"})


def _cell(row: Mapping[str, Any]) -> RunCell:
    if math.isnan(row["value"]):
        state = NOT_YET if row["status"] == "open" else row["status"]
        return RunCell(reason=row["reason"] or state)
    low, high = row["low"], row["high"]
    half = (high - low) / 2
    at_least = "≥ " if row["is_lower_bound"] else ""
    value = format_number(row["value"], half if math.isfinite(half) else 0.0)
    # Of the numbers of one evaluation the first has the time, and what is worked out from others has none.
    own = row["measure"] != "generalization_gap" or row["name"] == "gap"
    seconds = f"{row['seconds']:.3g} s" if own and not math.isnan(row["seconds"]) else ""
    interval = "" if low == high or math.isnan(half) else format_interval(low, high)
    return RunCell(f"{at_least}{value}", interval, seconds, warning=row["warning"])
