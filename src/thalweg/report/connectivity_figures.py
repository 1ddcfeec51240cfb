"""Pictures of what lies between two minima: barriers, the ways, the plane through the networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.analyses.network_plane import CORNERS
from thalweg.report import figures as draw
from thalweg.report.surface_figures import COLOURS, colour_bar, contour_levels
from thalweg.report.topology_figures import draw_merge_tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each way by its colour, and by its dashes and its hatching for eyes that tell no colours.
STRAIGHT, ALIGNED, CURVE = draw.BLUE, draw.GREEN, draw.VERMILLION
DASHES = {STRAIGHT: "-", ALIGNED: "--", CURVE: "-."}
HATCHES = {STRAIGHT: "", ALIGNED: "///", CURVE: "..."}
NAMES = {STRAIGHT: "straight", ALIGNED: "straight, aligned", CURVE: "curve"}


def connectivity_figure(result: Any) -> Figure:
    """Barriers, the ways, and as far as they are there the plane and its merge tree."""
    pictures = [draw_barriers, draw_ways]
    if result.plane is not None and result.plane.losses is not None:
        pictures.append(draw_plane)
    if result.topology is not None:
        pictures.append(draw_topology)
    rows = math.ceil(len(pictures) / 2)
    figure, axes = draw.new_figure(rows, 2, width=9.4, height=3.7 * rows)
    for ax, picture in zip(axes.flat, pictures, strict=False):
        picture(ax, result)
    for ax in axes.flat[len(pictures) :]:
        ax.set_visible(False)
    return figure


def draw_barriers(axes: Axes, result: Any) -> None:
    """A bar for each way in each mode, with its interval."""
    bars = []
    for place, (mode, line, aligned) in enumerate(
        zip(result.modes, result.lines, result.aligned_lines, strict=True)
    ):
        curve = result.curve if mode == result.reference_mode else None
        for i, (colour, path) in enumerate(((STRAIGHT, line), (ALIGNED, aligned), (CURVE, curve))):
            if path is not None:
                low, high = path.interval(result.level)
                ends = (max(0.0, low), high) if math.isfinite(high) else (path.barrier,) * 2
                bars.append((place + 0.27 * (i - 1), colour, path.barrier, ends))
    highest = max((end for *_, (_, end) in bars), default=0.0)
    # Three digits of the highest, so that all can be compared at sight.
    decimals = max(0, 2 - math.floor(math.log10(highest))) if highest > 0 else 0
    for x, colour, barrier, (low, high) in bars:
        axes.bar(x, barrier, 0.25, color=colour, alpha=0.8, hatch=HATCHES[colour], edgecolor="white")
        if high > low:
            axes.plot([x, x], [low, high], color=draw.INK, linewidth=1)
        axes.annotate(
            f"{barrier:.{decimals}f}",
            (x, high),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=draw.INK,
        )
    for colour, name in NAMES.items():
        axes.bar(0, 0, 0, color=colour, alpha=0.8, hatch=HATCHES[colour], edgecolor="white", label=name)
    axes.set_xticks(range(len(result.modes)), [mode or "" for mode in result.modes])
    axes.set_xlim(-0.6, len(result.modes) - 0.4)
    axes.set_ylim(0, 1.12 * highest or 1.0)
    if result.reference_mode:
        axes.set_xlabel("batch norm")
    axes.set_ylabel(f"barrier, {100 * result.level:.4g} % interval")
    axes.grid(visible=False, axis="x")
    axes.set_title("Barriers")
    axes.legend()


def draw_ways(axes: Axes, result: Any) -> None:
    """Loss along the three in the reference mode, with two standard errors."""
    i = result.modes.index(result.reference_mode)
    ways = {STRAIGHT: result.lines[i], ALIGNED: result.aligned_lines[i], CURVE: result.curve}
    shown = {colour: path for colour, path in ways.items() if path is not None}
    for colour, path in shown.items():
        draw.draw_path(axes, path, "loss", colour, NAMES[colour], dashes=DASHES[colour], barrier=False)
    if shown:
        draw.scale_loss_axis(axes, *(path.losses for path in shown.values()))
        axes.legend()
    a, b = result.names
    axes.set_xlabel(f"share of the way from {a} to {b} (of the curve: its parameter)")
    axes.set_title(f"Ways{_mode(result)}")


def draw_plane(axes: Axes, result: Any) -> None:
    """Contours of the plane as it lies in parameter space, the networks and the ways between them."""
    from matplotlib.colors import BoundaryNorm

    plane = result.plane
    to_distance = in_distances(plane)
    steps = np.stack(np.meshgrid(draw.numbers(plane.alphas), draw.numbers(plane.betas), indexing="ij"), -1)
    x, y = np.moveaxis(to_distance(steps), -1, 0)
    losses = draw.numbers(plane.losses)
    finite = losses[np.isfinite(losses)]
    axes.grid(False)
    axes.set_aspect("equal")
    if finite.size < losses.size:
        edge = to_distance(steps)[[0, 0, -1, -1], [0, -1, -1, 0]]
        axes.fill(*edge.T, facecolor="white", edgecolor=draw.FAINT, hatch="////", linewidth=0)
    if finite.size and finite.min() < finite.max():
        levels = contour_levels(finite)
        norm = BoundaryNorm(levels, 256)
        data = np.ma.masked_invalid(losses)
        filled = axes.contourf(x, y, data, levels=levels, cmap=COLOURS["loss"], norm=norm)
        axes.contour(x, y, data, levels=levels, colors=draw.INK, linewidths=0.35, alpha=0.5)
        colour_bar(axes.get_figure(), axes, filled, draw.quantity_label(result, "loss"))  # type: ignore[arg-type]
    corners = to_distance(np.array(CORNERS))
    _draw_line(axes, corners[[0, 1]], STRAIGHT)
    if result.is_plane_of_aligned:
        _draw_line(axes, corners[[0, 2]], ALIGNED)
    if len(result.curve_coordinates):
        _draw_line(axes, to_distance(draw.numbers(result.curve_coordinates)), CURVE)
    for (px, py), name in zip(corners, result.plane_names, strict=True):
        axes.plot([px], [py], "o", color="white", markersize=7, markeredgecolor=draw.INK)
        axes.annotate(
            name,
            (px, py),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=draw.INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )
    axes.set_xlabel("distance in parameter space, along the line")
    axes.set_ylabel("across it")
    off = draw.numbers(result.curve_residuals).max(initial=0.0)
    is_off = off > 1e-3 * float(result.distances[0])
    axes.set_title(f"Plane{_mode(result)}")
    if is_off:
        axes.set_title(f"curve off it by up to {off:.3g}", loc="right", fontsize=7.5, weight="normal")


def draw_topology(axes: Axes, result: Any) -> None:
    """The merge tree of the plane."""
    draw_merge_tree(axes, result.topology)
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_title(f"Minima of the plane{_mode(result)}")


def in_distances(plane: Any) -> Any:
    """Turns steps along a plane's two directions ``(..., 2)`` into lengths of parameter space.

    The first network is the origin, the second lies on the axis to the right, the third above it.
    """
    norms, cosine = draw.numbers(plane.direction_norms), float(plane.direction_cosines[0, 1])
    sine = math.sqrt(max(0.0, 1 - cosine**2))
    basis = np.array([[norms[0], 0.0], [norms[1] * cosine, norms[1] * sine]])  # rows: a step of one
    corners = np.array(CORNERS) @ basis
    along = corners[1] - corners[0]
    along = along / np.linalg.norm(along)
    across = np.array([-along[1], along[0]])
    if (corners[2] - corners[0]) @ across < 0:
        across = -across
    return lambda steps: (steps @ basis - corners[0]) @ np.stack([along, across], 1)


def _draw_line(axes: Axes, points: np.ndarray, colour: str) -> None:
    axes.plot(*points.T, color="white", linewidth=2.6, alpha=0.8)
    axes.plot(*points.T, color=colour, linewidth=1.5, linestyle=DASHES[colour])


def _mode(result: Any) -> str:
    return f", batch norm {result.reference_mode}" if result.reference_mode else ""
