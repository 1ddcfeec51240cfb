"""The table of an audit as a picture: measure x transformation, moved or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalweg.analyses.audit_result import FAILED, MOVED, NOT_MOVED, UNDECIDED, InvarianceAudit
from thalweg.report.audit_text import BROKEN_CLAIM, CLAIM, LEGEND, SIGNS, change_text
from thalweg.report.figures import BLUE, FAINT, INK, VERMILLION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by sign and by lightness as well as by colour.
FILLS = {MOVED: (VERMILLION, 0.75), NOT_MOVED: (BLUE, 0.22), UNDECIDED: ("white", 1.0), FAILED: (FAINT, 1.0)}


def draw_audit(axes: Axes, result: InvarianceAudit) -> None:
    """One field a cell: sign of the verdict, relative change, a mark where the measure claims not to move."""
    from matplotlib.patches import Rectangle

    for i, member in enumerate(result.members):
        for j, name in enumerate(result.transformations):
            cell = result.cell(member, name)
            fill, alpha = FILLS[cell.verdict]
            axes.add_patch(Rectangle((j - 0.47, i - 0.44), 0.94, 0.88, facecolor=fill, alpha=alpha, lw=0))
            if cell.verdict == UNDECIDED:
                box = {"fill": False, "edgecolor": INK, "linestyle": ":", "linewidth": 0.8}
                axes.add_patch(Rectangle((j - 0.47, i - 0.44), 0.94, 0.88, **box))
            if cell.is_violated:
                box = {"fill": False, "edgecolor": INK, "linewidth": 1.6}
                axes.add_patch(Rectangle((j - 0.47, i - 0.44), 0.94, 0.88, **box))
            mark = BROKEN_CLAIM if cell.is_violated else CLAIM if cell.is_claimed else ""
            axes.text(j - 0.45, i, SIGNS[cell.verdict], ha="left", va="center", fontsize=11, color=INK)
            axes.text(j + 0.01, i, change_text(cell), ha="center", va="center", fontsize=7.5, color=INK)
            axes.text(j + 0.45, i, mark, ha="right", va="center", fontsize=10, color=INK, weight="bold")
    axes.set_xlim(-0.5, len(result.transformations) - 0.5)
    axes.set_ylim(len(result.members) - 0.5, -0.5)
    axes.set_xticks(range(len(result.transformations)), [t.replace("_", " ") for t in result.transformations])
    axes.set_yticks(range(len(result.members)), [m.replace("_", " ") for m in result.members])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(LEGEND.replace(f"   {CLAIM}", f"\n{CLAIM}"), fontsize=7.5)
