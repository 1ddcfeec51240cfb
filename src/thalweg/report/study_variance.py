"""Where the variance of each measure over a study comes from, as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.report.tables import MINUS
from thalweg.study.decomposition import Decomposition


@dataclass(frozen=True)
class Share:
    """Of one source: its share of the total and its interval in words, and its width in per cent."""

    text: str
    interval: str
    width: float


@dataclass(frozen=True)
class VarianceRow:
    """One measure in one mode; `shares` by the table's columns, None where it has no such source."""

    measure: str
    mode: str
    shares: tuple[Share | None, ...]


@dataclass(frozen=True)
class VarianceTable:
    """All measures that could be taken apart; for the others why not, each reason once with their names."""

    sources: tuple[str, ...]
    rows: tuple[VarianceRow, ...]
    reasons: tuple[tuple[str, tuple[str, ...]], ...]


def variance_table(found: Sequence[Decomposition]) -> VarianceTable:
    """Shares of the total variance, source by source."""
    sources = list(dict.fromkeys(c.name for d in found if d.found for c in d.found.components))
    rows, reasons = [], {}
    for d in found:
        if d.found is None:
            reasons.setdefault(d.reason, {})[d.measure] = None
            continue
        shares = {c.name: (c.share, c.share_low, c.share_high) for c in d.found.components}
        cells = tuple(_share(*shares[name]) if name in shares else None for name in sources)
        rows.append(VarianceRow(d.measure, d.mode, cells))
    return VarianceTable(
        tuple(sources), tuple(rows), tuple((reason, tuple(names)) for reason, names in reasons.items())
    )


def _share(share: float, low: float, high: float) -> Share:
    known = low == low and high == high
    interval = f"{_percent(low)} to {_percent(high)} %" if known and low != high else ""
    return Share(f"{_percent(share)} %", interval, 100 * min(max(share, 0.0), 1.0))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}".replace("-0", "0").replace("-", MINUS) if share == share else "–"
