"""Pictures of what perturbations of the parameters do to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.report.figures import GREY, INK, VERMILLION, draw_interval, draw_samples, numbers, unit_of_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_average(axes: Axes, result: Any, colour: str) -> None:
    """The mean rise with its interval, above one dot for each pair of perturbations."""
    low, high = result.interval(0.95)
    draw_samples(axes, result.samples, 0.0, colour)
    draw_interval(axes, result.value, low, min(high, _far(result.samples)), 0.6, INK, label="mean, 95 %")
    axes.set_xlabel(
        f"rise in loss under noise of length {result.radius:g}{unit_of_loss(result)}, one dot a pair"
    )
    axes.set_yticks([])
    axes.set_ylim(-0.6, 1.0)
    axes.legend()


def draw_sigma(axes: Axes, result: Any, colour: str) -> None:
    """The mean rise against sigma, the target, and where it is reached."""
    _draw_search(axes, result.sigmas, result.mean_rises, result.target_rise, result.value, colour)
    low, high = result.interval(0.95)
    axes.axvspan(max(low, 0.0), high, color=colour, alpha=0.15, linewidth=0, label="95 %")
    axes.set_xlabel("sigma" if result.scaling == "none" else f"sigma, in units of the {result.scaling}")
    axes.set_ylabel(f"mean rise in loss{unit_of_loss(result)}")
    axes.legend()


def draw_critical(axes: Axes, result: Any, colour: str) -> None:
    """The rise against the step, with the tangent at the centre, and the critical step."""
    steps, rises = numbers(result.steps), numbers(result.rises)
    shown = np.isfinite(rises) & (steps <= 3 * result.critical_step)
    _draw_search(axes, steps[shown], rises[shown], 0.0, result.critical_step, colour)
    ends = np.array([0.0, result.critical_step / 2])
    axes.plot(ends, result.slope * ends, "--", color=GREY, linewidth=0.9, label="tangent")
    axes.set_xlabel("step, in multiples of the direction")
    axes.set_ylabel(f"rise in loss{unit_of_loss(result)}")
    axes.legend()


def draw_widths(axes: Axes, result: Any, colour: str) -> None:
    """Distance to the rise along each direction, both ways; an arrow where it lies beyond the scan."""
    row, names = 0, []
    for label, widths in (
        ("random", result.widths),
        ("eigenvector", result.eigenvector_widths),
        ("given", result.given_widths),
    ):
        for j, sides in enumerate(numbers(widths)):
            for side, sign in zip(sides, (1, -1), strict=True):
                beyond = not np.isfinite(side)
                at = sign * (result.max_distance if beyond else side)
                marker = (">" if sign > 0 else "<") if beyond else "o"
                axes.plot([0, at], [row, row], color=colour, linewidth=0.8, alpha=0.5)
                axes.plot([at], [row], marker, color=VERMILLION if beyond else colour, markersize=4)
            names.append(f"{label} {j + 1}")
            row += 1
    for sign in (1, -1):
        mean = f"mean {result.value:.3g}" if sign > 0 else None
        axes.axvline(sign * result.value, color=INK, linewidth=0.9, linestyle=":", label=mean)
    axes.set_yticks(range(row), names)
    axes.set_xlabel(f"distance to a rise of {result.loss_rise:g}{unit_of_loss(result)}")
    axes.set_ylabel("direction")
    axes.invert_yaxis()
    axes.legend()


def _draw_search(axes: Axes, at: Any, rises: Any, level: float, found: float, colour: str) -> None:
    """What a search tried, the level it sought, and where it found it."""
    axes.plot(numbers(at), numbers(rises), "o-", color=colour, markersize=3.5, linewidth=0.8, label="tried")
    axes.axhline(level, color=GREY, linewidth=0.9)
    axes.axvline(found, color=INK, linewidth=0.9, linestyle=":", label=f"{found:.4g}")


def _far(samples: Any) -> float:
    """An end for intervals that have none, twice as far as the largest sample."""
    return 2 * float(np.nanmax(numbers(samples)))
