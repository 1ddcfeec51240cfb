"""A comparison or a contrast as rows of text, for the page and for the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from thalweg.analyses.compare import Comparison, ComparisonRow
from thalweg.analyses.contrast_result import Contrast, ContrastRow
from thalweg.analyses.orderings import Ordering
from thalweg.report.tables import format_interval, format_number


@dataclass(frozen=True)
class OrderCell:
    """A number, the interval below it, and what else there is to say in small."""

    main: str
    interval: str = ""
    small: str = ""


@dataclass(frozen=True)
class OrderRow:
    """One measure in one mode.

    Parameters
    ----------
    measure, mode
        Name and mode, ``""`` where there is none.
    kind
        ``"raw"`` or ``"normalised"``, whether it grows as the minimum becomes flatter, and whether the values
        are lower bounds.
    cells
        Numbers, in the order of the table's columns.
    answer, sharper
        Who is the sharper, in words, and as a word of `Ordering`.
    changes
        Whether the row is marked.
    reason
        Why nothing was measured.
    """

    measure: str
    mode: str
    kind: str
    cells: tuple[OrderCell, ...]
    answer: str
    sharper: str
    changes: bool
    reason: str = ""


@dataclass(frozen=True)
class OrderTable:
    """Columns and rows."""

    columns: tuple[str, ...]
    rows: tuple[OrderRow, ...]
    remarks: tuple[str, ...] = field(default=())


def order_table(result: Comparison | Contrast) -> OrderTable:
    """The table of either."""
    if isinstance(result, Comparison):
        a, b = result.names
        rows = [_row(row, row.ordering, result.names, _comparison_cells(row)) for row in result.rows]
        return OrderTable((a, b, f"{a} / {b}"), tuple(rows), tuple(result.remarks))
    a, b = result.names
    rows = [_row(row, row.ordering, result.names, _contrast_cells(row, result)) for row in result.rows]
    difference = f"{a} / {b}" if result.log else f"{a} less {b}"
    corrected = {"joint": "p, joint", "holm": "p, Holm", "none": "p, as it is"}[result.correction]
    sides = (f"{a}, n = {len(result.runs_a)}", f"{b}, n = {len(result.runs_b)}")
    columns = (*sides, difference, "p", corrected, "size, g")
    return OrderTable(columns, tuple(rows), tuple(result.remarks))


def format_p(p: float) -> str:
    """A p-value with two digits.

    >>> format_p(0.00794), format_p(0.5), format_p(0.00003)
    ('0.0079', '0.50', '< 0.0001')
    """
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def _row(
    row: ComparisonRow | ContrastRow,
    ordering: Ordering,
    names: Sequence[str],
    cells: tuple[OrderCell, ...],
) -> OrderRow:
    kinds = ["normalised" if ordering.is_normalised else "raw"]
    if not ordering.larger_is_sharper:
        kinds.append("larger is flatter")
    if ordering.is_lower_bound:
        kinds.append("lower bounds")
    words = {"a": f"{names[0]}", "b": f"{names[1]}"}
    return OrderRow(
        measure=ordering.measure,
        mode=ordering.mode or "",
        kind=", ".join(kinds),
        cells=cells,
        answer="bound too wide" if ordering.is_wide else words.get(ordering.sharper, ordering.sharper),
        sharper=ordering.sharper,
        changes=row.changes,
        reason=row.reason,
    )


def _comparison_cells(row: ComparisonRow) -> tuple[OrderCell, ...]:
    if row.reason:
        return ()
    # A number that bounds what is meant has no interval of that, however exact it is.
    at_least, exact = ("≥ ", "") if row.ordering.is_lower_bound else ("", "exact")
    sides = [
        OrderCell(f"{at_least}{format_number(value, _half(low, high))}", _interval(low, high, exact))
        for value, low, high in zip(row.values, row.lows, row.highs, strict=True)
    ]
    if math.isnan(row.ratio):
        return (*sides, OrderCell("–"))
    half = _half(row.ratio_low, row.ratio_high)
    ratio = OrderCell(format_number(row.ratio, half), _interval(row.ratio_low, row.ratio_high, exact))
    return (*sides, ratio)


def _contrast_cells(row: ContrastRow, result: Contrast) -> tuple[OrderCell, ...]:
    sample = row.sample
    if sample is None:
        return ()
    to_ratio: Any = math.exp if result.log else float
    difference, low, high = to_ratio(sample.difference), to_ratio(row.low), to_ratio(row.high)
    half = _half(low, high)
    shown = format_number(to_ratio(row.detectable), half)
    small = f"detectable {'factor ' if result.log else ''}{shown}"
    if row.measurement_share > 0:
        small += f", measuring {100 * row.measurement_share:.2g} % of the variance"
    effect = "–" if math.isnan(sample.effect_size) else format_number(sample.effect_size, 0.1)
    size = "" if math.isnan(sample.effect_low) else _interval(sample.effect_low, sample.effect_high)
    # A mean of logarithms is known to a part of itself. However wide the spread, three digits tell the means
    # apart.
    means = [
        OrderCell(
            format_number(mean, min(mean * _half(row.low, row.high) if result.log else half, abs(mean) / 10))
        )
        for mean in (to_ratio(sample.mean_a), to_ratio(sample.mean_b))
    ]
    return (
        *means,
        OrderCell(format_number(difference, half), _interval(low, high), small),
        OrderCell(format_p(sample.p_value), small="" if sample.is_exact else "20,000 drawn"),
        OrderCell(format_p(row.p_corrected)),
        OrderCell(effect, size, f"larger in {100 * sample.superiority:.0f} % of pairs"),
    )


def _half(low: float, high: float) -> float:
    half = (high - low) / 2
    return half if math.isfinite(half) else 0.0


def _interval(low: float, high: float, exact: str = "exact") -> str:
    return exact if low == high else format_interval(low, high).replace("not finite", "−∞")
