"""A surface one can turn: a self-contained HTML file by Plotly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import interpn

from thalweg.core.atomic import replacing
from thalweg.report.figures import INK, LOG_RATIO, PURPLE, VERMILLION, numbers, quantities_of, quantity_label
from thalweg.report.surface_figures import COLOURS, axis_label, leads_to_network, ticks_apart

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-not-found]

HTML = ".html"

# Plotly's own page is higher than the window by its margins.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><title>Thalweg</title><style>html, body {{ margin: 0; height: 100%; }}</style>
</head>
<body>{content}</body>
</html>
"""

# What lies on the surface is drawn above it by such a part of its height; and in how many pieces is a line
# between two points.
LIFT, PIECES = 0.02, 20

MEASURES = ("plane_slice", "volume_slice")


def write_surface_html(result: Any, path: str | Path, caption: str) -> None:
    """Write a page that needs nothing else: the loss over the plane, or surfaces of equal loss in a volume.

    Raises
    ------
    ValueError
        If the result is no surface over a plane or a volume, or no loss of it is finite.
    ImportError
        If Plotly is missing, naming the extra.
    """
    if getattr(result, "measure", None) not in MEASURES:
        raise ValueError(
            f"`path` may end in .html for results of {', '.join(MEASURES)} only, got one of "
            f"{getattr(result, 'measure', type(result).__name__)}; use .png."
        )
    if not np.isfinite(numbers(result.losses)).any():
        raise ValueError("`path` may end in .html where some loss is finite, got none; use .png.")
    figure = figure_of(result)
    lines = caption.count("<br>") + 1
    figure.update_layout(
        title={
            "text": caption,
            "font": {"size": 13},
            "x": 0.01,
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 12},
        },
        scene={
            "camera": {"eye": {"x": 1.35, "y": 1.35, "z": 1.45}, "center": {"x": 0, "y": 0, "z": -0.2}},
            **{f"{name}axis": {"title": {"font": {"size": 11}}} for name in "xyz"},
        },
        font={"family": "sans-serif", "size": 12, "color": INK},
        margin={"l": 0, "r": 0, "t": 20 + 20 * lines, "b": 0},
    )
    # A fixed id, so that equal results give equal files.
    content = figure.to_html(include_plotlyjs=True, full_html=False, div_id="surface", default_height="100vh")
    page = PAGE.format(content=content)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def figure_of(result: Any) -> Figure:
    """The result of a plane or a volume as a Plotly figure."""
    return _plane(result) if result.measure == "plane_slice" else _volume(result)


def _graph_objects() -> Any:
    try:
        import plotly.graph_objects as go  # type: ignore[import-not-found]
    except ImportError:
        raise ImportError(
            "a surface one can turn needs Plotly, which is not installed; "
            "pip install 'thalweg[interactive]', or let `path` end in .png."
        ) from None
    return go


def _plane(result: Any) -> Figure:
    go = _graph_objects()
    x, y, losses = numbers(result.alphas), numbers(result.betas), numbers(result.losses)
    finite = losses[np.isfinite(losses)]
    low, high = finite.min(), finite.max()
    log = low > 0 and high > LOG_RATIO * low
    # The axis is logarithmic, but colours are not by themselves.
    colours = np.log10(losses) if log else losses
    ticks = _ticks(low, high) if log else np.linspace(low, high, 6)
    ticks, words = ticks_apart(ticks)
    errors = numbers(result.loss_standard_errors)
    figure = go.Figure(
        go.Surface(
            x=x,
            y=y,
            z=losses.T,
            surfacecolor=colours.T,
            customdata=np.stack([errors.T, numbers(result.accuracies).T], axis=-1),
            colorscale=COLOURS["loss"],
            colorbar={
                "title": quantity_label(result, "loss"),
                "tickvals": np.log10(ticks) if log else ticks,
                "ticktext": words,
                "len": 0.7,
            },
            hovertemplate="step %{x:.3g}, %{y:.3g}<br>loss %{z:.5g}, s.e. %{customdata[0]:.2g}<br>"
            + ("accuracy %{customdata[1]:.4g}" if "accuracy" in quantities_of(result) else "")
            + "<extra></extra>",
        )
    )

    def above(points: np.ndarray) -> np.ndarray:
        """Points ``(T, 2)`` of the plane, just above the surface ``(T, 3)``; NaN outside of the grid."""
        heights = interpn((x, y), losses, points, bounds_error=False, fill_value=np.nan)
        lifted = heights * (high / low) ** LIFT if log else heights + LIFT * (high - low)
        return np.column_stack([points, lifted])

    names, places = _landmarks(result)
    figure.add_trace(_marks(names, above(places)))
    if result.trajectory is not None:
        path = numbers(result.trajectory.coordinates)
        steps = np.arange(len(path))
        finely = np.linspace(0, len(path) - 1, (len(path) - 1) * PIECES + 1)
        along = np.stack([np.interp(finely, steps, c) for c in path.T], axis=1)
        # It is the projections that lie on the surface, and the straight lines between them in the plane.
        figure.add_traces([_line(above(along)), _dots(result, above(path))])
    figure.update_scenes(
        xaxis_title=axis_label(result, 0, "<br>"),
        yaxis_title=axis_label(result, 1, "<br>"),
        # By itself a logarithmic axis shows single digits between the powers of ten.
        zaxis={"title": quantity_label(result, "loss")}
        | ({"type": "log", "tickvals": ticks, "ticktext": words} if log else {"type": "linear"}),
        aspectmode="cube",
    )
    return figure


def _ticks(low: float, high: float) -> np.ndarray:
    """Round numbers between two of another order of magnitude."""
    from matplotlib.ticker import LogLocator

    subs = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
    found = np.asarray(LogLocator(subs=subs, numticks=12).tick_values(low, high))
    return found[(low <= found) & (found <= high)]


def _volume(result: Any) -> Figure:
    go = _graph_objects()
    grid = np.meshgrid(*(numbers(axis) for axis in result.axes), indexing="ij")
    losses = numbers(result.losses)
    low, high = np.nanquantile(losses, [0.05, 0.6])
    figure = go.Figure(
        go.Isosurface(
            **{name: axis.reshape(-1) for name, axis in zip("xyz", grid, strict=True)},
            value=losses.reshape(-1),
            isomin=low,
            isomax=high,
            surface_count=5,
            opacity=0.35,
            caps={"x_show": False, "y_show": False, "z_show": False},
            colorscale=COLOURS["loss"],
            colorbar={"title": quantity_label(result, "loss"), "len": 0.7},
        )
    )
    names, places = _landmarks(result)
    figure.add_trace(_marks(names, places))
    if result.trajectory is not None:
        path = numbers(result.trajectory.coordinates)
        figure.add_traces([_line(path), _dots(result, path)])
    titles = {f"{name}axis_title": axis_label(result, i, "<br>") for i, name in enumerate("xyz")}
    figure.update_scenes(**titles, aspectmode="cube")
    return figure


def _landmarks(result: Any) -> tuple[list[str], np.ndarray]:
    """The network itself and those that directions lead to, and where they are ``(M, D)``."""
    D = len(result.direction_names)
    ends = [j for j in range(D) if leads_to_network(result, j) and result.axes[j][-1] >= 1]
    places = np.stack([np.zeros(D), *(np.eye(D)[j] for j in ends)])
    return ["centre", *(result.direction_names[j].removeprefix("to ") for j in ends)], places


def _scatter(points: np.ndarray, **style: Any) -> Any:
    x, y, z = points.T
    return _graph_objects().Scatter3d(x=x, y=y, z=z, showlegend=False, **style)


def _marks(names: list[str], points: np.ndarray) -> Any:
    return _scatter(
        points,
        mode="markers+text",
        marker={"size": 5, "color": VERMILLION},
        text=names,
        textposition="top center",
        hovertemplate="%{text}<extra></extra>",
    )


def _line(points: np.ndarray) -> Any:
    return _scatter(points, mode="lines", line={"color": INK, "width": 4}, hoverinfo="skip")


def _dots(result: Any, points: np.ndarray) -> Any:
    """The points of the trajectory, each the larger the farther off it really is."""
    off = numbers(result.trajectory.residual_norms)
    return _scatter(
        points,
        mode="markers+text",
        marker={"size": 3 + 6 * off / (off.max() or 1.0), "color": PURPLE, "opacity": 1},
        text=["start", *[""] * (len(off) - 1)],
        textposition="top center",
        customdata=off,
        hovertemplate="point %{pointNumber} of the trajectory<br>off by %{customdata:.4g}<extra></extra>",
    )
