"""Verdicts of a study in words: what was found, at which level, and why something stayed undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN
from typing import Any

from thalweg.report.order_tables import format_p
from thalweg.report.paper_layout import MODE_NAMES
from thalweg.report.tables import format_interval, format_number
from thalweg.study.claims import Claim, ContrastClaim, CorrelationClaim, PredictionClaim
from thalweg.study.evidence import Value
from thalweg.study.verdicts import Cell, Verdict

# In the last digit 1 - 0.95 is not 0.05.
_ROUNDING = 1e-12

# In the table of verdicts; all of them stand in the list of the claim's cells.
MOST_REASONS = 2

NOT_YET = "not measured yet"
STATES = ("supported", "refuted", "undecided", "missing")
SYMBOLS = {"supported": "✓", "refuted": "✗", "undecided": "?", "missing": "–"}


@dataclass(frozen=True)
class VerdictRow:
    """A claim in the table of verdicts; every entry is text.

    Parameters
    ----------
    name, claim, detail
        Its name, the author's words in quotation marks (or ours where there are none), and what exactly is
        compared.
    is_primary
        Whether it is of the corrected family.
    state, answer
        One of `STATES`, and the word for it.
    why
        On what the answer rests, or why there is none.
    what, effect, interval
        Of what the effect is (``"bn / plain"``), the effect and its interval; empty without one.
    p, p_note
        The p-value that counts, and of what it is.
    size, size_interval
        Hedges' g; empty of a correlation.
    runs
        How many of each group.
    left_out
        How many runs have no value and why, of which settings none has, and how many values carry a warning;
        empty if none.
    """

    name: str
    claim: str
    detail: str
    is_primary: bool
    state: str
    answer: str
    why: str
    what: str
    effect: str
    interval: str
    p: str
    p_note: str
    size: str
    size_interval: str
    runs: str
    left_out: str


def verdict_rows(found: Sequence[Verdict], level: float) -> list[VerdictRow]:
    """The table of verdicts, primary claims first."""
    primary = [v for v in found if v.claim.primary]
    # By Holm's rule none is below the smallest of all times their number.
    reached = [v.cell.smallest_p for v in primary if not math.isnan(v.cell.smallest_p)]
    least = len(primary) * min(reached, default=math.nan)
    ordered = [*primary, *(v for v in found if not v.claim.primary)]
    return [_row(v, level, len(primary), least) for v in ordered]


def state_of(cell: Cell) -> str:
    """The answer, or ``"missing"`` where there was nothing to decide on."""
    return "missing" if cell.reason else cell.answer


def effect_text(cell: Cell) -> tuple[str, str]:
    """The effect and its interval, with the digits that it supports; empty without one.

    A ratio and its ends have three digits at least, however wide the interval: one sees whether it holds one.
    """
    if math.isnan(cell.effect):
        return "", ""
    half = (cell.high - cell.low) / 2

    def shown(value: float, rounding: str = ROUND_HALF_EVEN) -> str:
        if value == 0:
            return "0"
        if cell.is_ratio and math.isfinite(value):
            return format_number(value, min(half, abs(value) / 10), rounding)
        return format_number(value, half, rounding)

    if not half > 0:
        return format_number(cell.effect), ""
    return shown(cell.effect), f"{shown(cell.low, ROUND_FLOOR)} to {shown(cell.high, ROUND_CEILING)}"


def effect_name(claim: Claim, is_ratio: bool) -> str:
    """Of what an effect is."""
    if isinstance(claim, CorrelationClaim):
        if claim.than:
            return f"granulated τ less that of {claim.than}"
        return {"kendall": "τ", "granulated": "granulated τ", "partial": "partial ρ"}[claim.statistic]
    if isinstance(claim, PredictionClaim):
        return "error / error of hyperparameters alone"
    a, b = group_names(claim)
    return f"{a} / {b}" if is_ratio else f"{a} less {b}"


def group_names(claim: ContrastClaim) -> tuple[str, str]:
    """What the groups are called: by the value alone where that is a word."""
    a, b = (str(g) if isinstance(g, str) else f"{claim.by} = {g}" for g in claim.groups)
    return a, b


def claim_words(claim: Claim, expects: str, measure: str) -> str:
    """What is claimed of a measure, in the words of the study file's fields.

    >>> claim = ContrastClaim(name="c", measure="trace", by="model", groups=["bn", "plain"], expect="larger")
    >>> claim_words(claim, "smaller", "basin_width")
    'basin_width of bn is smaller than of plain'
    """
    if isinstance(claim, CorrelationClaim) and claim.than:
        how = {"positive": "better than", "negative": "worse than", "none": "neither better nor worse than"}
        return f"{measure} ranks runs by {claim.ranks} {how[expects]} {claim.than}"
    if isinstance(claim, CorrelationClaim):
        sign = {"positive": "ranks runs by", "negative": "ranks runs inversely by", "none": "ranks no run by"}
        held = f", given {', '.join(claim.given)}" if claim.given else ""
        return f"{measure} {sign[expects]} {claim.ranks}{held}"
    if isinstance(claim, PredictionClaim):
        place = "beside" if claim.beside else "in the place of"
        verb = "helps" if expects == "helps" else "does not help"
        return f"{measure} {verb} to foretell {claim.outcome} {place} the hyperparameters"
    a, b = group_names(claim)
    if expects == "equivalent":
        return f"{measure} of {a} and {b} is the same within {_margin(claim)}"
    return f"{measure} of {a} is {expects} than of {b}"


def caveats(cell: Cell, most: int | None = None) -> list[str]:
    """What has no value and why, of which settings nothing is left, and how many values carry a warning."""
    return [*filter(None, [missing_words(cell.missing, most), gone_words(cell, most), warning_words(cell)])]


def missing_words(missing: Sequence[Value], most: int | None = None) -> str:
    """Runs without a value, by reason; of reasons no more than `most`.

    >>> gone = Value("0f", {"model": "bn", "seed": 2}, math.nan, reason="training diverged")
    >>> missing_words([gone, gone])
    '2 runs have no value: training diverged (2)'
    """
    if not missing:
        return ""
    reasons: dict[str, int] = {}
    for value in missing:
        reasons[value.reason] = reasons.get(value.reason, 0) + 1
    runs = "1 run has" if len(missing) == 1 else f"{len(missing)} runs have"
    told = list(reasons.items())[:most]
    parts = [f"{reason} ({n})" for reason, n in told]
    rest = len(missing) - sum(n for _, n in told)
    if rest:
        parts.append(f"{rest} for other reasons, listed below")
    return f"{runs} no value: {'; '.join(parts)}"


def warning_words(cell: Cell) -> str:
    """How many of the values carry a warning of their own.

    >>> doubtful = Value("0e", {"model": "bn", "seed": 1}, 1.0, warning="too short: give more steps")
    >>> warning_words(Cell("trace", "running", "end", "positive", False, values_a=(doubtful,)))
    '1 of 1 values with a warning, which stands with the run'
    """
    # Of a correlation both have the same runs, and one of the two the warnings.
    sides = [[bool(v.warning) for v in values] for values in (cell.values_a, cell.values_b)]
    warned = [side for side in sides if any(side)]
    if not warned:
        return ""
    return (
        f"{sum(map(sum, warned))} of {sum(map(len, warned))} values with a warning, which stands with the run"
    )


def gone_words(cell: Cell, most: int | None = None) -> str:
    """Settings of which no run has a value, for what is left is of the others; of these no more than `most`.

    >>> there = Value("0e", {"model": "bn", "lr": 0.1, "seed": 1}, 1.0)
    >>> gone = Value("0f", {"model": "bn", "lr": 0.3, "seed": 1}, math.nan, reason="training diverged")
    >>> gone_words(Cell("trace", "running", "end", "positive", False, values_a=(there,), missing=(gone,)))
    'no run is left of bn · lr 0.3'
    """

    def settings(values: Sequence[Value]) -> list[str]:
        return list(
            dict.fromkeys(title_of({k: v for k, v in x.fields.items() if k != "seed"}) for x in values)
        )

    left = settings((*cell.values_a, *cell.values_b))
    gone = [name for name in settings([v for v in cell.missing if v.reason != NOT_YET]) if name not in left]
    if not gone or not left:
        return ""
    told = gone[:most]
    rest = f" and {len(gone) - len(told)} more" if len(told) < len(gone) else ""
    return f"no run is left of {', '.join(told)}{rest}"


def title_of(labels: Mapping[str, Any]) -> str:
    """Setting and seed in words.

    >>> title_of({"model": "bn", "lr": 0.1, "seed": 3, "name": "gap", "moment": "end", "mode": "running"})
    'bn · lr 0.1 · seed 3'
    """
    fields = {k: v for k, v in labels.items() if k not in ("name", "moment", "mode")}
    return " · ".join(str(v) if k == "model" else f"{k} {v}" for k, v in fields.items())


def runs_text(cell: Cell, claim: Claim) -> str:
    """How many runs stand behind a cell."""
    if isinstance(claim, CorrelationClaim):
        return f"{cell.num_a}"
    if isinstance(claim, PredictionClaim):
        settings = f" of {cell.prediction.num_configurations} settings" if cell.prediction else ""
        return f"{cell.num_a}{settings}"
    return f"{cell.num_a} pairs" if claim.paired else f"{cell.num_a} against {cell.num_b}"


def _row(verdict: Verdict, level: float, num_primary: int, least: float) -> VerdictRow:
    claim, cell = verdict.claim, verdict.cell
    state = "missing" if cell.reason else verdict.answer
    effect, interval = effect_text(cell)
    p, p_note = _p(verdict)
    where = ", ".join(f"{k} = {v}" for k, v in claim.where.items())
    detail = [
        f"{claim_words(claim, cell.expects, claim.measure)}",
        MODE_NAMES[claim.mode],
        f"at {claim.matching}",
        *([f"where {where}"] if where else []),
        *([f"margin {_margin(claim)}"] if claim.margin is not None else []),
    ]
    answer, why = _answer(verdict, state, level, num_primary, least)
    has_size = not math.isnan(cell.size)
    return VerdictRow(
        name=claim.name,
        claim=f"“{claim.text}”" if claim.text else claim_words(claim, cell.expects, claim.measure),
        detail=", ".join(detail),
        is_primary=claim.primary,
        state=state,
        answer=answer,
        why=why,
        what=effect_name(claim, cell.is_ratio) if effect else "",
        effect=effect,
        interval=interval,
        p=p,
        p_note=p_note,
        size=format_number(cell.size, 0.1) if has_size else "",
        size_interval=format_interval(cell.size_low, cell.size_high)
        if has_size and not math.isnan(cell.size_low)
        else "",
        runs=runs_text(cell, claim),
        left_out="; ".join(caveats(cell, MOST_REASONS)),
    )


def _p(verdict: Verdict) -> tuple[str, str]:
    """The smaller of the two p-values a claim has, and of what it is."""
    sides = [(verdict.p_support, "for the claim"), (verdict.p_refute, "against it")]
    known = [(p, side) for p, side in sides if not math.isnan(p)]
    if not known or verdict.cell.reason:
        return "", ""
    p, side = min(known)
    if len(known) > 1 and known[0][0] == known[1][0]:
        side = "for and against it alike"
    return format_p(p), f"{side}, {'Holm' if verdict.claim.primary else 'uncorrected'}"


def _answer(verdict: Verdict, state: str, level: float, num_primary: int, least: float) -> tuple[str, str]:
    claim, cell, alpha = verdict.claim, verdict.cell, 1 - level
    if state == "missing":
        if cell.missing and all(v.reason == NOT_YET for v in cell.missing):
            return NOT_YET, f"{cell.num_a + cell.num_b} runs have a value so far"
        return "no answer", cell.reason
    at = f"at {100 * level:.4g} %"
    if state != "undecided":
        return f"{state} {at}", _finding(claim, cell)
    smallest = max(cell.smallest_p, least if claim.primary and not math.isnan(least) else 0.0)
    if smallest > alpha + _ROUNDING:
        among = f", corrected over {num_primary} claims," if claim.primary and num_primary > 1 else ""
        return "undecided", f"{runs_text(cell, claim)}{among} cannot go below p = {min(smallest, 1.0):.2g}"
    if cell.answer != "undecided":
        p = cell.p_support if cell.answer == "supported" else cell.p_refute
        return "undecided", (
            f"alone it would be {cell.answer} (p = {format_p(p)}), not among {num_primary} primary claims"
        )
    sides = [(verdict.p_support, "for"), (verdict.p_refute, "against")]
    shown = ", ".join(f"{side} it p = {format_p(p)}" for p, side in sides if not math.isnan(p))
    return "undecided", f"{shown}; needed is {alpha:.2g}"


def _finding(claim: Claim, cell: Cell) -> str:
    if isinstance(claim, CorrelationClaim):
        name = effect_name(claim, cell.is_ratio)
        words = {"positive": f"{name} is above nought", "negative": f"{name} is below nought"}
        if claim.margin is not None:
            words |= {"equivalent": f"{name} lies within ± {claim.margin:g}"}
            words |= {"beyond": f"{name} lies beyond ± {claim.margin:g}"}
        return words[cell.basis]
    if isinstance(claim, PredictionClaim):
        if cell.basis == "helps":
            return "the error is smaller than that of the hyperparameters alone"
        return f"the error is not smaller by more than {_margin(claim)}"
    a, b = group_names(claim)
    if cell.basis == "equivalent":
        return f"the two are the same within {_margin(claim)}"
    if cell.basis == "beyond":
        return f"the two differ by more than {_margin(claim)}"
    return f"{a} is {cell.basis} than {b}"


def _margin(claim: Claim) -> str:
    if isinstance(claim, PredictionClaim) or (isinstance(claim, ContrastClaim) and claim.scale == "log"):
        return f"a factor of {claim.margin:g}"
    return f"{claim.margin:g}"
