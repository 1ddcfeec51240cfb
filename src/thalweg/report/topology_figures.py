"""Pictures of a slice's shape: its persistence diagram, and the tree in which its minima join."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.core.rounding import at_most
from thalweg.report.figures import (
    BLUE,
    FAINT,
    GREY,
    INK,
    LOG_RATIO,
    PURPLE,
    VERMILLION,
    new_figure,
    numbers,
    scale_loss_axis,
    unit_of_loss,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour and marker of each dimension: told apart without colours, too.
KINDS = (("component", BLUE, "o"), ("loop", VERMILLION, "s"), ("void", PURPLE, "^"))

# Branches that a tree shows; the shortest-lived beyond are left out, and counted.
MOST_BRANCHES = 25


def persistence_figure(result: Any) -> Figure:
    """The diagram of all features, beside the merge tree of the components."""
    figure, (axes,) = new_figure(1, 2, width=9.6, height=4.2)
    draw_persistence_diagram(axes[0], result)
    draw_merge_tree(axes[1], result)
    axes[0].set_title("Persistence diagram of the slice")
    axes[1].set_title("Merge tree of its minima")
    return figure


def draw_persistence_diagram(axes: Axes, result: Any) -> None:
    """Death against birth; filled if significant. Shaded: what noise, and noise and grid, may have made."""
    dimensions, births, deaths = (numbers(x) for x in (result.dimensions, result.births, result.deaths))
    significant = numbers(result.is_significant) > 0
    never = np.isinf(deaths)
    low = float(births.min())
    high = float(max(births.max(), deaths[~never].max(initial=low)))
    is_log = low > 0 and high > LOG_RATIO * low

    def beyond(share: float) -> float:  # so far above the highest, in shares of the axis
        if is_log:
            return high * (high / low) ** share
        return high + share * ((high - low) or 1.0)

    # What never dies is drawn on a line of its own, above all heights.
    line, end = beyond(0.14), beyond(0.24)
    start = low * (high / low) ** -0.06 if is_log else low - (beyond(0.06) - high)
    diagonal = np.geomspace(start, end, 200) if is_log else np.linspace(start, end, 200)
    noise, margin = 2 * result.noise_band, 2 * result.margin
    both = "noise and grid" if noise else "grid (losses exact)"
    for width, colour, name in (
        (margin, FAINT, f"within 2 × {at_most(result.margin, 2)}: {both}"),
        (noise, GREY, f"within 2 × {at_most(result.noise_band, 2)}: noise ({100 * result.level:g} %)"),
    ):
        if width > 0:
            top = np.minimum(diagonal + width, end)
            axes.fill_between(diagonal, diagonal, top, color=colour, alpha=0.45, linewidth=0, label=name)
    axes.plot(diagonal, diagonal, color=GREY, linewidth=0.8)
    axes.axhline(line, color=GREY, linewidth=0.8, linestyle="--")
    axes.annotate(
        "never dies",
        xy=(0.6, line),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=GREY,
    )
    if result.ceiling is not None:
        axes.axhline(
            result.ceiling, color=INK, linewidth=0.8, linestyle=":", label=f"ceiling {result.ceiling:g}"
        )
    heights = np.where(never, line, deaths)
    for k, (name, colour, marker) in enumerate(KINDS[: result.birth_points.shape[1]]):
        for chosen, fill, what in ((significant, colour, "significant"), (~significant, "white", "other")):
            shown = chosen & (dimensions == k)
            if shown.any():
                axes.plot(
                    births[shown],
                    heights[shown],
                    marker,
                    color=colour,
                    markerfacecolor=fill,
                    markersize=5.5,
                    label=f"{shown.sum()} {what} {name}{'s' if shown.sum() > 1 else ''}",
                )
    if is_log:
        from matplotlib.ticker import LogLocator

        scale_loss_axis(axes, [low, high])
        axes.set_xscale("log")
        # Numbers lie side by side here, and fewer have room.
        subs = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
        axes.xaxis.set_minor_formatter(axes.yaxis.get_minor_formatter())
    axes.set_xlim(start, end)
    axes.set_ylim(start, end)
    axes.set_xlabel(f"birth: loss at a minimum, or where a loop closes{unit_of_loss(result)}")
    axes.set_ylabel(f"death on the slice{unit_of_loss(result)}:\nan upper bound in the full space")
    axes.legend(loc="lower right")


def draw_merge_tree(axes: Axes, result: Any) -> None:
    """Each minimum a branch, from its loss up to the saddle at which it joins another."""
    tree = result.merge_tree
    parents, significant = tree.parents.tolist(), numbers(result.is_significant) > 0
    births, deaths = numbers(tree.minimum_heights), numbers(tree.saddle_upper_bounds)
    # Parents come before their children, so that whatever is left out takes its own children along.
    count = min(len(parents), MOST_BRANCHES)
    ends = deaths[:count][np.isfinite(deaths[:count])]
    low, high = float(births[:count].min()), float(max([*ends, births[:count].max()]))
    scale_loss_axis(axes, births[:count], ends)
    is_log = axes.get_yscale() == "log"
    top = high * (high / low) ** 0.08 if is_log else high + 0.08 * ((high - low) or abs(high) or 1.0)
    points = numbers(tree.minimum_points)
    points = np.where(np.abs(points) > 1e-9 * np.abs(points).max(), points, 0.0)  # nought, but for rounding
    places = _places(parents[:count], deaths[:count])
    names = []
    for i in range(count):
        colour = BLUE if significant[i] else GREY
        joins = parents[i] >= 0
        end = deaths[i] if joins else top
        axes.plot([places[i]] * 2, [births[i], end], color=colour, linewidth=2.0 if significant[i] else 1.0)
        if joins:
            axes.plot([places[i], places[parents[i]]], [end, end], color=colour, linewidth=1.0)
            if significant[i]:
                axes.annotate(
                    f"≤ {at_most(deaths[i], 3)}",
                    xy=((places[i] + places[parents[i]]) / 2, end),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=INK,
                )
        else:
            axes.plot([places[i]], [end], "^", color=colour, markersize=6)
        fill = colour if significant[i] else "white"
        axes.plot([places[i]], [births[i]], "o", color=colour, markerfacecolor=fill, markersize=5)
        if significant[i] or count <= 6:
            names.append((places[i], ", ".join(f"{x:.2g}" for x in points[i])))
    scale_loss_axis(axes, births[:count], ends)  # again, now that all is drawn
    axes.plot([], [], "o-", color=BLUE, label="significant")
    if not significant[:count].all():
        axes.plot(
            [], [], "o-", color=GREY, markerfacecolor="white", linewidth=1, label="may be noise or grid"
        )
    if count < len(parents):
        axes.plot([], [], " ", label=f"{len(parents) - count} shorter-lived left out")
    axes.set_xticks([place for place, _ in names], [f"({name})".replace("-", "−") for _, name in names])
    axes.set_xlim(-0.6, count - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("minimum, at these coordinates")
    axes.set_ylabel(f"loss{unit_of_loss(result)}; each saddle an upper bound")
    axes.legend(loc="best")


def _places(parents: list[int], deaths: np.ndarray) -> list[int]:
    """Places from left to right: no branch crosses another's line on its way to the one it joins."""
    children: list[list[int]] = [[] for _ in parents]
    for i, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(i)
    order: list[int] = []

    def place(i: int) -> None:
        order.append(i)
        # Whoever joins first stands nearest, with all that joined it before.
        for child in sorted(children[i], key=lambda c: (deaths[c], c)):
            place(child)

    for i, parent in enumerate(parents):
        if parent < 0:
            place(i)
    return np.argsort(order).tolist()
