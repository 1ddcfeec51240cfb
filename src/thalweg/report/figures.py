"""Drawing on Matplotlib axes: the house style, a drawer for each kind of result, files that do not vary.

Only Matplotlib's object interface is used: no pyplot, no current figure, no lasting change to ``rcParams``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thalweg.core.atomic import replacing
from thalweg.core.rounding import at_most

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any common colour blindness tell apart.
BLUE, GREEN, VERMILLION, PURPLE = "#0072B2", "#009E73", "#D55E00", "#CC79A7"
INK, GREY, FAINT = "#222222", "#6b6b6b", "#d9d9d9"
MODEL_COLOURS = {"A1": BLUE, "A2": GREEN, "B": VERMILLION}

FORMATS = (".png", ".svg", ".pdf")

# A range of more than one decade is read on a logarithmic axis; of more than five, ticks at powers of ten.
LOG_RATIO, POWERS = 10.0, 1e5

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9e9e9",
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.dpi": 100,
    "savefig.dpi": 180,
    "svg.fonttype": "path",
    # Element names in an SVG are hashes; a fixed salt makes them the same in every run.
    "svg.hashsalt": "thalweg",
    "path.simplify": False,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's own defaults and this house's style, whatever the user set; that comes back afterwards."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def new_figure(
    rows: int, columns: int, *, width: float, height: float, **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `width` by `height` inches, with (rows, columns) axes. Use inside `house_style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def freeze_layout(figure: Figure) -> Figure:
    """Place everything once and for all; otherwise each file written lays the figure out anew."""
    with house_style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """The figure as the bytes of a ``.png``, ``.svg`` or ``.pdf`` file, the same for figures drawn alike.

    Raises
    ------
    ValueError
        If `suffix` is none of these.
    """
    # Dates and the program's name would differ between runs and versions, and carry outside addresses.
    metadata = {
        ".png": {"Software": None},
        ".svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
        ".pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    }
    if suffix.lower() not in metadata:
        raise ValueError(
            f"`path` must end in one of {', '.join(FORMATS)}, got {suffix!r}; .png suits most uses."
        )
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=suffix.lower()[1:], metadata=metadata[suffix.lower()])
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure in the format that the suffix of `path` names; see `figure_bytes`."""
    path = Path(path)
    content = figure_bytes(figure, path.suffix)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return path


def numbers(x: Any) -> np.ndarray:
    """A tensor or sequence as a float64 array."""
    return torch.as_tensor(x).detach().cpu().double().numpy()


# What an axis from nought leaves above the highest, also with a line of words there.
HEADROOM, WORDS_ABOVE = 1.06, 1.15

# A relief below this part of the height would be no thicker than the line on an axis from nought.
FLAT = 0.01

# With so few points their straight connections would pass for the function: each is marked.
FEW_POINTS = 15


def plain_ticks(axis: Any, subs: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """Numbers instead of powers at these multiples of each power of ten, on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_formatter(NullFormatter())


def scale_loss_axis(axes: Axes, *losses: Any, headroom: float = HEADROOM) -> None:
    """Logarithmic where positive losses span more than a decade, else linear from zero.

    Only a relief too flat to be seen from zero fills the axis, which says so.
    """
    flat = np.concatenate([numbers(loss).reshape(-1) for loss in losses])
    flat = flat[np.isfinite(flat)]
    if flat.size and flat.min() > 0 and flat.max() > LOG_RATIO * flat.min():
        axes.set_yscale("log")
        _, margin = axes.margins() or (0.0, 0.0)
        axes.set_ymargin(max(margin, headroom - 1))
        if flat.max() < POWERS * flat.min():
            plain_ticks(axes.yaxis)
    elif flat.size and 0 < np.ptp(flat) < FLAT * flat.min():
        axes.ticklabel_format(axis="y", useOffset=False)
        said = "; ".join(filter(None, (axes.get_title(loc="right"), "axis not from 0")))
        axes.set_title(said, loc="right", fontsize=7.5, weight="normal", color=GREY)
    elif flat.size and flat.min() >= 0:
        # A margin of the data's range alone would leave a high, flat curve at the very top.
        highest = max(float(flat.max()), float(axes.dataLim.y1))
        axes.set_ylim(bottom=0, top=headroom * highest if 0 < highest < np.inf else None)


def draw_history(axes: Axes, history: Any, quantity: str, colour: str, name: str = "") -> None:
    """Training (solid) and test (dashed) curve of ``"loss"`` or ``"accuracy"`` against the epoch."""
    from matplotlib.ticker import MaxNLocator

    prefix = f"{name}, " if name else ""
    for split, dashes, marker in (("train", "-", "o"), ("test", "--", "s")):
        axes.plot(
            numbers(history.epochs),
            numbers(getattr(history, f"{split}_{quantity}")),
            linestyle=dashes,
            marker=marker,
            markersize=3.5,
            markerfacecolor=colour if split == "train" else "white",
            color=colour,
            label=f"{prefix}{'training' if split == 'train' else 'test'}",
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(quantity_label(history, quantity))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def quantity_label(result: Any, quantity: str) -> str:
    """What an axis of ``"loss"`` or ``"accuracy"`` shows; of the loss its own name, as far as it is known."""
    if quantity == "accuracy":
        return "accuracy (share correct)"
    name = loss_of(result)
    # Of a function defined within another its own name; a lambda has none.
    own = "own" if "<lambda>" in name else name.rsplit(".", 1)[-1]
    meaning = {"cross_entropy": "mean cross-entropy, nats", "mse": "mean squared error"}.get(name, own)
    return f"loss ({meaning})" if meaning else "loss"


def unit_of_loss(result: Any) -> str:
    """`` (nats)`` where the loss is the cross-entropy; other losses have no unit known here."""
    return " (nats)" if loss_of(result) == "cross_entropy" else ""


def loss_of(result: Any) -> str:
    """The name of the loss in a result's provenance, or nothing."""
    return str(result.provenance.get("objective", {}).get("loss") or "")


def quantities_of(result: Any) -> tuple[str, ...]:
    """Loss, and accuracy where there are classes."""
    return ("loss", "accuracy") if np.isfinite(numbers(result.accuracies)).any() else ("loss",)


def draw_slice(axes: Axes, result: Any, quantity: str, colour: str, name: str = "") -> None:
    """Mean over directions, band from the lowest to the highest direction, two data standard errors."""
    alphas = numbers(result.alphas)
    mean = numbers(result.losses if quantity == "loss" else result.accuracies)
    each = numbers(getattr(result, f"{'losses' if quantity == 'loss' else 'accuracies'}_by_direction"))
    if len(each) > 1:
        spread = "" if name else "from the lowest direction to the highest"
        axes.fill_between(
            alphas, each.min(0), each.max(0), color=colour, alpha=0.16, linewidth=0, label=spread or None
        )
    if quantity == "loss":
        words = "" if name else "two standard errors either side"
        draw_error_band(axes, alphas, mean, numbers(result.loss_standard_errors), colour, words)
    axes.plot(
        alphas,
        mean,
        color=colour,
        marker=marker_of_points(len(alphas)),
        label=name or (f"mean of {len(each)} directions" if len(each) > 1 else result.direction_names[0]),
    )
    if result.num_points_saved:
        evaluated = numbers(result.evaluated).astype(bool)
        axes.plot(alphas[evaluated], mean[evaluated], ".", color=colour, markersize=4)
    axes.set_ylabel(quantity_label(result, quantity))


def marker_of_points(count: int) -> str:
    """How each point of a curve is marked: not at all, unless they are few."""
    return "." if count <= FEW_POINTS else ""


def draw_error_band(
    axes: Axes, x: np.ndarray, y: np.ndarray, standard_errors: np.ndarray, colour: str, words: str = ""
) -> None:
    """Fill two standard errors either side of a curve, where there are any."""
    band = 2 * np.nan_to_num(standard_errors)
    if band.any():
        axes.fill_between(x, y - band, y + band, color=colour, alpha=0.35, linewidth=0, label=words or None)


def draw_path(
    axes: Axes,
    result: Any,
    quantity: str,
    colour: str,
    name: str = "",
    *,
    dashes: str = "-",
    barrier: bool = True,
) -> None:
    """Loss or accuracy from one network (0) to another (1); of the loss, the barrier over the chord.

    How high the barrier is stands above it, unless the curve has a name: the legend then has room for it.
    """
    alphas = numbers(result.alphas)
    curve = numbers(result.losses if quantity == "loss" else result.accuracies)
    if quantity == "loss":
        draw_error_band(axes, alphas, curve, numbers(result.loss_standard_errors), colour)
    marker = marker_of_points(len(alphas))
    axes.plot(alphas, curve, linestyle=dashes, marker=marker, color=colour, label=name or None)
    axes.set_xlabel("position on the straight line\n(a at 0, b at 1)")
    axes.set_ylabel(quantity_label(result, quantity))
    if quantity == "loss" and barrier:
        top, rise = float(result.barrier_alpha), float(curve[-1] - curve[0])
        chord = float(curve[0] + top * rise)
        # Point by point: on a logarithmic axis it is no straight line.
        axes.plot(alphas, curve[0] + alphas * rise, linestyle=":", linewidth=1, color=GREY)
        arrow = {"arrowstyle": "<->", "color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(top, chord), xytext=(top, chord + result.barrier), arrowprops=arrow)
        if not name:
            half = result.error.half_width(0.95)
            # On the side to which the chord falls no point of the curve is as high as the barrier's top: it
            # would have a higher one above the chord.
            axes.annotate(
                f"barrier {result.barrier:.3g}" + (f" ± {at_most(half, 2)}" if half else ""),
                xy=(top, chord + result.barrier),
                xytext=(1 if rise <= 0 else -1, 5),
                ha="left" if rise <= 0 else "right",
                textcoords="offset points",
                va="bottom",
                fontsize=8,
                color=INK,
            )


def draw_samples(axes: Axes, samples: Any, row: float, colour: str) -> None:
    """One dot a sample around the height `row`, stacked where they crowd, over a bar from 5 to 95 %."""
    x = np.sort(numbers(samples).reshape(-1))
    x = x[np.isfinite(x)]
    if not x.size:
        return
    low, middle, high = np.quantile(x, [0.05, 0.5, 0.95])
    axes.plot([low, high], [row, row], color=colour, alpha=0.25, linewidth=7, solid_capstyle="butt", zorder=1)
    axes.plot(
        x, row + _stacked(x), ".", color=colour, markersize=2.6, alpha=0.75, markeredgewidth=0, zorder=2
    )
    axes.plot([middle], [row], "|", color=INK, markersize=11, markeredgewidth=1.6, zorder=3)


def _stacked(x: np.ndarray, height: float = 0.34) -> np.ndarray:
    """Offsets in [-height, height] that spread sorted samples by how many share a bin; no random jitter."""
    bins = np.floor((x - x[0]) / max((x[-1] - x[0]) / 60, 1e-300)).astype(int)
    _, first, counts = np.unique(bins, return_index=True, return_counts=True)
    offsets = np.zeros_like(x)
    for start, count in zip(first, counts, strict=True):
        offsets[start : start + count] = np.arange(count) - (count - 1) / 2
    return offsets * min(2 * height / max(counts.max() - 1, 1), 0.09)


def draw_interval(
    axes: Axes,
    value: float,
    low: float,
    high: float,
    row: float,
    colour: str,
    *,
    marker: str = "o",
    label: str = "",
) -> None:
    """A value and its interval at the height `row`."""
    axes.plot([low, high], [row, row], color=colour, linewidth=2.2, alpha=0.6, solid_capstyle="butt")
    axes.plot([value], [row], marker, color=colour, markersize=5.5, label=label or None)


def draw_eigenvalues(axes: Axes, result: Any, colour: str) -> None:
    """Eigenvalues (k,) by rank with their residuals, and the bounds of the first at each end asked for."""
    values, residuals = numbers(result.eigenvalues), numbers(result.residuals)
    num_top = result.num_top
    num_bottom = len(values) - num_top
    # Both ends: those of the bottom count from the right, after a gap for all that lie between.
    gap = 1 if num_top and num_bottom else 0
    places = np.concatenate([np.arange(num_top), len(values) + gap - 1 - np.arange(num_bottom)])
    axes.errorbar(
        places, values, yerr=residuals, fmt="o", color=colour, capsize=3, label="eigenvalue ± residual"
    )
    bounds = [(places[0], result.lower_bound, result.upper_bound)]
    if result.smallest_lower_bound is not None and num_bottom:
        bounds.append((places[num_top], result.smallest_lower_bound, result.smallest_upper_bound))
    for i, (place, low, high) in enumerate(bounds):
        label = None if i else f"bounds ({100 * result.confidence:.4g} %)"
        axes.plot(
            [place, place],
            [low, high],
            color=colour,
            alpha=0.3,
            linewidth=7,
            solid_capstyle="butt",
            label=label,
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    names = [str(i + 1) for i in range(num_top)] + [f"−{i + 1}" for i in range(num_bottom)]
    # Few enough to be read, from the first at either end.
    step = max(1, len(names) // 12)
    shown = [*range(0, num_top, step), *range(num_top, len(names), step)]
    axes.set_xticks(places[shown], [names[i] for i in shown])
    axes.set_xlabel("rank (−1 is the smallest)" if num_bottom else "rank")
    axes.set_ylabel("eigenvalue (loss / parameter²)")
    axes.set_xlim(-0.5, len(values) + gap - 0.5)
    axes.legend()


def draw_restarts(axes: Axes, result: Any, colour: str, quantity: str | None = None) -> None:
    """What each restart of the ascent found, highest first, and the value kept."""
    from matplotlib.ticker import MaxNLocator

    found = np.sort(numbers(result.restart_values))[::-1]
    label = "one restart" if len(found) > 1 else "the only start: raise num_restarts to see the spread"
    axes.plot(np.arange(1, len(found) + 1), found, "o", color=colour, label=label)
    axes.axhline(result.value, color=INK, linewidth=0.9, linestyle=":", label=f"kept: {result.value:.4g}")
    axes.set_xlabel("restart, by what it found")
    axes.set_ylabel(quantity or f"rise in loss within {result.radius:g}{unit_of_loss(result)}")
    axes.set_xlim(0.5, len(found) + 0.5)
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(found))))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
