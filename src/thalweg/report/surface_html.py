"""A surface one can turn: a self-contained HTML file by Plotly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import interpn

from thalweg.core.atomic import replacing
from thalweg.report.figures import INK, LABELS, LOG_RATIO, PURPLE, VERMILLION, numbers
from thalweg.report.surface_figures import axis_label

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-not-found]

HTML = ".html"

MEASURES = ("plane_slice", "volume_slice")


def write_surface_html(result: Any, path: str | Path, caption: str) -> None:
    """Write a page that needs nothing else: the loss over the plane, or surfaces of equal loss in a volume.

    Raises
    ------
    ValueError
        If the result is no surface over a plane or a volume.
    ImportError
        If Plotly is missing, naming the extra.
    """
    if getattr(result, "measure", None) not in MEASURES:
        raise ValueError(
            f"`path` may end in .html for results of {', '.join(MEASURES)} only, got one of "
            f"{getattr(result, 'measure', type(result).__name__)}; use .png."
        )
    figure = _plane(result) if result.measure == "plane_slice" else _volume(result)
    lines = caption.count("<br>") + 1
    figure.update_layout(
        title={"text": caption, "font": {"size": 13}, "x": 0.01, "y": 0.99, "yanchor": "top"},
        font={"family": "sans-serif", "size": 12, "color": INK},
        margin={"l": 0, "r": 0, "t": 20 + 20 * lines, "b": 0},
    )
    # A fixed id, so that equal results give equal files.
    page = figure.to_html(include_plotlyjs=True, full_html=True, div_id="surface")
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


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
    log = finite.min() > 0 and finite.max() > LOG_RATIO * finite.min()
    # The axis is logarithmic, but colours are not by themselves.
    colours = np.log10(losses) if log else losses
    ticks = np.linspace(np.nanmin(colours), np.nanmax(colours), 6)
    words = [f"{10**t if log else t:.3g}" for t in ticks]
    errors = numbers(result.loss_standard_errors)
    figure = go.Figure(
        [
            go.Surface(
                x=x,
                y=y,
                z=losses.T,
                surfacecolor=colours.T,
                customdata=np.stack([errors.T, numbers(result.accuracies).T], axis=-1),
                colorscale="Cividis",
                colorbar={"title": LABELS["loss"], "tickvals": ticks, "ticktext": words, "len": 0.7},
                hovertemplate="step %{x:.3g}, %{y:.3g}<br>loss %{z:.5g}, s.e. %{customdata[0]:.2g}<br>"
                "accuracy %{customdata[1]:.4g}<extra></extra>",
            ),
            go.Scatter3d(
                x=[0],
                y=[0],
                z=[result.value],
                mode="markers",
                marker={"size": 5, "color": VERMILLION},
                hovertemplate=f"the network itself: loss {result.value:.5g}<extra></extra>",
                showlegend=False,
            ),
        ]
    )
    if result.trajectory is not None:
        path = numbers(result.trajectory.coordinates)
        # Of the projections, for it is they that lie on the surface; outside of the grid there is none.
        heights = interpn((x, y), losses, path, bounds_error=False, fill_value=np.nan)
        figure.add_trace(_path(result, *path.T, heights))
    figure.update_scenes(
        xaxis_title=axis_label(result, 0),
        yaxis_title=axis_label(result, 1),
        zaxis={"title": LABELS["loss"], "type": "log" if log else "linear"},
        aspectmode="cube",
    )
    return figure


def _path(result: Any, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Any:
    """The projected trajectory, each point the larger the farther off it really is."""
    off = numbers(result.trajectory.residual_norms)
    return _graph_objects().Scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines+markers",
        line={"color": INK, "width": 3},
        marker={"size": 3 + 5 * off / (off.max() or 1.0), "color": PURPLE},
        customdata=off,
        hovertemplate="point %{pointNumber} of the trajectory<br>off by %{customdata:.4g}<extra></extra>",
        showlegend=False,
    )


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
            colorscale="Cividis",
            colorbar={"title": LABELS["loss"], "len": 0.7},
        )
    )
    if result.trajectory is not None:
        figure.add_trace(_path(result, *numbers(result.trajectory.coordinates).T))
    titles = {f"{name}axis_title": axis_label(result, i) for i, name in enumerate("xyz")}
    figure.update_scenes(**titles, aspectmode="cube")
    return figure
