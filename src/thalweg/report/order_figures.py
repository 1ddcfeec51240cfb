"""Which of two is the sharper, row by row: the ratio of two networks, the contrast of two groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thalweg.analyses.compare import Comparison
from thalweg.analyses.contrast_result import Contrast
from thalweg.analyses.orderings import Ordering
from thalweg.report import figures as draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"a": draw.BLUE, "b": draw.VERMILLION, "undecided": draw.GREY, "not measured": draw.GREY}
MARKERS = {"a": "o", "b": "s", "undecided": "o", "not measured": "o"}

# Sets a row apart that decides the other way than the first one decided.
CHANGED = "≠"


@dataclass(frozen=True)
class _Line:
    """A row as it is drawn; without a value it is named with the reason."""

    ordering: Ordering
    value: float
    low: float
    high: float
    changes: bool
    reason: str = ""


def comparison_figure(result: Comparison, narrow: bool = False) -> Figure:
    """The ratio of the two values on a logarithmic axis, with what their intervals leave of it."""
    lines = []
    for row in result.rows:
        ends = (row.ratio, row.ratio_low, row.ratio_high)
        reason = "not measured" if row.reason else "" if math.isfinite(row.ratio) else "no ratio"
        lines.append(_Line(row.ordering, *ends, row.changes, reason))
    a, b = result.names
    figure, axes = _draw(lines, (a, b), 1.0, narrow)
    _ratio_axis(axes)
    axes.set_xlabel(f"{a} / {b}, with {100 * result.level:.4g} % intervals")
    return figure


def contrast_figure(result: Contrast, narrow: bool = False) -> Figure:
    """The difference of the groups in parts of the mean over both, or the ratio of their geometric means."""
    lines = []
    for i, row in enumerate(result.rows):
        if row.sample is None:
            lines.append(_Line(row.ordering, math.nan, math.nan, math.nan, False, "not measured"))
            continue
        ends = np.array([row.sample.difference, row.low, row.high])
        reason = ""
        if result.log:
            ends = np.exp(ends)
        else:
            pooled = float(np.mean([float(t[i].mean()) for t in (result.values_a, result.values_b)]))
            ends, reason = (100 * ends / abs(pooled), "") if pooled else (ends * math.nan, "mean of nought")
        value, low, high = ends.tolist()
        lines.append(_Line(row.ordering, value, low, high, row.changes, reason))
    a, b = result.names
    figure, axes = _draw(lines, (a, b), 1.0 if result.log else 0.0, narrow)
    if result.log:
        _ratio_axis(axes)
    what = f"{a} / {b}, geometric means" if result.log else f"{a} less {b}, in % of the mean of both"
    axes.set_xlabel(f"{what}, with {100 * result.level:.4g} % intervals")
    return figure


def _draw(
    lines: Sequence[_Line], names: tuple[str, str], neutral: float, narrow: bool
) -> tuple[Figure, Axes]:
    heights, height, previous = [], 0.0, lines[0].ordering.measure
    for line in lines:
        height += 0.7 if line.ordering.measure != previous else 0.0
        previous = line.ordering.measure
        heights.append(height)
        height += 1
    with draw.house_style():
        figure, grid = draw.new_figure(
            1, 1, width=3.9 if narrow else 7.6, height=(0.27 if narrow else 0.24) * height + 1.3
        )
        axes = grid[0, 0]
        axes.axvline(neutral, color=draw.INK, linewidth=0.9)
        for line, row in zip(lines, heights, strict=True):
            _draw_line(axes, line, row, neutral)
        labels = [_label(line, narrow) for line in lines]
        axes.set_yticks(heights, labels)
        axes.set_ylim(height - 0.3, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        for side, words in zip("ab", names, strict=True):
            axes.plot([], [], MARKERS[side], color=COLOURS[side], markersize=5, label=f"{words} sharper")
        axes.plot([], [], "o", color=draw.GREY, markerfacecolor="white", markersize=5, label="undecided")
        figure.legend(loc="outside upper right", ncols=1 if narrow else 3)
    return figure, axes


def _draw_line(axes: Axes, line: _Line, row: float, neutral: float) -> None:
    """Value and interval; an arrow to the edge of the picture on a side where it has no end."""
    if line.reason:
        axes.annotate(
            line.reason,
            (neutral, row),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=draw.GREY,
        )
        return
    sharper = line.ordering.sharper
    colour = COLOURS[sharper]
    # On the axis of ratios nought is as far off as infinity.
    open_ends = [not math.isfinite(end) or (neutral > 0 and end <= 0) for end in (line.low, line.high)]
    ends = [
        line.value if beyond else end for end, beyond in zip((line.low, line.high), open_ends, strict=True)
    ]
    axes.plot(ends, [row, row], color=colour, linewidth=2.2, alpha=0.6, solid_capstyle="butt")
    for edge, beyond in enumerate(open_ends):
        if beyond:
            axes.annotate(
                "",
                (edge, row),
                (line.value, row),
                xycoords=("axes fraction", "data"),
                textcoords="data",
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": colour,
                    "linewidth": 2.2,
                    "alpha": 0.6,
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
            )
    axes.plot(
        [line.value],
        [row],
        MARKERS[sharper],
        color=colour,
        markerfacecolor="white" if sharper == "undecided" else colour,
        markersize=5,
    )


def _label(line: _Line, narrow: bool) -> str:
    ordering = line.ordering
    kind = "" if narrow or not ordering.is_normalised else " (normalised)"
    mark = f"{CHANGED} " if line.changes else ""
    return f"{mark}{ordering.measure}{kind}" + (f", {ordering.mode}" if ordering.mode else "")


def _ratio_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 1 / 1.1), max(high, 1.1))
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low > 10 else (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0)
    draw.plain_ticks(axes.xaxis, subs)
