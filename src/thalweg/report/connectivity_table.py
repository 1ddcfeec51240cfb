"""What lies between two minima as rows of text, for the page and for the terminal alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.analyses.mode_connectivity_result import ModeConnectivity, Number
from thalweg.report.order_tables import OrderCell
from thalweg.report.tables import format_interval, format_number

NOTHING = OrderCell("–")


@dataclass(frozen=True)
class ConnectivityTableRow:
    """One quantity in one mode, ``""`` where it has none: as the networks are, and with b aligned."""

    quantity: str
    mode: str
    cells: tuple[OrderCell, OrderCell]


@dataclass(frozen=True)
class ConnectivityTable:
    """Columns, rows, what they add up to, and why some numbers are missing."""

    columns: tuple[str, str]
    rows: tuple[ConnectivityTableRow, ...]
    remarks: tuple[str, ...]
    missing: tuple[str, ...]


def connectivity_table(result: ModeConnectivity) -> ConnectivityTable:
    """The table of `result`."""
    rows = tuple(
        ConnectivityTableRow(row.quantity, row.mode or "", (_cell(row.before), _cell(row.aligned)))
        for row in result.rows
    )
    because: dict[str, list[str]] = {}
    for name, reason in result.reasons.items():
        because.setdefault(reason, []).append(name.replace("_", " "))
    missing = tuple(f"{', '.join(names)}: {reason}" for reason, names in because.items())
    return ConnectivityTable(("as they are", "aligned"), rows, tuple(result.remarks), missing)


def _cell(number: Number | None) -> OrderCell:
    if number is None or math.isnan(number.value):
        return NOTHING
    value, low, high = number.value, number.low, number.high
    if low == high:
        return OrderCell(_exact(value))
    if math.isinf(high):
        return OrderCell(f"at least {_exact(low)}")
    return OrderCell(format_number(value, (high - low) / 2), format_interval(low, high))


def _exact(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and value else format_number(value)
