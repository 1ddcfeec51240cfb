"""Pictures of SGD's temperature: measured beside predicted, the run behind it, and a grid of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.report.figures import BLUE, FAINT, GREEN, GREY, INK, PURPLE, VERMILLION, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {"stationary": "o", "not stationary": "x", "too short": "+"}
# A ratio of temperatures from which on the smaller are no more than marks at the bottom of an even scale.
WIDE = 30

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, GREY)


def temperature_figure(result: Any) -> Figure:
    """Temperature by curvature, the loss along the run, the position along the first and last direction.

    A study keeps no long series unless asked to: those of the run are then not drawn.
    """
    panels = [(f"Temperature ({result.outcome})", draw_temperatures)]
    if result.losses is not None and result.loss_steps is not None:
        panels.append((f"Loss ({result.excess_outcome})", draw_losses))
        if result.positions is not None:
            panels.append(("Position, in standard deviations", draw_positions))
    figure, axes = new_figure(1, len(panels), width=3.6 * len(panels), height=3.2)
    for ax, (title, draw) in zip(axes.flat, panels, strict=True):
        draw(ax, result)
        ax.set_title(title)
    return figure


def draw_temperatures(axes: Axes, result: Any) -> None:
    """Measured, with 95 % intervals, on top of both predictions."""
    h, predicted = numbers(result.eigenvalues), numbers(result.predicted)
    axes.plot(
        h, numbers(result.continuous), "_", color=GREY, markersize=12, label="lr c / (2 B (1 − momentum))"
    )
    finite = np.isfinite(predicted)
    axes.plot(h[finite], predicted[finite], "_", color=INK, markersize=12, label="exact for a quadratic")
    if result.diverged_at is None:
        T = numbers(result.temperatures)
        low, high = (numbers(end) for end in result.temperature_intervals(0.95))
        axes.errorbar(
            h, T, yerr=[T - low, high - T], fmt="o", color=BLUE, markersize=4, label="the run, 95 %"
        )
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.set_ylabel("temperature (unit of the loss)")
    shown = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    if shown.min() > 0 and shown.max() > WIDE * shown.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend()


def draw_losses(axes: Axes, result: Any) -> None:
    """Loss over all the data, burn-in and all, with its mean, and the mean that was predicted."""
    steps, losses = numbers(result.loss_steps), numbers(result.losses)
    axes.axvspan(0, result.burn_in, color=FAINT, linewidth=0, label="burn-in")
    axes.plot(steps, losses, color=BLUE, linewidth=0.7)
    if np.isfinite(result.loss_center):
        axes.axhline(
            result.loss_center, color=INK, linewidth=0.9, linestyle=":", label="at the mean position"
        )
        mean = result.loss_center + result.excess_loss
        axes.axhline(mean, color=BLUE, linewidth=1.2, label=f"mean excess {result.excess_loss:.3g}")
        low, high = (result.loss_center + e for e in (result.excess_low, result.excess_high))
        if np.isfinite(high):
            axes.axhspan(low, high, color=VERMILLION, alpha=0.25, linewidth=1, label="predicted")
    axes.set_xlabel("step")
    axes.set_ylabel("loss over all the data")
    axes.legend()


def draw_positions(axes: Axes, result: Any) -> None:
    """Along the sharpest and the flattest of the directions, about the mean, the one above the other."""
    steps, x = numbers(result.loss_steps), numbers(result.positions)
    last = x.shape[1] - 1
    axes.axvspan(0, result.burn_in, color=FAINT, linewidth=0)
    counted = x[steps > result.burn_in] if result.diverged_at is None else x
    for place, (i, colour) in enumerate({0: BLUE, last: VERMILLION}.items()):
        spread = counted[:, i].std() if len(counted) > 1 else 0.0
        height = (x[:, i] - counted[:, i].mean()) / spread if spread > 0 else np.zeros(len(x))
        axes.plot(
            steps, height - 8 * place, color=colour, linewidth=0.7, label=f"eigenvector {i + 1}, {spread:.3g}"
        )
    axes.set_xlabel("step")
    axes.set_yticks([])
    axes.set_ylabel("along eigenvectors")
    axes.legend()


def scaling_figure(result: Any) -> Figure:
    """Temperatures against lr / B with the fitted law, and over that of short steps."""
    figure, axes = new_figure(1, 2, width=7.6, height=3.4)
    draw_scaling(axes[0, 0], result)
    law = "T ∝ (lr / B)^" if result.fits else "No power law: mean slope "
    axes[0, 0].set_title(f"{law}{result.value:.3g}")
    draw_departures(axes[0, 1], result)
    axes[0, 1].set_title("Measured / law of short steps")
    return figure


def draw_scaling(axes: Axes, result: Any) -> None:
    """One colour a batch size; runs that are not stationary have other marks, those that diverged a tick."""
    ratios, T = numbers(result.ratios), numbers(result.temperatures)
    ends = np.array([run.interval(0.95) for run in result.runs]).reshape(*T.shape, 2)
    for j, size in enumerate(result.batch_sizes.tolist()):
        colour = COLOURS[j % len(COLOURS)]
        axes.plot([], [], "o", color=colour, markersize=4, label=f"B = {size}")
        for i, row in enumerate(result.outcomes):
            if row[j] in MARKS:
                reach = np.abs(ends[i, j] - T[i, j])[:, None]
                axes.errorbar(
                    ratios[i, j], T[i, j], yerr=reach, fmt=MARKS[row[j]], color=colour, markersize=4
                )
            else:
                axes.plot(ratios[i, j], 0.02, "|", color=colour, transform=axes.get_xaxis_transform())
    if np.isfinite(result.value):
        # Of the stationary runs alone.
        used = ratios[np.array(result.outcomes) == "stationary"]
        whole = np.array([used.min(), used.max()])
        fitted = np.exp(result.log_factor) * whole**result.value
        axes.plot(whole, fitted, "-", color=INK, linewidth=0.9, label="fitted")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("lr / B")
    axes.set_ylabel("temperature (unit of the loss)")
    axes.legend()


def draw_departures(axes: Axes, result: Any) -> None:
    """Against the largest curvature times the rate, which says how short a step is; the exact law beside."""
    steep = numbers(result.lrs) * float(result.runs[0].eigenvalues[0])
    for j in range(len(result.batch_sizes)):
        colour = COLOURS[j % len(COLOURS)]
        runs = result.runs[j :: len(result.batch_sizes)]
        short = numbers(result.continuous[:, j])
        ratio = numbers(result.temperatures[:, j]) / short
        low, high = (
            np.array(ends) / short for ends in zip(*(run.interval(0.95) for run in runs), strict=True)
        )
        for i, run in enumerate(runs):
            if run.outcome in MARKS:
                reach = [[ratio[i] - low[i]], [high[i] - ratio[i]]]
                mark = MARKS[run.outcome]
                axes.errorbar(steep[i], ratio[i], yerr=reach, fmt=mark, color=colour, markersize=4)
        exact = numbers(result.predicted[:, j] / result.continuous[:, j])
        finite = np.isfinite(exact)
        axes.plot(steep[finite], exact[finite], ":", color=colour, linewidth=1)
    axes.axhline(1, color=INK, linewidth=0.9)
    near = f"within {100 * result.tolerance:.3g} %"
    axes.axhspan(1 - result.tolerance, 1 + result.tolerance, color=FAINT, linewidth=0, zorder=0, label=near)
    axes.plot([], [], ":", color=INK, linewidth=1, label="exact for a quadratic")
    # What is no temperature has a mark of its own, here as on the left.
    for outcome, mark in MARKS.items():
        if any(run.outcome == outcome for run in result.runs):
            axes.plot([], [], mark, color=GREY, markersize=4, label=outcome)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("lr × largest eigenvalue")
    axes.set_ylabel("ratio of temperatures")
    axes.legend(loc="upper left")
