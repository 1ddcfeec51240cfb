"""Kendall's tau of every pair of measures, as a coloured triangle and as a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN

from thalweg.report.figures import BLUE, VERMILLION
from thalweg.report.order_tables import format_p
from thalweg.report.tables import format_number
from thalweg.study.correlations import CorrelationMatrix, MatrixCell

# Of a tau of one, so that black text is read on it.
STRONGEST = 0.6


@dataclass(frozen=True)
class MatrixEntry:
    """Tau of one pair; all text, and the fill of its cell."""

    row: str
    column: str
    tau: str
    interval: str
    p: str
    num_runs: int
    reason: str
    fill: str


@dataclass(frozen=True)
class MatrixChart:
    """The triangle of one mode; of each name but the first `entries` holds those with the names before."""

    mode: str
    at: str
    names: tuple[str, ...]
    entries: tuple[tuple[MatrixEntry, ...], ...]
    is_within: bool

    @property
    def alt(self) -> str:
        """In words."""
        of = "from seed to seed within settings, " if self.is_within else ""
        return f"Kendall's tau of {len(self.names)} quantities, pair by pair, {of}{self.mode}, at {self.at}."


def matrix_charts(matrices: Sequence[CorrelationMatrix]) -> list[MatrixChart]:
    """One for each mode."""
    return [
        MatrixChart(
            m.mode,
            m.matching,
            m.names,
            tuple(tuple(_entry(m, a, b) for a in m.names[:i]) for i, b in enumerate(m.names) if i),
            m.is_within,
        )
        for m in matrices
    ]


def _entry(matrix: CorrelationMatrix, a: str, b: str) -> MatrixEntry:
    cell: MatrixCell = matrix.cells[a, b]
    tau = cell.tau
    if tau is None or tau.value != tau.value:
        return MatrixEntry(b, a, "", "", "", cell.num_runs, cell.reason, "#fff")
    known = tau.low == tau.low
    return MatrixEntry(
        row=b,
        column=a,
        tau=_two(tau.value, ROUND_HALF_EVEN),
        interval=f"{_two(tau.low, ROUND_FLOOR)} to {_two(tau.high, ROUND_CEILING)}" if known else "",
        p=format_p(tau.p_value),
        num_runs=cell.num_runs,
        reason="" if known else "no interval: no setting has two seeds",
        fill=_fill(tau.value),
    )


def _two(tau: float, rounding: str) -> str:
    """With two decimals, whatever its interval: cells are narrow."""
    return format_number(tau, 0.1, rounding)


def _fill(tau: float) -> str:
    """Towards blue where positive, towards vermillion where negative."""
    target = BLUE if tau > 0 else VERMILLION
    parts = [int(target[i : i + 2], 16) for i in (1, 3, 5)]
    mixed = [round(255 + (part - 255) * STRONGEST * min(abs(tau), 1.0)) for part in parts]
    return "#" + "".join(f"{part:02x}" for part in mixed)
