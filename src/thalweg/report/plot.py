"""`thalweg.plot`: one picture of one result."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.core.measurement import Measurement
from thalweg.report import alignment_figures as alignment
from thalweg.report import audit_figures as audit
from thalweg.report import connectivity_figures as connectivity
from thalweg.report import curvature_figures as curvature
from thalweg.report import figures as draw
from thalweg.report import law_figures as law
from thalweg.report import monitor_figures as monitor
from thalweg.report import noise_figures as noise
from thalweg.report import order_figures as order
from thalweg.report import path_figures as paths
from thalweg.report import sharpness_figures as sharpness
from thalweg.report import step_figures as steps
from thalweg.report import surface_figures as surfaces
from thalweg.report import temperature_figures as temperature
from thalweg.report import topology_figures as topology
from thalweg.report.line_figures import line_figure
from thalweg.report.names import with_short_names
from thalweg.report.surface_html import HTML, MEASURES, write_surface_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Letters of the caption that fit an inch, and the height of a line of it, in inches.
CAPTION_LETTERS, CAPTION_LINE = 16, 0.15

# A page shows a plane as a square; sides that differ by no more than this part are one.
CUBE = 0.02


def plot(result: Measurement, path: str | Path | None = None) -> Figure:
    """Draw whatever a result has to see.

    Parameters
    ----------
    result
        A result with something to see: of ``train``, or of nearly every measure and analysis. The error for
        any other names those.
    path
        Where to write it as well; the suffix ``.png``, ``.svg`` or ``.pdf`` chooses the format. A plane or a
        volume can also be written to ``.html``, as a surface one can turn: one file that needs no network.

    Returns
    -------
    matplotlib.figure.Figure
        Free of pyplot's global state: it appears in no window and needs no closing.

    Raises
    ------
    TypeError
        If `result` is no result, or one that has nothing to see.
    ValueError
        If the suffix of `path` names no known format.
    ImportError
        If it is ``.html`` and Plotly is missing, naming the extra.
    """
    drawer = _DRAWERS.get(result.measure) if isinstance(result, Measurement) else None
    if drawer is None:
        raise TypeError(
            f"`result` must be a result that has something to see, got {type(result).__name__}; results of "
            f"{', '.join(pictured())} have."
        )
    drawn, full_names = with_short_names(result)
    suffix = "" if path is None else Path(path).suffix.lower()
    if suffix == HTML:
        write_surface_html(drawn, str(path), _caption(drawn, full_names, on_page=True), full_names)
    elif path is not None and suffix not in draw.FORMATS:
        raise ValueError(
            f"`path` must end in one of {', '.join(draw.FORMATS)}, got {str(path)!r}; .png suits most uses."
        )
    with draw.house_style():
        figure = drawer(drawn)
        width = int(CAPTION_LETTERS * figure.get_figwidth())
        entries = _caption(drawn, full_names)
        lines = [line for entry in entries for line in textwrap.wrap(entry, width)]
        figure.set_figheight(figure.get_figheight() + CAPTION_LINE * (len(lines) - 1))
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=8.5, color=draw.GREY)
    if path is not None and suffix != HTML:
        draw.save_figure(figure, path)
    return figure


def pictured() -> list[str]:
    """Names of the measures whose results have something to see."""
    return sorted(_DRAWERS)


def _caption(result: Any, full_names: Mapping[str, str], on_page: bool = False) -> list[str]:
    """What it is a picture of, and what else such a picture, or a surface on a page, must say."""
    notes: list[str] = [f"{name}: {full}" for name, full in full_names.items()]
    notes += getattr(result, "notes", ())
    if getattr(result, "trajectory", None) is not None:
        notes.append(surfaces.trajectory_key(result))
    surface = result.plane if result.measure == "mode_connectivity" else result
    if surface is not None and surface.measure in ("line_slice", *MEASURES):
        if surface is result and surface.num_points_saved and not on_page:
            notes.append("small dots: points that were evaluated")
        is_line = surface.measure == "line_slice"
        shown = "the line has gaps there, with crosses below" if is_line else "hatched around them"
        holes = "holes there" if on_page else shown
        notes.append(surfaces.holes_note(surface.losses, holes) if surface.losses is not None else "")
    if result.measure == "plane_slice":
        shape = surfaces.shape_of(result)
        if shape is None or (on_page and abs(shape - 1) > CUBE):
            notes.append("the two axes are not to one scale")
    tree = getattr(result, "topology", None) if result.measure == "mode_connectivity" else result
    if tree is not None and tree.measure == "persistence":
        notes += [topology.ceiling_note(tree), topology.walls_note(tree) if tree is result else ""]
    return [_subject(result), *filter(None, notes)]


def _subject(result: Measurement) -> str:
    """What it is a picture of: matrix, block, examples and batch-norm mode, as far as there are any."""
    arguments = result.provenance.get("arguments", {})
    num_examples = result.provenance.get("objective", {}).get("num_examples")
    block = arguments.get("params")
    parts = [
        str(arguments["of"]).replace("_", " ") if "of" in arguments else "",
        f"block {block if isinstance(block, str) else ', '.join(block)}" if block else "",
        "linf ball" if arguments.get("norm") == "linf" else "",
        f"scaled by {arguments['scaling']}" if arguments.get("scaling", "none") != "none" else "",
        f"N = {num_examples:,}" if num_examples else "",
        _mode(result),
    ]
    return ", ".join(part for part in parts if part)


def _mode(result: Any) -> str:
    """The batch-norm modes, in their order; a result of several says in its picture which is which."""
    modes = [mode for mode in dict.fromkeys(getattr(result, "modes", (result.batch_norm,))) if mode]
    if modes:
        return f"batch norm: {', '.join(modes)}"
    has_none = result.provenance.get("objective", {}).get("has_batch_norm") is False
    return "no batch norm" if has_none else ""


def _history(result: Any) -> Figure:
    figure, axes = draw.new_figure(1, 2, width=7.2, height=3)
    for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
        draw.draw_history(ax, result, quantity, draw.BLUE)
        ax.set_title(quantity.capitalize())
    draw.scale_loss_axis(axes[0, 0], result.train_loss, result.test_loss)
    axes[0, 0].legend()
    return figure


def _path(result: Any) -> Figure:
    quantities = draw.quantities_of(result)
    figure, axes = draw.new_figure(1, len(quantities), width=7.2 if len(quantities) > 1 else 4.6, height=3)
    for ax, quantity in zip(axes.flat, quantities, strict=True):
        draw.draw_path(ax, result, quantity, draw.BLUE)
        ax.set_title(quantity.capitalize())
    draw.scale_loss_axis(axes[0, 0], result.losses, headroom=draw.WORDS_ABOVE)
    return figure


def _curve(result: Any) -> Figure:
    was_trained, quantities = len(result.training_losses) > 0, draw.quantities_of(result)
    columns = len(quantities) + was_trained
    figure, axes = draw.new_figure(1, columns, width=3.5 * columns, height=3)
    for ax, quantity in zip(axes.flat, quantities, strict=False):
        draw.draw_path(ax, result, quantity, draw.BLUE)
        ax.set_xlabel("position t on the curve\n(a at 0, b at 1)")
    draw.scale_loss_axis(axes[0, 0], result.losses, headroom=draw.WORDS_ABOVE)
    bends = f"{result.num_bends} bend{'s' if result.num_bends > 1 else ''}"
    times = f"{result.arc_length / result.distance:.3g} × straight" if result.distance else "0"
    facts = {"loss": f"{result.kind}, {bends}", "accuracy": f"length {times}"}
    for ax, quantity in zip(axes.flat, quantities, strict=False):
        ax.set_title(f"{quantity.capitalize()} ({facts[quantity]})")
    if len(quantities) == 1:
        axes[0, 0].set_title(f"Loss ({result.kind}, {bends},\nlength {times})")
    if was_trained:
        paths.draw_curve_training(axes[0, -1], result, draw.BLUE)
        axes[0, -1].set_title("Training of the curve")
    return figure


def _instability(result: Any) -> Figure:
    has_classes = not bool(result.error_barriers.isnan().all())
    figure, axes = draw.new_figure(1, 1 + has_classes, width=8.4 if has_classes else 4.6, height=3.2)
    paths.draw_instability(axes[0, 0], result, "barriers")
    axes[0, 0].set_title("Loss (band: 95 % over the seeds)")
    if has_classes:
        paths.draw_instability(axes[0, 1], result, "error_barriers")
        axes[0, 1].set_title("Error rate")
    axes[0, 0].legend()
    return figure


def _seeds(result: Any) -> Figure:
    num_seeds = len(result.values)
    figure, axes = draw.new_figure(1, 1, width=5, height=1.4 + 0.2 * num_seeds)
    paths.draw_seeds(axes[0, 0], result, draw.BLUE)
    return figure


def _spread(result: Any) -> Figure:
    figure, axes = draw.new_figure(1, 1, width=6, height=2.2)
    ax = axes[0, 0]
    draw.draw_samples(ax, result.samples, 0.0, draw.BLUE)
    ax.axvline(result.value, color=draw.INK, linewidth=0.9, linestyle=":", label=f"mean {result.value:.4g}")
    unit = draw.unit_of_loss(result)
    ax.set_xlabel(f"rise in loss within {result.radius:g}{unit}, one dot a batch of {result.batch_size}")
    ax.set_yticks([])
    ax.set_ylim(-0.6, 0.6)
    ax.legend()
    return figure


def _traces(result: Any) -> Figure:
    height = max(2.4, 1.2 + 0.18 * len(result.layers))
    figure, axes = draw.new_figure(1, 1, width=4.8, height=height)
    curvature.draw_layer_traces(axes[0, 0], result, draw.BLUE)
    half = result.error.half_width(0.95)
    axes[0, 0].set_title(f"trace {result.value:.4g}" + (f" ± {half:.2g} (95 %)" if half else ""))
    return figure


def _density(result: Any) -> Figure:
    figure, axes = draw.new_figure(1, 1, width=6, height=3.2)
    curvature.draw_density(axes[0, 0], result, draw.BLUE)
    return figure


def _blocks(result: Any) -> Figure:
    side = 2.6 + 0.22 * len(result.blocks)
    figure, axes = draw.new_figure(1, 1, width=side + 1.2, height=side)
    curvature.draw_block_norms(figure, axes[0, 0], result)
    axes[0, 0].set_title(f"{100 * result.value:.3g} % of ||H||² off the diagonal")
    return figure


def _profile(result: Any) -> Figure:
    height = max(3.2, 1.2 + 0.18 * len(result.layers))
    figure, axes = draw.new_figure(1, 3, width=11.5, height=height, width_ratios=(1.6, 1, 1))
    curvature.draw_density(axes[0, 0], result.density, draw.BLUE)
    bounds = (result.lambda_min_lower, result.lambda_max_upper)
    for bound in bounds:
        axes[0, 0].axvline(bound, color=draw.VERMILLION, linewidth=0.9, linestyle="--")
    axes[0, 0].plot([], [], "--", color=draw.VERMILLION, linewidth=0.9, label="bounds on the ends")
    axes[0, 0].legend()
    curvature.draw_log_det(axes[0, 1], result.density, draw.BLUE)
    curvature.draw_layer_traces(axes[0, 2], result, draw.BLUE)
    for ax, title in zip(axes.flat, ("Spectral density", "Log determinant", "Trace by layer"), strict=True):
        ax.set_title(title)
    return figure


def _audit(result: Any) -> Figure:
    width, height = 1.8 + 1.45 * len(result.transformations), 1.3 + 0.3 * len(result.members)
    figure, axes = draw.new_figure(1, 1, width=max(width, 6.2), height=height)
    audit.draw_audit(axes[0, 0], result)
    return figure


def _single(drawer: Callable[..., None]) -> Callable[[Any], Figure]:
    def picture(result: Any) -> Figure:
        figure, axes = draw.new_figure(1, 1, width=4.2, height=3)
        drawer(axes[0, 0], result, draw.BLUE)
        return figure

    return picture


_DRAWERS: dict[str, Callable[[Any], Figure]] = {
    "train": _history,
    "line_slice": line_figure,
    "plane_slice": surfaces.plane_figure,
    "volume_slice": surfaces.volume_figure,
    "linear_path": _path,
    "bezier_path": _curve,
    "align_permutation": lambda result: alignment.alignment_figure(result, draw.BLUE),
    "sam_sharpness": _single(draw.draw_restarts),
    "sam_sharpness_spread": _spread,
    "keskar_sharpness": _single(
        lambda axes, result, colour: draw.draw_restarts(
            axes, result, colour, f"rise in the box of {result.epsilon:g} (% of 1 + loss)"
        )
    ),
    "average_sharpness": _single(sharpness.draw_average),
    "pac_bayes_sigma": _single(sharpness.draw_sigma),
    "basin_width": _single(sharpness.draw_widths),
    "critical_sharpness": _single(sharpness.draw_critical),
    "top_eigenvalues": _single(draw.draw_eigenvalues),
    "hessian_trace": _traces,
    "spectral_density": _density,
    "block_curvature": _blocks,
    "curvature_profile": _profile,
    "persistence": topology.persistence_figure,
    "gradient_noise": noise.noise_figure,
    "gradient_predictiveness": steps.predictiveness_figure,
    "largest_stable_learning_rate": _single(steps.draw_stable_rate),
    "sgd_temperature": temperature.temperature_figure,
    "stationary_law": law.stationary_figure,
    "basin_mass": _single(law.draw_basin_mass),
    "local_learning_coefficient": law.learning_figure,
    "temperature_scaling": temperature.scaling_figure,
    "invariance_audit": _audit,
    "compare": order.comparison_figure,
    "contrast": order.contrast_figure,
    "instability": _instability,
    "mode_connectivity": connectivity.connectivity_figure,
    "monitor": monitor.monitor_figure,
    "seed_spread": _seeds,
}
