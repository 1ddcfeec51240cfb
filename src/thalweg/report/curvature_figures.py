"""Drawers of spectral densities, blocks and profiles of the curvature, on Matplotlib axes."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thalweg.linalg.estimate import Estimate
from thalweg.report.figures import FAINT, GREY, INK, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNIT = "loss / parameter²"

# What is drawn around a number, and why nothing is.
BAND, NO_BAND = "95 % interval over probes", "one probe: no interval"


def draw_density(axes: Axes, result: Any, colour: str) -> None:
    """Smoothed density on a logarithmic scale, with a band of its 95 % interval over the probes.

    A rug marks the nodes: what the smoothing widens is seen there.
    """
    grid = result.grid()
    estimate = result.density_estimate(grid)
    x, y = numbers(grid), numbers(estimate.value)
    low, high = (numbers(end) for end in _by_probes(estimate).interval(0.95))
    low, high = (np.where(np.isfinite(end), end, y) for end in (low, high))
    # The height of a single eigenvalue: below it there is nothing but the Gaussian's own flanks.
    one = 1 / (result.dim * result.width * math.sqrt(2 * math.pi))
    floor = one / 30
    axes.axhline(one, color=GREY, linewidth=0.8, linestyle=":", label="one eigenvalue")
    axes.fill_between(
        x, np.maximum(low, floor / 10), np.maximum(high, floor / 10), color=colour, alpha=0.3, lw=0
    )
    axes.plot(
        x,
        np.maximum(y, floor / 10),
        color=colour,
        linewidth=1.2,
        label=f"density, {BAND if result.probe_weights.shape[0] > 1 else NO_BAND}",
    )
    axes.plot(
        numbers(result.nodes),
        np.full(len(result.nodes), 0.02),
        "|",
        color=INK,
        alpha=0.5,
        markersize=6,
        transform=axes.get_xaxis_transform(),
        label="nodes",
    )
    axes.set_yscale("log")
    axes.set_ylim(floor, 4 * float(y.max()))
    axes.set_xlabel(f"eigenvalue ({UNIT})")
    axes.set_ylabel(f"density, smoothed by {result.width:.2g}")
    axes.legend()


def draw_log_det(axes: Axes, density: Any, colour: str) -> None:
    """log det(H + damping I) / P against the damping, from just above what it must exceed."""
    from matplotlib.ticker import NullFormatter

    scale = max(abs(density.lambda_max), abs(density.lambda_min)) or 1.0
    least = max(0.0, -density.lambda_min)
    damping = torch.logspace(-4, 1, 61, dtype=torch.float64) * scale + least
    estimate = density.log_det(damping)
    y = numbers(estimate.value) / density.dim
    low, high = (numbers(end) / density.dim for end in estimate.interval(0.95))
    known = np.isfinite(low) & np.isfinite(high)
    axes.fill_between(numbers(damping), low, high, where=known, color=colour, alpha=0.3, linewidth=0)
    axes.plot(numbers(damping), y, color=colour)
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"damping ({UNIT})")
    axes.set_ylabel("log det(H + damping I) / P")


def draw_layer_traces(axes: Axes, result: Any, colour: str) -> None:
    """One bar a layer, first on top, with its 95 % interval over the probes."""
    traces, high = numbers(result.layer_traces), numbers(result.layer_trace_estimate.interval(0.95)[1])
    known = np.isfinite(high)
    errors = np.where(known, high - traces, 0.0)
    rows = np.arange(len(traces))
    axes.barh(
        rows,
        traces,
        xerr=errors,
        color=colour,
        alpha=0.6,
        ecolor=INK,
        error_kw={"linewidth": 0.9},
        height=0.7,
    )
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(rows, result.layers)
    axes.invert_yaxis()
    axes.set_xlabel(f"trace, {BAND if known.all() else NO_BAND}\n({UNIT})")
    axes.set_ylabel("layer")


def draw_block_norms(figure: Figure, axes: Axes, result: Any) -> None:
    """||H_ij||_F as shades of one colour, on a logarithmic scale."""
    from matplotlib.colors import LogNorm

    norms = numbers(result.block_norms)
    positive = norms[norms > 0]
    scale = LogNorm(positive.min(), positive.max()) if positive.size else None
    axes.set_facecolor(FAINT)  # a nought, which no logarithm shows
    image = axes.imshow(np.where(norms > 0, norms, np.nan), norm=scale, cmap="cividis")
    ticks = np.arange(len(result.blocks))
    axes.set_xticks(ticks, result.blocks, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, result.blocks)
    axes.set_xlabel("block")
    axes.set_ylabel("block")
    axes.grid(visible=False)
    if positive.size:
        figure.colorbar(image, ax=axes, label=f"Frobenius norm ({UNIT})")


def _by_probes(estimate: Estimate) -> Estimate:
    """Without what the steps may have left: of a density that is a matter of resolution."""
    return dataclasses.replace(estimate, solver=torch.zeros_like(estimate.solver))
