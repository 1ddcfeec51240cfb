"""A study's charts: effects of all cells of a claim, and the values of all runs group by group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from thalweg.report.study_charts import (
    ANSWER_COLOURS,
    GROUP_COLOURS,
    Chart,
    Dots,
    Mark,
    Row,
    answer_axis,
    unit_axis,
    value_axis,
)
from thalweg.report.study_words import effect_name, state_of
from thalweg.study.claims import ContrastClaim, CorrelationClaim
from thalweg.study.evidence import Evidence, Value
from thalweg.study.quantities import WHOLE
from thalweg.study.spec import StudySpec
from thalweg.study.verdicts import Cell, Verdict

SHAPES = ("circle", "square", "diamond")
# Of strokes without length, which the cap butt leaves unseen.
CAPS = ("round", "square")

# Of the fields that a study varies, the one whose values are told apart by colour has at most so many.
MOST_GROUPS = len(GROUP_COLOURS)

# Two stand side by side.
STRIP_WIDTH = 490.0


def forest_charts(verdict: Verdict, modes: Sequence[str], level: float) -> list[Chart]:
    """Effects of all cells: ratios, or taus, in one chart; differences, which have units, one a measure."""
    claim, shown = verdict.claim, [c for c in verdict.cells if not c.reason and not math.isnan(c.effect)]
    if isinstance(claim, CorrelationClaim):
        groups = [("", shown)]
    else:
        ratios = [c for c in shown if c.is_ratio]
        rest = [c for c in shown if not c.is_ratio]
        of_measure = {
            name: [c for c in rest if c.measure == name] for name in dict.fromkeys(c.measure for c in rest)
        }
        groups = [("", ratios), *((f"-{name}", cells) for name, cells in of_measure.items())]
    return [_forest(verdict, cells, part, modes, level) for part, cells in groups if cells]


def _forest(verdict: Verdict, cells: Sequence[Cell], part: str, modes: Sequence[str], level: float) -> Chart:
    claim = verdict.claim
    used = [mode for mode in modes if any(c.mode == mode for c in cells)]
    own = (claim.measure, claim.mode, claim.matching)
    rows: list[Row] = []
    for measure in dict.fromkeys(c.measure for c in cells):
        of_measure = [c for c in cells if c.measure == measure]
        kind = ", normalised" if of_measure[0].is_normalised else ""
        # Where larger means flatter the claim is turned round, and so are the colours.
        turned = f", claimed {of_measure[0].expects}" if of_measure[0].expects != claim.expect else ""
        rows.append(Row(f"{measure}{kind}{turned}", measure=measure))
        for at in dict.fromkeys(c.matching for c in of_measure):
            marks = tuple(
                _mark(c, used.index(c.mode), modes.index(c.mode), (c.measure, c.mode, at) == own)
                for c in of_measure
                if c.matching == at
            )
            rows.append(Row(at, marks, num_lines=len(used), measure=measure, at=at))
    is_ratio = cells[0].is_ratio
    label = f"{effect_name(claim, is_ratio)}, with {100 * level:.4g} % intervals"
    # Of measures in other units it is none.
    band = _band(claim.margin, is_ratio) if all(c.margin is not None for c in cells) else None
    all_marks = [mark for row in rows for mark in row.marks]
    axis = (
        unit_axis(label, band)
        if isinstance(claim, CorrelationClaim) and not claim.than
        else answer_axis(all_marks, label, is_log=is_ratio, band=band)
    )
    found = ", ".join(
        f"{n} {state}" for state in ("supported", "refuted", "undecided") if (n := _count(cells, state))
    )
    answers = [("supported", False), ("refuted", False), ("undecided", True)]
    legend = [(ANSWER_COLOURS[state], "circle", hollow, state) for state, hollow in answers]
    legend += [("#222", SHAPES[modes.index(mode) % len(SHAPES)], False, mode) for mode in used]
    return Chart(
        name=f"forest-{claim.name}{part}",
        alt=f"{effect_name(claim, is_ratio)} of {len(cells)} cells with intervals: {found}; as in the table.",
        axis=axis,
        rows=tuple(rows),
        legend=tuple(legend),
    )


def _mark(cell: Cell, line: int, mode: int, is_own: bool) -> Mark:
    state = state_of(cell)
    low, high = (cell.effect if math.isnan(end) else end for end in (cell.low, cell.high))
    return Mark(
        cell.effect,
        # Of ratios nought is as far off as infinity.
        -math.inf if cell.is_ratio and low <= 0 else low,
        high,
        ANSWER_COLOURS[state],
        SHAPES[mode % len(SHAPES)],
        is_hollow=state == "undecided",
        is_own=is_own,
        line=line,
        mode=cell.mode,
    )


def _band(margin: float | None, is_ratio: bool) -> tuple[float, float] | None:
    if margin is None:
        return None
    return (1 / margin, margin) if is_ratio else (-margin, margin)


def group_field(spec: StudySpec) -> str:
    """The field whose values have colours: that of the first contrast, else the one of fewest values."""
    contrasts = [claim.by for claim in spec.claims if isinstance(claim, ContrastClaim)]
    if contrasts:
        return contrasts[0]
    varied = {field: len(values) for field, values in spec.fields.items() if len(values) > 1}
    return min(varied, key=lambda field: varied[field]) if varied else next(iter(spec.fields))


def group_colours(spec: StudySpec) -> dict[str, str]:
    """Of each group its colour; those beyond the sixth share the last."""
    names = [str(value) for value in spec.fields[group_field(spec)]]
    return {name: GROUP_COLOURS[min(i, MOST_GROUPS - 1)] for i, name in enumerate(names)}


def strip_charts(spec: StudySpec, evidence: Evidence) -> list[tuple[str, Chart]]:
    """The values of all runs, a chart for each thing measured: at each moment, in each mode, by group."""
    found = []
    for name in evidence.names():
        chart = _strip(spec, evidence, name)
        if chart is not None:
            found.append((name, chart))
    return found


def _strip(spec: StudySpec, evidence: Evidence, name: str) -> Chart | None:
    by, colours = group_field(spec), group_colours(spec)
    rows, everything = [], []
    groups: dict[str, None] = {}
    cells = [
        (moment, mode, evidence.values(name, mode, moment))
        for mode in spec.objective.modes
        for moment in spec.moments
    ]
    if name in spec.quantities and spec.quantities[name].is_of_runs:
        # Whatever mode and moment are asked for.
        cells = [(WHOLE, spec.objective.modes[0], evidence.values(name, spec.objective.modes[0], WHOLE))]
    for _, _, values in cells:
        groups |= dict.fromkeys(str(v.fields.get(by)) for v in values)
    names = [n for n in (*colours, *groups) if n in groups]
    names = list(dict.fromkeys(names))
    previous = ""
    for moment, mode, values in cells:
        dots, missing = [], sum(math.isnan(v.value) for v in values)
        unbounded = sum(math.isinf(v.value) for v in values)
        for line, group in enumerate(names):
            numbers = _finite(values, by, group)
            everything += numbers
            if numbers:
                colour = colours.get(group, GROUP_COLOURS[-1])
                dots.append(Dots(tuple(numbers), colour, CAPS[line % 2], line))
        if not dots:
            continue
        if mode != previous:
            rows.append(Row(mode, mode=mode, measure=name))
            previous = mode
        lost = f"{moment}, {missing} missing" if missing else moment
        lost += f", {unbounded} infinite" if unbounded else ""
        rows.append(Row(lost, dots=tuple(dots), num_lines=len(names), measure=name, mode=mode, at=moment))
    if not everything:
        return None
    legend = tuple(
        (colours.get(group, GROUP_COLOURS[-1]), CAPS[line % 2], False, group_name(by, group))
        for line, group in enumerate(names)
    )
    middle = {group: median(n) for group in names if (n := _last(cells, by, group))}
    words = ", ".join(f"{group} {value:.3g}" for group, value in middle.items())
    return Chart(
        name=f"values-{name}",
        alt=f"{name} of each run by moment and mode; medians of the last row: {words}.",
        axis=value_axis(everything, name, width=STRIP_WIDTH),
        rows=tuple(rows),
        legend=legend,
    )


def _finite(values: Iterable[Value], by: str, group: str) -> list[float]:
    return [v.value for v in values if str(v.fields.get(by)) == group and math.isfinite(v.value)]


def _last(cells: Sequence[tuple[str, str, list[Value]]], by: str, group: str) -> list[float]:
    found = [_finite(values, by, group) for _, _, values in cells]
    return next((numbers for numbers in reversed(found) if numbers), [])


def group_name(by: str, group: str) -> str:
    """A value of the field, with the field where the value alone would not say it."""
    return group if by == "model" else f"{by} = {group}"


def _count(cells: Iterable[Cell], state: str) -> int:
    return sum(state_of(c) == state for c in cells)
