"""Drawing curved paths, their training, and instability, on Matplotlib axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.report import figures as draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (draw.BLUE, draw.VERMILLION, draw.GREEN)
MARKERS = ("o", "s", "^")

# So many dots still stand apart.
FEW_STEPS = 300


def draw_curve_training(axes: Axes, result: Any, colour: str) -> None:
    """Mini-batch losses against the step, and their running mean over a twentieth of the steps."""
    losses = draw.numbers(result.training_losses)
    steps = np.arange(1, len(losses) + 1)
    few = len(steps) <= FEW_STEPS
    axes.plot(
        steps,
        losses,
        ".",
        color=colour,
        alpha=0.6 if few else 0.25,
        markersize=4 if few else 2.5,
        markeredgewidth=0,
        label="one step",
    )
    width = max(1, len(losses) // 20)
    means = np.convolve(losses, np.full(width, 1 / width), "valid")
    axes.plot(steps[width - 1 :], means, color=colour, label=f"mean of {width} steps")
    axes.set_xlabel("training step")
    axes.set_ylabel("mini-batch loss on the curve")
    draw.scale_loss_axis(axes, losses)
    axes.legend(loc="upper right")  # losses fall; looking for the best place takes long with so many dots


def draw_instability(axes: Axes, result: Any, quantity: str) -> None:
    """``"barriers"`` or ``"error_barriers"`` against the branch step: each seed, means, 95 % band."""
    steps = draw.numbers(result.branch_steps)
    table = draw.numbers(getattr(result, quantity))  # (M, S, K)
    lows, highs = (draw.numbers(end) for end in result.band(0.95, quantity))
    for m, mode in enumerate(result.modes):
        style: dict[str, Any] = {"color": COLOURS[m % len(COLOURS)], "marker": MARKERS[m % len(MARKERS)]}
        if np.isfinite(lows[m]).all():
            axes.fill_between(steps, lows[m], highs[m], color=style["color"], alpha=0.16, linewidth=0)
        for row in table[m]:
            axes.plot(steps, row, linestyle="none", alpha=0.35, markersize=2.5, markeredgewidth=0, **style)
        label = f"batch norm: {mode}" if mode else f"mean of {table.shape[1]} seeds"
        axes.plot(steps, table[m].mean(0), markersize=4, label=label, **style)
    axes.axhline(0, color=draw.GREY, linewidth=0.8)
    positive = steps[steps > 0]
    if len(positive) > 1 and positive.max() > draw.LOG_RATIO * positive.min():
        # Early steps matter most and lie close together; nought has its place too.
        axes.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.5)
        axes.set_xlim(steps.min() - 0.2 * positive.min(), 1.15 * positive.max())
        axes.set_xticks(steps, [f"{step:g}" for step in steps])
        axes.minorticks_off()
        axes.tick_params(axis="x", labelrotation=45)
    axes.set_xlabel(f"step at which the runs part (of {result.num_steps:,})")
    axes.set_ylabel(
        f"barrier ({result.split} loss)" if quantity == "barriers" else f"barrier ({result.split} error rate)"
    )


def draw_seeds(axes: Axes, result: Any, colour: str) -> None:
    """A row for each seed's value, and one for the mean with its 95 % interval."""
    values = draw.numbers(result.values)
    rows = np.arange(len(values), 0, -1)
    axes.plot(values, rows, "o", color=colour, markersize=4.5)
    low, high = result.interval(0.95)
    draw.draw_interval(axes, result.value, low, high, 0, draw.INK, marker="D")
    axes.set_yticks([*rows.tolist(), 0], [*(f"seed {i + 1}" for i in range(len(values))), "mean, 95 %"])
    axes.set_ylim(-0.6, len(values) + 0.6)
    what = "barrier" if hasattr(result.results[0], "barrier") else "value"
    axes.set_xlabel(f"{what} of {result.repeated}")
