"""The figure of `benchmarks/barriers.py`: barriers by mode and alignment, and by width; a dot is a pair."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from barriers import ALIGNED, MODES, WHOLE, WIDTHS, Barriers, student

from thalweg.report import figures as draw

COLOURS = {"none": draw.BLUE, "weights": draw.GREEN, "activations": draw.PURPLE, "curve": draw.VERMILLION}
MARKERS = {"none": "o", "weights": "s", "activations": "^", "curve": "D"}


def draw_figure(bench: Barriers, path: Path) -> None:
    """Training examples on the left, width on the right, both splits."""
    with draw.house_style():
        figure, axes = draw.new_figure(1, 3, width=11.5, height=3.5, width_ratios=(1.5, 1, 1))
        _modes(axes[0, 0], bench)
        for ax, split in zip(axes[0, 1:], WHOLE, strict=True):
            _widths(ax, bench, split)
        ways = axes[0, 1].get_legend_handles_labels()
        figure.legend(*ways, loc="outside lower right", ncols=4)
    draw.save_figure(figure, path)


def _modes(axes: Any, bench: Barriers) -> None:
    places: Callable[[str], float] = {"none": -0.2, "weights": 0.0, "activations": 0.2}.__getitem__
    for i, mode in enumerate(MODES):
        for aligned in WHOLE["train"]:
            which = {"split": "train", "mode": mode, "path": "line", "aligned": aligned}
            label = ALIGNED[aligned] if i == 0 else None
            _mean(axes, i + places(aligned), bench.values(32, "barrier", **which), aligned, label)
    curves = bench.values(32, "barrier", split="train", mode="recalibrated", path="curve")
    _mean(axes, 1.4, curves, "curve", "curve, as they are")
    axes.set_xticks(range(len(MODES)), MODES)
    axes.set_xlim(-0.5, len(MODES) - 0.5)
    axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("batch norm")
    axes.set_ylabel("barrier (nats)")
    axes.set_title("Width 1, training examples")
    axes.legend()


def _widths(axes: Any, bench: Barriers, split: str) -> None:
    for aligned in ("none", "weights"):
        for mode, fill in (("recalibrated", COLOURS[aligned]), ("running", "white")):
            which = {"split": split, "mode": mode, "path": "line", "aligned": aligned}
            means = []
            for place, width in enumerate(WIDTHS):
                values = bench.values(width, "barrier", **which)
                means.append(statistics.fmean(values))
                _pairs(axes, place, values, aligned, fill)
            style = "-" if mode == "recalibrated" else ":"
            axes.plot(range(len(WIDTHS)), means, style, color=COLOURS[aligned])
            look = {"color": COLOURS[aligned], "markerfacecolor": fill, "markersize": 4.5}
            label = f"{ALIGNED[aligned]}, {mode}"
            axes.plot([], [], style, marker=MARKERS[aligned], label=label, **look)
    axes.set_xticks(range(len(WIDTHS)), list(WIDTHS.values()))
    axes.set_xlim(-0.3, len(WIDTHS) - 0.7)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("width of the hidden layers (1: the paper's)")
    axes.set_ylabel("barrier (nats)")
    axes.set_title("Width, training examples" if split == "train" else "Width, test examples")


def _mean(axes: Any, place: float, values: list[float], kind: str, label: str | None) -> None:
    """The pairs, their mean and Student's interval."""
    mean, half = statistics.fmean(values), student(values)
    axes.plot(
        [place] * 2, [max(0.0, mean - half), mean + half], color=COLOURS[kind], linewidth=2.2, alpha=0.5
    )
    axes.plot([place - 0.07, place + 0.07], [mean, mean], color=COLOURS[kind], linewidth=1.6, label=label)
    _pairs(axes, place, values, kind, COLOURS[kind])


def _pairs(axes: Any, place: float, values: list[float], kind: str, fill: str) -> None:
    style = {"color": COLOURS[kind], "markerfacecolor": fill, "markersize": 4.5, "linestyle": "none"}
    axes.plot([place] * len(values), values, MARKERS[kind], **style)
