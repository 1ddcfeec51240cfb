"""Pictures of wells and what chains show of them, of basins' masses, and of learning coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.report.figures import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    LOG_RATIO,
    PURPLE,
    VERMILLION,
    new_figure,
    numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, GREY)
LAWS = {
    "gibbs": ("Gibbs, quadrature", "_", INK),
    "basin_mass": ("basin mass", "x", VERMILLION),
    "as_density": ("formula as a density", "+", PURPLE),
    "multiplicative": ("noise that changes", "d", GREEN),
    "kramers": ("Kramers", "x", VERMILLION),
    "first_passage": ("first passage, exact", "_", INK),
}
# Temperatures above the lowest minimum that the picture of the wells reaches.
SHOWN = 8.0


def stationary_figure(result: Any) -> Figure:
    """The wells, occupancies and escape times beside the laws, and occupancies along the run."""
    figure, axes = new_figure(1, 4, width=13.2, height=3.2, width_ratios=(1.2, 1, 1, 1))
    draw_wells(axes[0, 0], result)
    axes[0, 0].set_title("Loss")
    draw_occupancies(axes[0, 1], result)
    axes[0, 1].set_title(f"Occupancy ({result.outcome})")
    draw_escapes(axes[0, 2], result)
    axes[0, 2].set_title("Mean escape time")
    draw_run(axes[0, 3], result)
    axes[0, 3].set_title("Occupancy along the run")
    return figure


def draw_wells(axes: Axes, result: Any) -> None:
    """The loss over its one parameter, or its lines of height over two; the minima, numbered."""
    points, losses, regions = (numbers(x) for x in (result.grid_points, result.grid_losses, result.regions))
    minima, lowest = numbers(result.minima), float(losses.min())
    top = lowest + SHOWN * result.temperature
    if points.shape[1] == 1:
        x = points[:, 0]
        for i in range(len(minima)):
            part = np.where((regions == i) & (losses <= top), losses, np.nan)
            axes.plot(x, part, color=COLOURS[i % len(COLOURS)])
        shown = x[losses <= top]
        axes.set_xlim(shown.min(), shown.max())
        axes.set_ylabel("loss")
        places = np.stack([minima[:, 0], numbers(result.heights)], 1)
        axes.axhline(lowest + result.temperature, color=GREY, linewidth=0.8, linestyle=":", label="T above")
        axes.legend(loc="upper center")
    else:
        xs, ys = (np.unique(points[:, k]) for k in (0, 1))
        height = np.minimum(losses, top).reshape(len(xs), len(ys)).T
        axes.contourf(xs, ys, height, levels=12, cmap="Blues_r")
        within = points[losses <= top]
        axes.set_xlim(within[:, 0].min(), within[:, 0].max())
        axes.set_ylim(within[:, 1].min(), within[:, 1].max())
        axes.set_ylabel("second parameter")
        places = minima
    ink = INK if points.shape[1] == 1 else "white"
    for i, place in enumerate(places):
        axes.plot(*place, "o", color=COLOURS[i % len(COLOURS)], markeredgecolor="white", markersize=6)
        axes.annotate(
            f"{i + 1}", place, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8, color=ink
        )
    axes.set_xlabel("parameter" if points.shape[1] == 1 else "first parameter")


def draw_occupancies(axes: Axes, result: Any) -> None:
    """Measured with 95 % intervals, and what each law says."""
    shares = numbers(result.occupancies)
    low, high = (numbers(end) for end in result.occupancy_intervals(0.95))
    _beside(axes, result, shares, (shares - low, high - shares), result.predictions, result.predicted)
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel("share of time")
    axes.legend(loc="lower left")


def draw_escapes(axes: Axes, result: Any) -> None:
    """The same of mean times out of each well."""
    times = numbers(result.escape_times)
    low, high = (numbers(end) for end in result.escape_intervals(0.95))
    _beside(axes, result, times, (times - low, high - times), result.time_predictions, result.predicted_times)
    shown = np.concatenate([times, *numbers(result.predicted_times)])
    shown = shown[np.isfinite(shown)]
    if len(shown) and shown.max() > LOG_RATIO * shown.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("time")
    axes.legend(loc="upper right")


def _beside(
    axes: Axes, result: Any, y: np.ndarray, ends: tuple[np.ndarray, np.ndarray], names: Any, predicted: Any
) -> None:
    place = np.arange(len(y))
    known = np.isfinite(y)
    reach = np.where(np.isfinite(ends), ends, 0.0)
    axes.errorbar(
        place[known] - 0.12,
        y[known],
        yerr=reach[:, known],
        fmt="o",
        color=BLUE,
        markersize=4,
        label="chains, 95 %",
    )
    for name, row in zip(names, numbers(predicted), strict=True):
        label, mark, colour = LAWS[name]
        if np.isfinite(row).all():
            axes.plot(place + 0.12, row, mark, color=colour, markersize=8, label=label)
    labels = [f"well {i + 1}\ndet H {d:.3g}" for i, d in enumerate(numbers(result.determinants))]
    axes.set_xticks(place, labels)
    axes.set_xlim(-0.6, len(y) - 0.4)


def draw_run(axes: Axes, result: Any) -> None:
    """Mean over the chains, block by block of the steps that count."""
    blocks = numbers(result.block_occupancies)
    steps = result.burn_in + result.num_steps * (np.arange(len(blocks)) + 0.5) / len(blocks)
    for i in range(blocks.shape[1]):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(steps, blocks[:, i], color=colour, label=f"well {i + 1}")
        for name, style in (("gibbs", "--"), ("multiplicative", ":")):
            axes.axhline(float(result.prediction(name)[i]), color=colour, linewidth=0.9, linestyle=style)
    axes.set_ylim(-0.04, 1.04)
    known = np.isfinite(numbers(result.prediction("multiplicative"))).all()
    axes.set_xlabel(f"step (dashed: Gibbs{', dotted: noise that changes' if known else ''})")
    axes.set_ylabel("share of chains")
    axes.legend(loc="center right")


def draw_basin_mass(axes: Axes, result: Any, colour: str) -> None:
    """Free energy against the damping, with the headline marked."""
    d, estimate = numbers(result.dampings), result.free_energy()
    y, (low, high) = numbers(estimate.value), (numbers(end) for end in estimate.interval(0.95))
    known = np.isfinite(low) & np.isfinite(high)
    reach = np.where(known, [y - low, high - y], 0.0)
    axes.errorbar(d, y, yerr=reach, fmt="o-", color=colour, markersize=4, label="free energy, 95 %")
    axes.plot(
        [result.damping], [result.value], "o", color=INK, markersize=7, fillstyle="none", label="headline"
    )
    axes.axhline(result.loss, color=GREY, linewidth=0.9, linestyle=":", label="loss alone")
    axes.set_xscale("log")
    axes.set_xlabel("damping (loss / parameter²)")
    axes.set_ylabel("L + (T/2) log det(H + damping)")
    axes.legend(loc="lower right")


def learning_figure(result: Any) -> Figure:
    """The rise of the loss along the chains, and the estimate by each of them."""
    figure, axes = new_figure(1, 2, width=7.6, height=3.2)
    draw_rises(axes[0, 0], result)
    axes[0, 0].set_title(f"Rise of the loss ({result.outcome})")
    draw_chains(axes[0, 1], result)
    axes[0, 1].set_title("Estimate by each chain")
    return figure


def draw_rises(axes: Axes, result: Any) -> None:
    """Each chain's running mean over a thirtieth of the run, as a coefficient, and the mean of all."""
    rises = numbers(result.rises)
    n = len(rises)
    width = max(1, n // 30)
    scale = result.inverse_temperature * result.provenance["objective"]["num_examples"]
    kernel = np.full(width, 1 / width)
    for c in range(rises.shape[1]):
        smooth = np.convolve(scale * rises[:, c], kernel, mode="valid")
        axes.plot(np.arange(len(smooth)) + width / 2, smooth, color=COLOURS[c % len(COLOURS)], linewidth=0.8)
    if np.isfinite(result.value):
        low, high = result.interval(0.95)
        axes.axhspan(low, high, color=FAINT, linewidth=0)
        axes.axhline(result.value, color=INK, linewidth=1, label=f"mean {result.value:.4g}, 95 %")
        axes.legend(loc="upper right")
    axes.set_xlabel("step after the burn-in")
    axes.set_ylabel("nβ (loss − loss at the point)")


def draw_chains(axes: Axes, result: Any) -> None:
    """One point a chain with two standard errors."""
    y, half = numbers(result.chain_values), 2 * numbers(result.chain_errors)
    known = np.isfinite(y)
    place = np.arange(1, len(y) + 1)
    axes.errorbar(place[known], y[known], yerr=half[known], fmt="o", color=BLUE, markersize=4)
    if np.isfinite(result.value):
        axes.axhline(result.value, color=INK, linewidth=1)
    axes.set_xticks(place)
    axes.set_xlabel("chain (two standard errors)")
    axes.set_ylabel("learning coefficient")
