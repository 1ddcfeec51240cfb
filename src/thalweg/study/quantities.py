"""Quantities of a study that no measure of one network gives: of the whole run, or of how its loss fell.

Of a run as a whole, the same at whatever moment the rest is taken:

``steps_to_loss``
    Steps until the first look at which the loss on the measured examples was no larger than `loss`; looks are
    every ``look_every`` steps, with running statistics. A run that never came there, whether it ended or
    diverged, has infinity: the largest, where runs are ranked.
``outcome``
    The number `of` of a performance or measure at `moment`, in mode `mode`. Where training diverged before:
    infinity of a loss and of a gap, minus infinity of an accuracy, so that these runs rank as the worst; none
    of a measure, which has no worst.
``diverged``
    1 where training diverged, or ended with a loss above `above` where that is given; else 0.
``temperature``
    lr / (B (1 - mu)), with the rate that training begins with: the paper's lr / B, times what momentum mu
    adds up. In units of the rate over examples. Nought where a batch holds all the data, known by
    `num_train`: it has no noise, and runs without noise are ordered by nothing here.

At each moment after the start:

``loss_drop``
    log of the training loss at the start over that at the moment, in the same mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, model_validator

from thalweg.objective.batch_norm import BatchNormMode
from thalweg.study.moments import START
from thalweg.study.validation import Table

if TYPE_CHECKING:
    from thalweg.study.grid import Settings
    from thalweg.study.spec import StudySpec

# The moment of what is of a run as a whole.
WHOLE = "run"

# What a run that diverged is worth.
WORST = {
    **dict.fromkeys(("gap", "train_loss", "test_loss"), math.inf),
    **dict.fromkeys(("train_accuracy", "test_accuracy"), -math.inf),
}

KINDS_OF_RUNS = ("steps_to_loss", "outcome", "diverged", "temperature")

Row = Mapping[str, Any]


class QuantitySpec(Table):
    """A quantity, by its kind; see the module's text."""

    kind: Literal["steps_to_loss", "outcome", "diverged", "temperature", "loss_drop"]
    loss: PositiveFloat | None = None
    of: str = "train_loss"
    moment: str = "end"
    mode: BatchNormMode = "running"
    above: PositiveFloat | None = None

    @model_validator(mode="after")
    def _fits(self) -> QuantitySpec:
        own = {"steps_to_loss": {"loss"}, "outcome": {"of", "moment", "mode"}, "diverged": {"above", "mode"}}
        # By their values: a study that is read again has every default filled in.
        given = {
            name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default
        }
        odd = sorted(given - {"kind"} - own.get(self.kind, set()))
        if odd:
            raise ValueError(f"{self.kind} takes no {odd[0]}")
        if self.kind == "steps_to_loss" and self.loss is None:
            raise ValueError("steps_to_loss needs a loss")
        return self

    @property
    def is_of_runs(self) -> bool:
        """Whether it is the same at every moment."""
        return self.kind in KINDS_OF_RUNS


def temperature(settings: Settings) -> float:
    """See the module's text."""
    training, num_train = settings.training, settings.data["num_train"]
    if num_train is not None and training["batch_size"] >= num_train:
        return 0.0
    return training["lr"] / (training["batch_size"] * (1 - training["momentum"]))


def quantity_rows(
    spec: StudySpec, measured: Sequence[Row], states: Mapping[str, tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """Rows of all quantities but ``steps_to_loss``, which has records of its own.

    Parameters
    ----------
    spec
        The study.
    measured
        Rows of what was measured: `thalweg.study.table.rows`.
    states
        Of each run the state of its training and, where that failed, why.
    """
    asked = {name: q for name, q in spec.quantities.items() if q.kind != "steps_to_loss"}
    if not asked:
        return
    heads: dict[str, dict[str, Any]] = {}
    numbers: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in measured:
        if row["run"] in states:
            heads.setdefault(row["run"], {k: row[k] for k in (*spec.fields, "seed")})
            numbers.setdefault((row["run"], row["name"], row["moment"]), {})[row["mode"]] = row
    settings = {tuple(s.fields.values()): s for s in spec.settings}
    for run, head in heads.items():
        common = {"run": run, **head}
        for name, quantity in asked.items():
            if quantity.kind == "loss_drop":
                for row in _drops(spec, run, numbers):
                    yield {**row, **common, "name": name, "measure": quantity.kind}
                continue
            value, reason = _of_run(
                quantity, settings[tuple(head[f] for f in spec.fields)], run, numbers, states[run]
            )
            place = {"name": name, "measure": quantity.kind, "moment": WHOLE, "mode": "any"}
            yield {**common, **place, **_number(value, reason, states[run][0])}


def _of_run(
    quantity: QuantitySpec,
    settings: Settings,
    run: str,
    numbers: Mapping[tuple[str, str, str], Mapping[str, Row]],
    state: tuple[str, str],
) -> tuple[float, str]:
    if quantity.kind == "temperature":
        return temperature(settings), ""
    has_diverged = state[0] == "diverged"
    if quantity.kind == "diverged":
        if has_diverged:
            return 1.0, ""
        if quantity.above is None:
            return (0.0, "") if state[0] == "done" else (math.nan, state[1])
        of, moment = "train_loss", "end"
    else:
        of, moment = quantity.of, quantity.moment
    by_mode = numbers.get((run, of, moment), {})
    row = by_mode.get(quantity.mode) or by_mode.get("any")
    if row is None or math.isnan(row["value"]):
        if has_diverged and of in WORST:
            return WORST[of], ""
        return math.nan, (row or {}).get("reason") or state[1]
    if quantity.kind == "diverged":
        assert quantity.above is not None
        return float(row["value"] > quantity.above), ""
    return row["value"], ""


def _drops(
    spec: StudySpec, run: str, numbers: Mapping[tuple[str, str, str], Mapping[str, Row]]
) -> Iterator[dict[str, Any]]:
    first = numbers.get((run, "train_loss", START), {})
    for moment in spec.moments:
        if moment == START:
            continue
        for mode, row in numbers.get((run, "train_loss", moment), {}).items():
            before, after = first[mode]["value"] if mode in first else math.nan, row["value"]
            known = 0 < before < math.inf and 0 < after < math.inf
            value = math.log(before / after) if known else math.nan
            reason = row["reason"] or (first[mode]["reason"] if mode in first else "")
            if not (known or reason or math.isnan(before) or math.isnan(after)):
                reason = f"a loss of {before:.4g} to one of {after:.4g} has no logarithm"
            yield {"moment": moment, "mode": mode, **_number(value, reason, row["status"])}


def _number(value: float, reason: str, status: str) -> dict[str, Any]:
    is_missing = math.isnan(value)
    return {
        "value": value,
        "standard_error": math.nan if is_missing else 0.0,
        "shared_error": math.nan if is_missing else 0.0,
        "below": math.nan if is_missing else 0.0,
        "above": math.nan if is_missing else 0.0,
        "low": value,
        "high": value,
        "is_lower_bound": False,
        "status": status if is_missing else "done",
        "reason": reason if is_missing else "",
        "warning": "",
        "seconds": math.nan,
        "host": "",
    }
