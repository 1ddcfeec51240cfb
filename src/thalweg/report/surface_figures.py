"""Pictures of surfaces: filled contours of a plane, the planes through the centre of a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.core.rounding import at_most
from thalweg.report.figures import (
    FAINT,
    GREY,
    INK,
    LOG_RATIO,
    VERMILLION,
    new_figure,
    numbers,
    quantities_of,
    quantity_label,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import ContourSet
    from matplotlib.figure import Figure

# Even in lightness, and told apart with any common colour blindness.
COLOURS = {"loss": "viridis", "accuracy": "cividis"}
NUM_LEVELS = 14

# Cosine from which the picture, whose axes are at right angles, says that the directions are not.
OBLIQUE = 1e-3

# Digits of a number beside a colour that have room.
MOST_DIGITS = 9

# Areas of a trajectory's markers, in square points: on the plane, and farthest off it.
MARKER_AREAS = (9, 70)

# What a step of one is as long as, by its normalisation.
UNITS = {"filter": "each filter's own norm", "layer": "each layer's own norm", "global": "the weights' norm"}


def plane_figure(result: Any) -> Figure:
    """Contours of loss and, where there are classes, of accuracy."""
    quantities = quantities_of(result)
    figure, axes = new_figure(1, len(quantities), width=4.3 * len(quantities), height=3.7)
    x, y = numbers(result.alphas), numbers(result.betas)
    for ax, quantity in zip(axes.flat, quantities, strict=True):
        heights = numbers(result.losses if quantity == "loss" else result.accuracies)
        drawn = draw_contours(ax, x, y, heights, quantity)
        if drawn is not None:
            colour_bar(figure, ax, drawn, quantity_label(result, quantity))
        draw_evaluated(ax, x, y, numbers(result.evaluated).astype(bool))
        if result.trajectory is not None:
            draw_trajectory(ax, *seen_from(result, 0, 1))
        mark_networks(ax, result, 0, 1)
        mark_centre(ax)
        name_axes(ax, result, 0, 1)
        ax.set_title(quantity.capitalize())
        note_errors(ax, result, quantity)
    return figure


def volume_figure(result: Any) -> Figure:
    """Contours of the loss on the three coordinate planes through the centre."""
    figure, axes = new_figure(1, 3, width=12, height=3.7)
    grid = [numbers(axis) for axis in (result.alphas, result.betas, result.gammas)]
    losses = numbers(result.losses)
    levels = contour_levels(losses)
    drawn = None
    for ax, (i, j, k) in zip(axes.flat, ((0, 1, 2), (0, 2, 1), (1, 2, 0)), strict=True):
        section = losses.take(losses.shape[k] // 2, axis=k)
        drawn = draw_contours(ax, grid[i], grid[j], section, "loss", levels) or drawn
        if result.trajectory is not None:
            draw_trajectory(ax, *seen_from(result, i, j))
        mark_networks(ax, result, i, j)
        mark_centre(ax)
        name_axes(ax, result, i, j)
        ax.set_title(f"Directions {i} and {j}")
    if drawn is not None:
        colour_bar(figure, axes[0, -1], drawn, quantity_label(result, "loss"))
    return figure


def draw_contours(
    axes: Axes, x: np.ndarray, y: np.ndarray, heights: np.ndarray, quantity: str, levels: Any = None
) -> ContourSet | None:
    """Filled contours of heights ``(len(x), len(y))``; points that are NaN stay blank, hatched."""
    finite = heights[np.isfinite(heights)]
    axes.grid(False)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    if finite.size < heights.size:
        axes.patch.set(hatch="////", edgecolor=FAINT, facecolor="white")
    if not finite.size or finite.min() == finite.max():
        value = f"{finite[0]:.6g} everywhere" if finite.size else "not finite anywhere"
        axes.text(0.5, 0.4, value, transform=axes.transAxes, ha="center", fontsize=8, color=INK)
        return None
    from matplotlib.colors import BoundaryNorm

    levels = contour_levels(finite, quantity) if levels is None else levels
    norm = BoundaryNorm(levels, 256)
    data = np.ma.masked_invalid(heights.T)
    filled = axes.contourf(x, y, data, levels=levels, cmap=COLOURS[quantity], norm=norm)
    axes.contour(x, y, data, levels=levels, colors=INK, linewidths=0.35, alpha=0.5)
    return filled


def holes_note(losses: Any, shown: str = "hatched around them") -> str:
    """How many points of a surface or a line have no finite loss, and how that is shown; nothing if none."""
    values = numbers(losses)
    missing = values.size - int(np.isfinite(values).sum())
    if not missing:
        return ""
    have = "has" if missing == 1 else "have"
    return f"{missing:,} of {values.size:,} points {have} no finite loss: {shown}"


def contour_levels(values: np.ndarray, quantity: str = "loss") -> np.ndarray:
    """Ascending levels that hold all finite values: even, or in equal ratios where losses span a decade.

    Those of accuracies are even and stay within 0 and 1.
    """
    from matplotlib.ticker import MaxNLocator

    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if quantity == "accuracy":
        levels = MaxNLocator(NUM_LEVELS, min_n_ticks=5).tick_values(low, high)
        return np.unique(np.round(np.clip(levels, 0, 1), 12))
    if low > 0 and high > LOG_RATIO * low:
        steps = _round_ratios(low, high)
        return np.unique(np.concatenate([steps[steps < low][-1:], steps[(steps >= low)]]))
    return np.asarray(MaxNLocator(NUM_LEVELS, min_n_ticks=5).tick_values(low, high))


def colour_bar(figure: Figure, axes: Axes, drawn: ContourSet, label: str) -> None:
    """The scale of the contours, with every level that can be read."""
    ticks, words = ticks_apart(np.asarray(drawn.levels))
    bar = figure.colorbar(drawn, ax=axes, ticks=ticks, spacing="uniform")
    bar.ax.set_yticklabels(words)
    bar.ax.minorticks_off()
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]


def ticks_apart(values: np.ndarray, most: int = 14) -> tuple[np.ndarray, list[str]]:
    """At most so many of ascending values, each with as many digits as tell it from its neighbours."""
    ticks = values[:: max(1, -(-len(values) // most))]
    while True:
        words = [f"{v:.{MOST_DIGITS}g}" for v in ticks]
        for digits in range(3, MOST_DIGITS):
            shorter = [f"{v:.{digits}g}" for v in ticks]
            wrong = np.abs(np.array(shorter, dtype=float) - ticks).max(initial=0.0)
            if wrong <= 0.1 * np.diff(ticks).min(initial=np.inf):
                words = shorter
                break
        if len(set(words)) == len(words):
            return ticks, words
        ticks = ticks[::2]  # rounding of the numbers themselves


def draw_evaluated(axes: Axes, x: np.ndarray, y: np.ndarray, evaluated: np.ndarray) -> None:
    """Dots where a grid that is interpolated between was evaluated."""
    if evaluated.all():
        return
    i, j = np.nonzero(evaluated)
    axes.plot(x[i], y[j], ".", color="white", markersize=2.2, markeredgewidth=0.25, markeredgecolor=INK)


def seen_from(result: Any, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """The trajectory from the plane of two directions: coordinates ``(T, 2)``, distances off it ``(T,)``."""
    seen = result.trajectory
    coordinates, off = numbers(seen.coordinates), numbers(seen.residual_norms)
    shown, rest = [i, j], [k for k in range(coordinates.shape[1]) if k not in (i, j)]
    if not rest:
        return coordinates, off
    # Of what leads out of the plane along the others, the part within it moves the nearest point along.
    lengths = numbers(result.direction_norms)
    gram = numbers(result.direction_cosines) * np.outer(lengths, lengths)
    within = np.linalg.solve(gram[np.ix_(shown, shown)], gram[np.ix_(shown, rest)])
    beyond = gram[np.ix_(rest, rest)] - gram[np.ix_(rest, shown)] @ within
    outside = coordinates[:, rest]
    squares = np.einsum("tk,kl,tl->t", outside, beyond, outside)
    return coordinates[:, shown] + outside @ within.T, np.sqrt(off**2 + squares.clip(0))


def draw_trajectory(axes: Axes, coordinates: np.ndarray, off: np.ndarray) -> None:
    """The projected points in their order, each the larger the farther off the plane it really is."""
    least, most = MARKER_AREAS
    x, y = coordinates.T
    axes.plot(x, y, color=INK, linewidth=1.8, alpha=0.6, zorder=3)
    axes.plot(x, y, color="white", linewidth=0.9, zorder=3)
    areas = least + (most - least) * off / (off.max() or 1.0)
    axes.scatter(x, y, s=areas, color="white", edgecolor=INK, linewidth=0.6, zorder=4)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    if left <= x[0] <= right and bottom <= y[0] <= top:
        label_point(axes, x[0], y[0], "start")


def trajectory_key(result: Any) -> str:
    """How to read the trajectory in the picture, and what the picture leaves out."""
    coordinates, off = numbers(result.trajectory.coordinates), numbers(result.trajectory.residual_norms)
    text = "dots: its points projected"
    if off.max():
        text += f", the larger the farther off they lie, up to {at_most(float(off.max()), 3)}"
    ends = np.array([numbers(axis)[-1] for axis in result.axes])
    outside = int((np.abs(coordinates) > ends).any(1).sum())
    return f"{text}; {outside} of {len(off)} outside the picture" if outside else text


def mark_networks(axes: Axes, result: Any, i: int, j: int) -> None:
    """Squares at the networks that the directions lead to, as far as they are in the picture."""
    for direction, x, y in ((i, 1.0, 0.0), (j, 0.0, 1.0)):
        if leads_to_network(result, direction) and x <= axes.get_xlim()[1] and y <= axes.get_ylim()[1]:
            axes.plot(
                [x], [y], "s", color="white", markersize=6, markeredgecolor=INK, zorder=5, clip_on=False
            )
            label_point(axes, x, y, result.direction_names[direction].removeprefix("to "))


def label_point(axes: Axes, x: float, y: float, text: str) -> None:
    """Words beside a point, on the side that has room for them, legible on any colour."""
    from matplotlib.patheffects import withStroke

    right, high = x > 0, y > 0
    axes.annotate(
        text,
        (x, y),
        xytext=(-6 if right else 6, -6 if high else 6),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if high else "bottom",
        fontsize=7.5,
        color="white",
        path_effects=[withStroke(linewidth=1.8, foreground=INK)],
        zorder=6,
    )


def leads_to_network(result: Any, direction: int) -> bool:
    """Whether a step of one along the direction arrives at a network given."""
    facts = result.provenance.get("directions", {}).get("directions", ())
    fact = facts[direction] if direction < len(facts) else {}
    return (fact.get("kind"), fact.get("normalisation"), fact.get("ignore")) == ("network", "none", "none")


def mark_centre(axes: Axes) -> None:
    """A cross where the network itself lies."""
    axes.plot([0], [0], "+", color="white", markersize=11, markeredgewidth=3)
    axes.plot([0], [0], "+", color=VERMILLION, markersize=10, markeredgewidth=1.6)


def name_axes(axes: Axes, result: Any, i: int, j: int) -> None:
    """Say which directions run along them."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(axis_label(result, i, "\n"))
    axes.set_ylabel(axis_label(result, j, "\n"))
    # Long numbers have room for few.
    axes.xaxis.set_major_locator(MaxNLocator(5 if axes.get_xlim()[1] > 0.05 else 3))


def axis_label(result: Any, direction: int, gap: str = " ") -> str:
    """Name of a direction, and what one unit along it is."""
    name, norm = result.direction_names[direction], float(result.direction_norms[direction])
    facts = result.provenance.get("directions", {}).get("directions", ())
    scaled = facts[direction]["normalisation"] if direction < len(facts) else "none"
    if leads_to_network(result, direction):
        meaning = f"1 = there, {norm:.3g} away"
    else:
        unit = f"{UNITS[scaled]}, a distance of" if scaled in UNITS else "a distance of"
        meaning = f"1 = {unit} {norm:.3g}"
    cosine = float(result.direction_cosines[0, direction]) if direction else 0.0
    slant = f"{gap}cosine {cosine:.2g} with the first" if abs(cosine) > OBLIQUE else ""
    return f"step {'' if name.startswith('to ') else 'along '}{name}{gap}({meaning}){slant}"


def note_errors(axes: Axes, result: Any, quantity: str, of: str = "") -> None:
    """Say the largest standard error, if there is any, and of what if not of all that is drawn."""
    errors = result.loss_standard_errors if quantity == "loss" else result.accuracy_standard_errors
    largest = 0.0 if errors is None else np.nanmax(numbers(errors), initial=0.0)
    if largest:
        text = f"s.e.{of} at most {largest:.2g}"
        axes.set_title(text, loc="right", fontsize=7.5, weight="normal", color=GREY)


def _round_ratios(low: float, high: float) -> np.ndarray:
    """Levels of 1, 2, 5 and so on in each decade, more of them where few decades are spanned."""
    first, last = np.floor(np.log10(low)), np.ceil(np.log10(high))
    span = np.log10(high / low)
    many = [1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8] if span <= 1.5 else [1, 1.5, 2, 3, 5, 7]
    many = many if span <= 3 else [1, 2, 5] if span <= 6 else [1]
    steps = np.array([m * 10.0**e for e in np.arange(first, last + 1) for m in many])
    above = np.flatnonzero(steps >= high)[0]
    return steps[: above + 1]
