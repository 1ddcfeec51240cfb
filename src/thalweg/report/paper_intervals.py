"""The paper's single numbers as points with intervals, and the spread that single batches give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.objective.batch_norm import MODES
from thalweg.report import figures as draw
from thalweg.report.paper_layout import MODE_NAMES, PaperFigure, panels
from thalweg.study.paper_claims import eigenvalue_number, one_step, several_steps
from thalweg.study.paper_evidence import (
    MODELS,
    PLAIN_MODEL,
    PaperRecords,
    num_examples_of,
    paper_value,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thalweg.study.store import Record


@dataclass(frozen=True)
class _Row:
    """One line of an interval plot, at `height` from the top."""

    model: str
    mode: str
    height: float
    label: str


def _rows(present: Callable[[str, str], bool]) -> list[_Row]:
    """Lines grouped by model, with a gap between groups; a network without batch norm has one."""
    rows: list[_Row] = []
    height = 0.0
    for model in MODELS:
        modes = [m for m in (MODES if model != PLAIN_MODEL else MODES[:1]) if present(model, m)]
        for mode in modes:
            label = f"{model}  {MODE_NAMES[mode] if model != PLAIN_MODEL else 'no batch norm'}"
            rows.append(_Row(model, mode, height, label))
            height += 1
        height += 0.6 if modes else 0
    return rows


def _row_figure(rows: Sequence[_Row], columns: int, narrow: bool) -> tuple[Figure, np.ndarray]:
    each = 0.3 * (rows[-1].height + 1) + 0.85
    figure, axes = panels(1, columns, narrow, height=each)
    for i, ax in enumerate(axes.flat):
        ax.set_ylim(rows[-1].height + 0.7, -0.7)
        ax.set_yticks([r.height for r in rows], [r.label if i == 0 or narrow else "" for r in rows])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.spines["left"].set_visible(False)
    return figure, axes


def _mark_paper(ax: Axes, rows: Sequence[_Row], measure: str) -> None:
    """The paper's value across the lines of each model that it gives one for."""
    labelled = False
    for model in MODELS:
        value, heights = paper_value(measure, model), [r.height for r in rows if r.model == model]
        if value is None or not heights:
            continue
        ends = [min(heights) - 0.42, max(heights) + 0.42]
        label = None if labelled else "the paper's value"
        ax.plot(
            [value, value],
            ends,
            color=draw.INK,
            linewidth=1.3,
            linestyle=(0, (3, 1.5)),
            label=label,
            zorder=4,
        )
        labelled = True


def _finish_rows(figure: Figure, ax: Axes, narrow: bool) -> None:
    """From zero, so that lengths compare; one legend entry a kind, in ink, since colours name the models."""
    from matplotlib.lines import Line2D

    ax.set_xlim(left=0, right=1.02 * ax.get_xlim()[1])
    handles, labels = ax.get_legend_handles_labels()
    unique = {}
    for label, handle in zip(labels, handles, strict=True):
        entry = Line2D([], [])
        entry.update_from(handle)
        entry.set_color(draw.INK)
        unique[label] = entry
    figure.legend(
        unique.values(), unique.keys(), loc="outside upper left", ncols=1 if narrow else len(unique)
    )


def eigenvalues_figure(study: PaperRecords) -> PaperFigure:
    def find(model: str, mode: str) -> Record | None:
        return study.find("top_eigenvalues", model, mode)

    name, title = "top_eigenvalues", "The top eigenvalue beside the paper’s"
    rows = _rows(lambda model, mode: find(model, mode) is not None)
    if not rows:
        return PaperFigure(name, title, "", "")
    found = [(row, record) for row in rows if (record := find(row.model, row.mode))]

    def picture(narrow: bool) -> Figure:
        with draw.house_style():
            figure, axes = _row_figure(rows, 1, narrow)
            ax = axes[0, 0]
            for row, record in found:
                number = eigenvalue_number(record)
                colour = draw.MODEL_COLOURS[row.model]
                draw.draw_interval(ax, number.value, number.low, number.high, row.height, colour)
            _mark_paper(ax, rows, "top_eigenvalues")
            ax.set_xlabel(
                "top eigenvalue (loss / parameter²)" if narrow else "top eigenvalue of the loss Hessian"
            )
            _finish_rows(figure, ax, narrow)
            return figure

    over = f"{max(num_examples_of(record) for _, record in found):,} training examples"
    caption = (
        f"Full Hessian of the mean loss over {over}. Bars run from the lower to the upper bound. "
        "Dashed: the paper’s value, whose data and batch-norm mode are not stated."
    )
    words = "; ".join(f"{row.label}: {record.measurement.value:.4g}" for row, record in found)
    return PaperFigure(
        name, title, caption, f"{words}. The paper gives 57.18 for A1 and 37.51 for B.", picture
    )


def sharpness_figure(study: PaperRecords) -> PaperFigure:
    kinds = (("one step", "o", one_step), ("several steps", "D", several_steps))
    name, title = "sam_sharpness", "Perturbation sharpness beside the paper’s"

    def find(model: str, mode: str, wanted: Any) -> Record | None:
        return study.find("sam_sharpness", model, mode, num_steps=wanted)

    rows = _rows(lambda model, mode: any(find(model, mode, wanted) for *_, wanted in kinds))
    if not rows:
        return PaperFigure(name, title, "", "")
    any_result: Any = study.all("sam_sharpness")[0].measurement
    radius = any_result.radius

    def picture(narrow: bool) -> Figure:
        with draw.house_style():
            figure, axes = _row_figure(rows, 1, narrow)
            ax = axes[0, 0]
            for row in rows:
                for (kind, marker, wanted), lift in zip(kinds, (0.13, -0.13), strict=True):
                    if record := find(row.model, row.mode, wanted):
                        low, high = record.measurement.interval(0.95)
                        colour = draw.MODEL_COLOURS[row.model]
                        value, height = record.measurement.value, row.height + lift
                        draw.draw_interval(ax, value, low, high, height, colour, marker=marker, label=kind)
            _mark_paper(ax, rows, "sam_sharpness")
            ax.set_xlabel("S (rise in loss, nats)" if narrow else f"S: rise in loss within {radius:g} (nats)")
            _finish_rows(figure, ax, narrow)
            return figure

    caption = (
        "Rise in the loss over all the measured training examples that an ascent within the ball finds: "
        "circles, one step along the gradient; diamonds, the best of several steps and restarts. Both are "
        "lower bounds on S. Dashed: the paper’s value, whose radius, data and batch-norm mode are not "
        "stated."
    )
    words = []
    for row in rows:
        each = [f"{k} {r.measurement.value:.4g}" for k, _, w in kinds if (r := find(row.model, row.mode, w))]
        words.append(f"{row.label}: {', '.join(each)}")
    alt = f"{'; '.join(words)}. The paper gives 0.1837 for A1 and 0.0886 for B."
    return PaperFigure(name, title, caption, alt, picture)


def single_batches_figure(study: PaperRecords) -> PaperFigure:
    name, title = "single_batches", "Sharpness on single batches"
    sizes = sorted({int(r.measurement.batch_size) for r in study.all("sam_sharpness_spread")})  # pyright: ignore[reportAttributeAccessIssue]

    def find(model: str, mode: str, size: int) -> Record | None:
        return study.find("sam_sharpness_spread", model, mode, batch_size=size)

    rows = _rows(lambda model, mode: any(find(model, mode, size) for size in sizes))
    if not rows:
        return PaperFigure(name, title, "", "")
    found = [(row, size, r) for size in sizes for row in rows if (r := find(row.model, row.mode, size))]

    def picture(narrow: bool) -> Figure:
        with draw.house_style():
            figure, axes = _row_figure(rows, len(sizes), narrow)
            for ax, size in zip(axes.flat, sizes, strict=True):
                for row, its_size, record in found:
                    if size == its_size:
                        samples: Any = record.measurement
                        draw.draw_samples(ax, samples.samples, row.height, draw.MODEL_COLOURS[row.model])
                _mark_paper(ax, rows, "sam_sharpness")
                ax.set_title(f"single batches of {size}")
                ax.set_xlabel("S on one batch (nats)")
            right = max(ax.get_xlim()[1] for ax in axes.flat)
            for ax in axes.flat:
                ax.set_xlim(0, right)
            _finish_rows(figure, axes.flat[0], narrow)
            return figure

    caption = (
        "S by one step on one batch at a time: a dot a batch, the bar from 5 to 95 % of them, the tick "
        "their median. The paper’s values (dashed) may come from a single batch; where dots of A1 and B "
        "mix, one batch decides nothing."
    )
    words = [
        f"{row.label}, batches of {size}: mean {record.measurement.value:.3g}, from "
        f"{float(draw.numbers(record.measurement.samples).min()):.3g} to "  # pyright: ignore[reportAttributeAccessIssue]
        f"{float(draw.numbers(record.measurement.samples).max()):.3g}"  # pyright: ignore[reportAttributeAccessIssue]
        for row, size, record in found
    ]
    return PaperFigure(name, title, caption, f"{'; '.join(words)}.", picture)
