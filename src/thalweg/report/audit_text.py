"""The cells of an audit in words and signs, for the terminal and for figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.analyses.audit_result import FAILED, MOVED, NOT_MOVED, UNDECIDED, AuditCell, InvarianceAudit
from thalweg.report.tables import MINUS

SIGNS = {MOVED: "≠", NOT_MOVED: "=", UNDECIDED: "?", FAILED: "×"}
CLAIM, BROKEN_CLAIM = "*", "!"

LEGEND = (
    f"{SIGNS[MOVED]} moved   {SIGNS[NOT_MOVED]} not moved   {SIGNS[UNDECIDED]} undecided   "
    f"{SIGNS[FAILED]} failed   "
    f"{CLAIM} claims not to move   {BROKEN_CLAIM} moved in spite of the claim   (± 95 %)"
)


@dataclass(frozen=True)
class AuditRow:
    """A measure, its value at the point, and a text for each transformation."""

    member: str
    before: float
    cells: tuple[str, ...]


def audit_rows(result: InvarianceAudit) -> list[AuditRow]:
    """The table of an audit, row by row."""
    return [
        AuditRow(
            member,
            float(result.before[i]),
            tuple(cell_text(result.cell(member, t)) for t in result.transformations),
        )
        for i, member in enumerate(result.members)
    ]


def cell_text(cell: AuditCell) -> str:
    """Verdict, change and claim: ``"≠ +31 %"``."""
    mark = BROKEN_CLAIM if cell.is_violated else CLAIM if cell.is_claimed else ""
    return " ".join(part for part in (SIGNS[cell.verdict], change_text(cell), mark) if part)


def change_text(cell: AuditCell) -> str:
    """The relative change, with its 95 % interval unless it moved; nothing where the measure failed.

    >>> cell = AuditCell("trace", "permutation", 2.0, 2.02, 0.9, "undecided", True)
    >>> change_text(cell), cell_text(cell)
    ('+1.0 ± 45 %', '? +1.0 ± 45 % *')
    """
    if cell.verdict == FAILED:
        return ""
    if not math.isfinite(cell.change):
        return f"{cell.before:.2g} to {cell.after:.2g}".replace("-", MINUS)
    text = _percent(cell.change)
    sign = "" if text == "0" or cell.change < 0 else "+"
    half = _percent(cell.half_width / abs(cell.before)) if cell.before and cell.verdict != MOVED else "0"
    return f"{sign}{text} %" if half == "0" else f"{sign}{text} ± {half} %"


def _percent(part: float) -> str:
    """Two digits, and none of what is below a hundredth of a per cent.

    >>> [_percent(x) for x in (3.1234, -0.5, 1e-9, 0.00456, 250.0)]
    ['310', '−50', '0', '0.46', '25,000']
    """
    percent = 100 * part
    if not math.isfinite(percent):
        return "∞"
    if abs(percent) < 0.01:
        return "0"
    place = 1 - math.floor(math.log10(abs(percent)))
    return f"{round(percent, place):,.{max(0, place)}f}".replace("-", MINUS)
