"""Pictures of the gradient noise: its spectrum beside the curvature's, its size along that, its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.core.measurement import StandardError
from thalweg.report.figures import BLUE, GREEN, GREY, INK, VERMILLION, new_figure, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"hessian": "Hessian", "ggn": "GGN"}
COLOURS = {"hessian": VERMILLION, "ggn": GREEN}

# Excess kurtosis that no distribution is below; of a mean of B draws it is a B-th of theirs.
LEAST_KURTOSIS = -2.0


def noise_figure(result: Any) -> Figure:
    """Spectra, Rayleigh quotients against eigenvalues, and kurtosis along the eigenvectors of C."""
    if not len(result.eigenvalues):
        raise ValueError(
            "`result` must hold directions to be drawn, but this noise was measured with k=0, or is nought; "
            "pass k=5."
        )
    curvatures = [c for c in (result.hessian, result.ggn) if c is not None]
    panels = 2 + bool(curvatures)
    figure, axes = new_figure(1, panels, width=3.6 * panels, height=3.2)
    draw_spectra(axes[0, 0], result, curvatures)
    axes[0, 0].set_title("Spectra")
    draw_kurtosis(axes[0, -1], result, BLUE)
    axes[0, -1].set_title("Gaussian?")
    if curvatures:
        draw_proportion(axes[0, 1], result, curvatures)
        axes[0, 1].set_title("Is C in proportion?")
    return figure


def half_widths(errors: Any, dof: int) -> np.ndarray:
    """Half the 95 % intervals of standard errors ``(k,)``."""
    return np.array([StandardError(float(e), dof).half_width(0.95) for e in errors])


def _bars(values: np.ndarray, halves: np.ndarray, least: float) -> np.ndarray:
    """Error bars ``(2, k)`` that end where a value cannot go further down."""
    return np.stack([np.clip(values - least, 0.0, halves), halves])


def draw_spectra(axes: Axes, result: Any, curvatures: list[Any]) -> None:
    """Eigenvalues by rank, each matrix over its largest, so that their decay can be compared."""
    values = numbers(result.eigenvalues)
    ranks = np.arange(1, len(values) + 1)
    halves = half_widths(result.eigenvalue_errors, result.dof)
    axes.errorbar(
        ranks,
        values / values[0],
        yerr=_bars(values, halves, 0.0) / values[0],
        fmt="o-",
        linewidth=0.8,
        color=BLUE,
        markersize=4,
        label=f"C, largest {values[0]:.3g}",
    )
    for curvature in curvatures:
        lambdas = numbers(curvature.eigenvalues)
        axes.plot(
            ranks,
            lambdas / abs(lambdas[0]),
            "s--",
            color=COLOURS[curvature.of],
            linewidth=0.8,
            markersize=4,
            label=f"{NAMES[curvature.of]}, largest {lambdas[0]:.3g}",
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(ranks[:: max(1, len(ranks) // 10)])
    axes.set_xlabel("rank")
    axes.set_ylabel("eigenvalue / largest")
    axes.legend()


def draw_proportion(axes: Axes, result: Any, curvatures: list[Any]) -> None:
    """v'Cv against the eigenvalue, with the nearest multiple of each matrix: on the line if in proportion."""
    for curvature in curvatures:
        colour = COLOURS[curvature.of]
        x, y = numbers(curvature.eigenvalues), numbers(curvature.noise_along)
        axes.errorbar(
            x,
            y,
            yerr=_bars(y, half_widths(curvature.noise_along_errors, result.dof), 0.0),
            fmt="o",
            color=colour,
            markersize=4,
            label=f"{NAMES[curvature.of]}, cosine {curvature.value:.2f}",
        )
        # The multiple nearest to C: tr(A C) / ||A||^2.
        product, square, _ = numbers(curvature.samples).mean(0)
        ends = np.array([0.0, x.max()])
        axes.plot(ends, product / square * ends, ":", color=colour, linewidth=1)
    axes.plot([], [], ":", color=INK, linewidth=1, label="nearest multiple")
    axes.set_xlabel("eigenvalue of the curvature (loss / parameter²)")
    axes.set_ylabel("C along its eigenvector")
    axes.legend()


def draw_kurtosis(axes: Axes, result: Any, colour: str) -> None:
    """Excess kurtosis of a batch's noise along each eigenvector of C, with its 95 % interval."""
    kurtosis = numbers(result.kurtosis)
    known = np.isfinite(kurtosis)
    ranks = np.arange(1, len(kurtosis) + 1)
    halves = half_widths(result.kurtosis_errors[known], result.dof)
    draws = 1 if result.unit == "batch" else result.batch_size
    bars = _bars(kurtosis[known], halves, LEAST_KURTOSIS / draws)
    axes.errorbar(ranks[known], kurtosis[known], yerr=bars, fmt="o", color=colour, markersize=4)
    axes.axhline(0, color=INK, linewidth=0.9, linestyle=":", label="a Gaussian's")
    axes.set_xticks(ranks[:: max(1, len(ranks) // 10)])
    axes.set_xlim(0.5, len(ranks) + 0.5)
    axes.set_xlabel("eigenvector of C")
    axes.set_ylabel(f"excess kurtosis, batches of {result.batch_size}")
    axes.legend()
