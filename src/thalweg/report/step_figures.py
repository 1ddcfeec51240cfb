"""Pictures of what a step along the gradient does, and of which steps training bears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thalweg.core.measurement import StandardError
from thalweg.report.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PURPLE,
    VERMILLION,
    new_figure,
    numbers,
    plain_ticks,
    scale_loss_axis,
    unit_of_loss,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One for each order of the data; further ones begin anew.
ORDERS = (BLUE, GREEN, PURPLE, VERMILLION)

# Rates over fewer than these are marked at 2 and 5 as well.
FEW_DECADES = 2


def predictiveness_figure(result: Any) -> Figure:
    """Loss, change of the gradient, and that by the distance gone, against the step."""
    figure, axes = new_figure(1, 3, width=10.4, height=3.1)
    draw_predictiveness(axes[0], result, BLUE)
    axes[0, 0].legend()
    return figure


def draw_predictiveness(axes: Any, result: Any, colour: str, label: str = "") -> None:
    """On three axes: the mean over the batches with its 95 % interval, and within what all of them lie."""
    unit = unit_of_loss(result)
    panels = (
        ("Loss", f"loss after the step{unit}", result.losses),
        ("Gradient predictiveness", "change of the gradient", result.gradient_changes),
        ("Effective smoothness", "change / distance", result.gradient_changes / result.distances),
    )
    for ax, (title, words, rows) in zip(axes, panels, strict=True):
        _draw_rows(ax, result.learning_rates, rows, colour, label)
        ax.set_title(title)
        ax.set_xlabel("step along the gradient, η")
        ax.set_ylabel(words)
    start = float(result.center_losses.mean())
    axes[0].axhline(start, color=colour, linewidth=0.9, linestyle=":", label=f"{label or 'loss'} before it")


def _draw_rows(axes: Axes, rates: Any, rows: torch.Tensor, colour: str, label: str) -> None:
    x, mean = numbers(rates), numbers(rows.mean(0))
    axes.plot(x, mean, "o-", color=colour, markersize=3.5, linewidth=1.2, label=label or "mean")
    K = len(rows)
    if K > 1:
        errors = numbers(rows.std(0)) / K**0.5
        half = np.array([StandardError(float(e), K - 1).half_width(0.95) for e in errors])
        words = "" if label else "95 %"
        axes.fill_between(
            x, mean - half, mean + half, color=colour, alpha=0.35, linewidth=0, label=words or None
        )
        low, high = numbers(rows.amin(0)), numbers(rows.amax(0))
        words = "" if label else f"all {K} batches"
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0, label=words or None)
    axes.set_ylim(bottom=0)


def draw_stable_rate(axes: Axes, result: Any, colour: str) -> None:
    """What each run ended at against its rate, a cross at the top where it diverged, and the brackets."""
    losses = numbers(result.trial_losses)
    ended = np.isfinite(losses)
    top = 1.15 * max(result.start_loss, losses[ended].max(initial=0.0))
    for order in range(len(result.stable)):
        own = numbers(result.trial_orders) == order
        rates = numbers(result.trial_rates)
        place = np.argsort(rates[own])
        at, found = rates[own][place], losses[own][place]
        shade = ORDERS[order % len(ORDERS)]
        axes.plot(at, found, "o-", color=shade, markersize=3.5, linewidth=0.8, alpha=0.8)
        gone = ~np.isfinite(found)
        axes.plot(at[gone], np.full(gone.sum(), top), "x", color=shade, markersize=6)
    axes.plot([], [], "o-", color=GREY, markersize=3.5, linewidth=0.8, label="one order of the data")
    if not ended.all():
        axes.plot([], [], "x", color=GREY, markersize=6, label="diverged")
    low, high = result.interval(0.95)
    axes.axvspan(low, high, color=colour, alpha=0.12, linewidth=0, label="95 %")
    axes.axvline(result.value, color=INK, linewidth=0.9, linestyle=":", label=f"{result.value:.3g}")
    axes.axhline(result.level, color=GREY, linewidth=0.9, linestyle="--", label="to be reached")
    axes.set_xscale("log")
    decades = np.ptp(np.log10(numbers(result.trial_rates)))
    plain_ticks(axes.xaxis, (1.0, 2.0, 5.0) if decades < FEW_DECADES else (1.0,))
    axes.set_xlim(numbers(result.trial_rates).min() / 1.2, 1.4 * numbers(result.trial_rates).max())
    scale_loss_axis(axes, losses[ended], result.start_loss, result.level, top)
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"loss at the end{unit_of_loss(result)}")
    axes.legend()
