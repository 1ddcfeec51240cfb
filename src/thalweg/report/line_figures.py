"""Pictures of lines through one network: a mean over random directions, or each direction by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thalweg.report import figures as draw
from thalweg.report.names import shortened
from thalweg.report.surface_figures import UNITS, axis_label, note_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (draw.BLUE, draw.VERMILLION, draw.GREEN, draw.PURPLE)
DASHES = ("-", "--", "-.", ":")

# Letters of a direction's name that a legend has room for.
MOST_LETTERS = 36


def line_figure(result: Any) -> Figure:
    """Loss and, where there are classes, accuracy along the directions."""
    quantities = draw.quantities_of(result)
    apart = are_told_apart(result)
    rows = -(-result.num_directions // len(quantities)) if apart else 0
    width = 7.2 if len(quantities) > 1 else 4.6
    figure, axes = draw.new_figure(1, len(quantities), width=width, height=3 + 0.2 * rows)
    for ax, quantity in zip(axes.flat, quantities, strict=True):
        if apart:
            draw_directions(ax, result, quantity)
        else:
            draw.draw_slice(ax, result, quantity, draw.BLUE)
        ax.set_xlabel(line_label(result))
        ax.set_title(quantity.capitalize())
        ax.locator_params(axis="x", nbins=6)
        note_errors(ax, result, quantity, " (mean)" if apart else "")
    draw.scale_loss_axis(axes[0, 0], result.losses_by_direction)
    if apart:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(quantities))
    elif result.num_directions > 1:
        axes[0, 0].legend(loc="upper center")
    return figure


def are_told_apart(result: Any) -> bool:
    """Whether the directions are more than several draws of one random kind."""
    facts = result.provenance.get("directions", {}).get("directions", ())
    kinds = {(fact["normalisation"], fact["ignore"]) for fact in facts}
    is_random = all(name.startswith("random") for name in result.direction_names)
    return result.num_directions > 1 and (len(kinds) > 1 or not is_random)


def draw_directions(axes: Axes, result: Any, quantity: str) -> None:
    """A line for each direction, with its name and its length."""
    alphas, evaluated = draw.numbers(result.alphas), draw.numbers(result.evaluated).astype(bool)
    heights = draw.numbers(
        result.losses_by_direction if quantity == "loss" else result.accuracies_by_direction
    )
    lengths = draw.numbers(result.direction_norms)
    for j, name in enumerate(shortened(result.direction_names, MOST_LETTERS)):
        style: dict[str, Any] = {
            "color": COLOURS[j % len(COLOURS)],
            # As many dashes again, once the colours are used up.
            "linestyle": DASHES[(j + j // len(COLOURS)) % len(DASHES)],
        }
        axes.plot(alphas, heights[j], label=f"{name} (length {lengths[j]:.3g})", **style)
        if result.num_points_saved:
            axes.plot(alphas[evaluated], heights[j][evaluated], ".", color=style["color"], markersize=4)
    axes.set_ylabel(draw.quantity_label(result, quantity))


def line_label(result: Any) -> str:
    """The directions of a line slice, and what one unit along them is."""
    if result.num_directions == 1:
        return axis_label(result, 0, "\n")
    if are_told_apart(result):
        return "step along each direction\n(1 = its length)"
    unit = UNITS.get(result.normalisation, "each direction's own length")
    return f"step along random directions\n(1 = {unit})"
