"""Charts made of rows, as SVG: values with intervals, or dots, along one axis.

Matplotlib places ticks; the rest is drawn by the template ``study_chart.html``, so that text stays text, a
page can hide rows, and hundreds of intervals take no second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from thalweg.report.figures import BLUE, FAINT, GREEN, GREY, INK, LOG_RATIO, PURPLE, VERMILLION

# Of answers, and of groups of runs: Okabe and Ito's, no colour in both.
ANSWER_COLOURS = {"supported": BLUE, "refuted": VERMILLION, "undecided": GREY, "missing": FAINT}
GROUP_COLOURS = (GREEN, PURPLE, "#E69F00", "#56B4E9", INK, GREY)

# Width of the drawing, of the labels to the left, of the margins: in the SVG's own unit.
WIDTH, LABELS, RIGHT = 620.0, 118.0, 14.0
TOP, BOTTOM = 8.0, 40.0
LINE, GAP, HEADING = 7.0, 9.0, 21.0

# An interval may be so many times as long as all values lie apart before the axis cuts it off.
LONGEST_ENDS = 1.5


@dataclass(frozen=True)
class Mark:
    """A value with its interval, on line `line` of its row; ends may be infinite."""

    value: float
    low: float
    high: float
    colour: str
    shape: str = "circle"
    is_hollow: bool = False
    is_own: bool = False
    line: int = 0
    mode: str = ""


@dataclass(frozen=True)
class Dots:
    """Values of several runs on line `line` of a row."""

    values: tuple[float, ...]
    colour: str
    cap: str = "round"
    line: int = 0


@dataclass(frozen=True)
class Row:
    """A line of text with marks or dots beside it; without either, a heading.

    `measure`, `mode` and `at` are what a page's filter knows it by, empty where it is of no one.
    """

    label: str
    marks: tuple[Mark, ...] = ()
    dots: tuple[Dots, ...] = ()
    note: str = ""
    num_lines: int = 1
    measure: str = ""
    mode: str = ""
    at: str = ""

    @property
    def is_heading(self) -> bool:
        """Whether it belongs to the rows below it."""
        return not (self.marks or self.dots or self.note)

    @property
    def height(self) -> float:
        """Of the row, in the SVG's unit."""
        return HEADING if self.is_heading else LINE * max(self.num_lines, 2) + GAP


@dataclass(frozen=True)
class Axis:
    """Where numbers lie: `low` to `high`, by their logarithms if `is_log`."""

    low: float
    high: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]
    label: str
    neutral: float | None = None
    band: tuple[float, float] | None = None
    width: float = WIDTH

    def place(self, value: float) -> float:
        """Abscissa of a number within the axis, in the SVG's unit."""
        x, low, high = (math.log(v) if self.is_log else v for v in (value, self.low, self.high))
        return round(LABELS + (self.width - LABELS - RIGHT) * (x - low) / (high - low), 1)

    def clip(self, value: float) -> tuple[float, bool]:
        """Abscissa of an end, and whether it lies beyond the edge."""
        inside = min(max(value, self.low), self.high)
        return self.place(inside), inside != value


@dataclass(frozen=True)
class Chart:
    """A chart as the template draws it.

    Parameters
    ----------
    name
        Of the file it is saved in, and its identity on the page.
    alt
        What it shows, in words.
    axis, rows
        As above.
    legend
        Colour, shape or cap, whether hollow, and words.
    """

    name: str
    alt: str
    axis: Axis
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, str, bool, str], ...] = ()

    labels: float = field(default=LABELS, init=False)
    top: float = field(default=TOP, init=False)
    bottom: float = field(default=BOTTOM, init=False)

    @property
    def width(self) -> float:
        """Of the drawing, in the SVG's unit."""
        return self.axis.width

    @property
    def placed(self) -> list[tuple[float, Row]]:
        """Each row with its ordinate."""
        heights = np.cumsum([self.top, *(row.height for row in self.rows)])
        return list(zip(heights[:-1].tolist(), self.rows, strict=True))

    @property
    def height(self) -> float:
        """Of the drawing, in the SVG's unit."""
        return self.top + sum(row.height for row in self.rows) + self.bottom

    def ordinate(self, row: Row, line: int) -> float:
        """Of a line within its row."""
        return round((line + 0.5) * (row.height - GAP) / row.num_lines + GAP / 2, 1)

    def path(self, row: Row, dots: Dots) -> str:
        """Dots as a path of strokes without length."""
        y = self.ordinate(row, dots.line)
        return "".join(f"M{self.axis.place(v):g} {y:g}h0" for v in dots.values)


def answer_axis(marks: Iterable[Mark], label: str, *, is_log: bool, band: tuple[float, float] | None) -> Axis:
    """For effects: it holds all values, nought (or a ratio of one), the margin, and ends not far off."""
    found = list(marks)
    neutral = 1.0 if is_log else 0.0
    held = [neutral, *(band or ()), *(m.value for m in found)]
    ends = [e for m in found for e in (m.low, m.high)]
    to = np.log if is_log else np.asarray
    inner = to(np.array(held, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        outer = to(np.array(ends, dtype=np.float64))
    outer = outer[np.isfinite(outer)]
    reach = LONGEST_ENDS * max(float(np.ptp(inner)), math.log(1.5) if is_log else 1e-12)
    low, high = float(inner.min()), float(inner.max())
    low, high = (
        min([low, *outer[outer >= low - reach].tolist()]),
        max([high, *outer[outer <= high + reach].tolist()]),
    )
    return _axis(low, high, label, is_log=is_log, neutral=neutral, band=band)


def value_axis(values: Sequence[float], label: str, *, width: float = WIDTH) -> Axis:
    """For values: by their logarithms where all are positive and more than a decade apart."""
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > LOG_RATIO
    ends = (math.log(low), math.log(high)) if is_log else (low, high)
    return _axis(*ends, label, is_log=is_log, width=width)


def unit_axis(label: str, band: tuple[float, float] | None) -> Axis:
    """For correlations: from -1 to 1."""
    ticks = tuple((t, f"{t:g}".replace("-", "−")) for t in (-1.0, -0.5, 0.0, 0.5, 1.0))
    return Axis(-1.0, 1.0, False, ticks, label, 0.0, band)


def _axis(
    low: float,
    high: float,
    label: str,
    *,
    is_log: bool,
    neutral: float | None = None,
    band: tuple[float, float] | None = None,
    width: float = WIDTH,
) -> Axis:
    from matplotlib.ticker import LogLocator, MaxNLocator

    pad = 0.04 * (high - low) or 0.05 * (abs(high) or 1.0)
    low, high = low - pad, high + pad
    if is_log:
        low, high = math.exp(low), math.exp(high)
    places = MaxNLocator(6).tick_values(low, high)
    if is_log:
        subs = (
            (1.0,)
            if high / low > 1e3
            else (1.0, 2.0, 5.0)
            if high / low > 8
            else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        )
        decades = LogLocator(subs=subs, numticks=30).tick_values(low, high)
        if sum(low <= t <= high for t in decades) >= 3:
            places = decades
    digits = max(4, 2 - math.floor(math.log10((high - low) / max(abs(low), abs(high), 1e-300))))
    shown = [float(t) for t in places if low <= t <= high and (t > 0 or not is_log)]
    ticks = tuple((t, f"{t:.{digits}g}".replace("-", "−")) for t in shown)
    return Axis(low, high, is_log, ticks, label, neutral, band, width)
