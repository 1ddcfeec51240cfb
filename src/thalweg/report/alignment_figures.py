"""Pictures of an alignment: what each run made of its start, and how many units of each layer moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.report.figures import GREY, INK, new_figure, numbers
from thalweg.report.names import MOST_LETTERS, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def alignment_figure(result: Any, colour: str) -> Figure:
    """Both, side by side."""
    height = max(2.4, 1.2 + 0.2 * max(len(result.layers), len(result.distances)))
    figure, axes = new_figure(1, 2, width=8.4, height=height, width_ratios=(1.3, 1))
    draw_runs(axes[0, 0], result, colour)
    draw_moved(axes[0, 1], result, colour)
    before, after = result.distance_before, result.value
    axes[0, 0].set_title(f"distance {before:.4g} before, {after:.4g} after")
    return figure


def draw_runs(axes: Axes, result: Any, colour: str) -> None:
    """What is maximised, at the start and at the end of each run."""
    starts, ends = numbers(result.start_similarities), numbers(result.similarities)
    rows = np.arange(1, len(ends) + 1)
    axes.hlines(rows, starts, ends, color=colour, linewidth=0.8, alpha=0.5)
    axes.plot(starts, rows, "o", color=GREY, markersize=4, label="start")
    axes.plot(ends, rows, "o", color=colour, markersize=4, label="end")
    axes.axvline(ends.max(), color=INK, linewidth=0.9, linestyle=":", label=f"kept: {ends.max():.4g}")
    method = result.provenance.get("arguments", {}).get("method", "weights")
    names = {"weights": "cosine of the weights", "activations": "mean correlation of matched units"}
    axes.set_xlabel(names[method])
    axes.set_yticks(rows, ["as it is", *(f"random {i}" for i in rows[:-1])])
    axes.set_ylabel("run, by its start")
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.26), ncols=3)


def draw_moved(axes: Axes, result: Any, colour: str) -> None:
    """The share of each layer's units that moved, the counts beside it."""
    moved, sizes = numbers(result.num_moved), numbers(result.num_units)
    rows = np.arange(len(sizes))
    axes.barh(rows, 100 * moved / sizes, color=colour, alpha=0.35, height=0.6)
    for row, (count, size) in enumerate(zip(moved, sizes, strict=True)):
        axes.text(2, row, f"{count:.0f} of {size:.0f}", va="center", color=INK, fontsize=7)
    axes.set_yticks(rows, shortened(result.layers, MOST_LETTERS))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("units that moved (%)")
    axes.set_ylabel("layer")
