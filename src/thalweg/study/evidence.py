"""What a study's records say of each run: values at a moment, or where the training loss was the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.stats.matched_loss import at_matched_loss
from thalweg.study.moments import in_order
from thalweg.study.quantities import WHOLE
from thalweg.study.table import ANY_MODE, COLUMNS

MATCHED = "loss = "


@dataclass(frozen=True)
class Value:
    """One number of one run; NaN with a reason where there is none.

    Parameters
    ----------
    run
        Its identity; of a measure of two networks, the pair's.
    fields
        Its setting and seed.
    value, standard_error, below, above
        See `thalweg.study.table.rows`: the error is what differs from run to run alone.
    reason
        Why there is no value.
    warning
        What speaks against it, though there is one.
    """

    run: str
    fields: Mapping[str, Any]
    value: float
    standard_error: float = 0.0
    below: float = 0.0
    above: float = 0.0
    reason: str = ""
    warning: str = ""


class Evidence:
    """The table of a study, to be asked for a number of every run.

    Parameters
    ----------
    rows
        Of `thalweg.study.table.rows`.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._index: dict[tuple[str, str], dict[str, dict[str, Mapping[str, Any]]]] = {}
        for row in rows:
            runs = self._index.setdefault((row["name"], row["mode"]), {})
            runs.setdefault(row["run"], {})[row["moment"]] = row

    def names(self) -> list[str]:
        """What was to be measured."""
        return list(dict.fromkeys(name for name, _ in self._index))

    def values(self, name: str, mode: str, matching: str) -> list[Value]:
        """The number `name` of every run that was to have it; of those without batch norm, in whatever mode.

        Parameters
        ----------
        name, mode
            Of the table.
        matching
            A moment, or ``"loss = 0.3"`` for where the training loss in that mode came down to so much,
            between the moments that were measured. What is of a run as a whole is the same at all of them.
        """
        found = {**self._index.get((name, ANY_MODE), {}), **self._index.get((name, mode), {})}
        whole = [rows[WHOLE] for rows in found.values() if WHOLE in rows]
        if whole:
            return [_value(row) for row in whole]
        if matching.startswith(MATCHED):
            target = float(matching.removeprefix(MATCHED))
            # Of all runs the logarithm or of none: what is compared must not hang on a run's own sign.
            log = not any(row["value"] <= 0 for rows in found.values() for row in rows.values())
            values = [self._matched(run, rows, mode, target, log) for run, rows in found.items()]
            return [value for value in values if value]
        return [_value(rows[matching]) for rows in found.values() if matching in rows]

    def _matched(
        self, run: str, rows: Mapping[str, Mapping[str, Any]], mode: str, target: float, log: bool
    ) -> Value | None:
        losses = self._losses(run, mode)
        if losses is None:
            return None  # of two networks, which have no one training loss
        running = self._losses(run, "running") or losses
        order = in_order(rows, {moment: row["value"] for moment, row in running.items()})
        common = [
            (losses[moment], rows[moment])
            for moment in order
            if moment in losses and math.isfinite(losses[moment]["value"])
        ]
        fields = _fields(next(iter(rows.values())))
        if len(common) < 2:
            is_open = any(loss["status"] == "open" for loss in losses.values())
            why = next((loss["reason"] for loss in losses.values() if loss["reason"]), "")
            few = "not measured yet" if is_open else why or "fewer than two moments were measured"
            return Value(run, fields, math.nan, reason=few)
        at = at_matched_loss(
            [loss["value"] for loss, _ in common],
            [row["value"] for _, row in common],
            target,
            value_errors=[row["standard_error"] for _, row in common],
            log=log,
        )
        if math.isnan(at.value):
            beside = "" if math.isnan(at.position) else common[round(at.position)][1]["reason"]
            return Value(run, fields, math.nan, reason=beside or at.reason)
        # Of a value between two, at most what solvers left of either.
        both = [common[place][1] for place in (math.floor(at.position), math.ceil(at.position))]
        below, above = (max(row[side] for row in both) for side in ("below", "above"))
        warning = next((row["warning"] for row in both if row.get("warning")), "")
        return Value(run, fields, at.value, at.standard_error, below, above, warning=warning)

    def _losses(self, run: str, mode: str) -> Mapping[str, Mapping[str, Any]] | None:
        of_mode, of_any = (self._index.get(("train_loss", m), {}) for m in (mode, ANY_MODE))
        return of_mode.get(run) or of_any.get(run)


def _value(row: Mapping[str, Any]) -> Value:
    reason = row["reason"]
    if math.isnan(row["value"]) and not reason:
        reason = "not measured yet" if row["status"] == "open" else "the value is not a number"
    errors = row["standard_error"], row["below"], row["above"]
    return Value(row["run"], _fields(row), row["value"], *errors, reason, row.get("warning", ""))


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in COLUMNS}
