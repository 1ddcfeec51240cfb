"""A surface one can turn: a self-contained HTML file by Plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from thalweg.report.figures import INK, LOG_RATIO, PURPLE, VERMILLION, numbers, quantities_of, quantity_label
from thalweg.report.names import TO
from thalweg.report.page import render_page, write_page
from thalweg.report.surface_camera import eye
from thalweg.report.surface_figures import COLOURS, axis_label, leads_to_network, ticks_apart

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-not-found]

HTML = ".html"

# What lies on the surface is drawn above it by such a part of its height; and in how many pieces is a line
# between two points.
LIFT, PIECES = 0.02, 20

# Numbers beside the colours that a narrow page has room for.
MOST_TICKS = 7

MEASURES = ("plane_slice", "volume_slice")


def write_surface_html(
    result: Any, path: str | Path, caption: Sequence[str], full_names: Mapping[str, str]
) -> None:
    """Write a page that needs nothing else: the loss over the plane, or surfaces of equal loss in a volume.

    Parameters
    ----------
    result, path
        What to draw, and where.
    caption
        Lines that stand above it, the first of them the title.
    full_names
        What to show on pointing at a network whose name in the picture is a short one.

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
    figure = figure_of(result, full_names)
    # A fixed id, so that equal results give equal files.
    picture = figure.to_html(
        include_plotlyjs=True,
        full_html=False,
        div_id="surface",
        default_height="100%",
        config={"responsive": True, "displaylogo": False},
    )
    page = render_page("surface.html", title=caption[0], caption=caption, ink=INK, picture=picture)
    write_page(page, path)


def figure_of(result: Any, full_names: Mapping[str, str] | None = None) -> Figure:
    """The result of a plane or a volume as a Plotly figure."""
    draw = _plane if result.measure == "plane_slice" else _volume
    figure = draw(result, full_names or {})
    figure.update_scenes(
        {
            f"{name}axis": {
                "title": {"text": axis_label(result, i, "<br>"), "font": {"size": 11}},
                **_few(*numbers(axis)[[0, -1]]),
            }
            for i, (name, axis) in enumerate(zip("xyz", result.axes, strict=False))
        },
        aspectmode="cube",
        domain={"x": [0, 1], "y": [0.12, 1]},  # the scale of colours lies below
    )
    figure.update_layout(
        font={"family": "sans-serif", "size": 12, "color": INK},
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
    )
    return figure


def _graph_objects() -> Any:
    try:
        import plotly.graph_objects as go  # type: ignore[import-not-found]
    except ImportError:
        raise ImportError(
            "a surface one can turn needs Plotly, which is not installed; "
            "pip install 'thalweg[interactive]', or let `path` end in .png."
        ) from None
    return go


def _plane(result: Any, full_names: Mapping[str, str]) -> Figure:
    go = _graph_objects()
    x, y, losses = numbers(result.alphas), numbers(result.betas), numbers(result.losses)
    finite = losses[np.isfinite(losses)]
    low, high = finite.min(), finite.max()
    log = low > 0 and high > LOG_RATIO * low
    # The axis is logarithmic, but colours are not by themselves.
    colours = np.log10(losses) if log else losses
    scale = _scale_of(low, high, log)
    errors = numbers(result.loss_standard_errors)
    figure = go.Figure(
        go.Surface(
            x=x,
            y=y,
            z=losses.T,
            surfacecolor=colours.T,
            customdata=np.stack([errors.T, numbers(result.accuracies).T], axis=-1),
            colorscale=COLOURS["loss"],
            colorbar=_colour_bar(result, scale, log),
            hovertemplate="step %{x:.3g}, %{y:.3g}<br>loss %{z:.5g}, s.e. %{customdata[0]:.2g}<br>"
            + ("accuracy %{customdata[1]:.4g}" if "accuracy" in quantities_of(result) else "")
            + "<extra></extra>",
        )
    )

    def above(points: np.ndarray) -> np.ndarray:
        """Points ``(T, 2)`` of the plane, just above the surface ``(T, 3)``; NaN outside of the grid."""
        heights = scipy.interpolate.interpn((x, y), losses, points, bounds_error=False, fill_value=np.nan)
        lifted = heights * (high / low) ** LIFT if log else heights + LIFT * (high - low)
        return np.column_stack([points, lifted])

    names, places = _landmarks(result)
    shown = [above(places)]
    figure.add_trace(_marks([full_names.get(name, name) for name in names], shown[0]))
    notes = list(zip(names, shown[0], strict=True))
    if result.trajectory is not None:
        path = numbers(result.trajectory.coordinates)
        notes.append(("start", above(path)[0]))
        steps = np.arange(len(path))
        finely = np.linspace(0, len(path) - 1, (len(path) - 1) * PIECES + 1)
        along = np.stack([np.interp(finely, steps, c) for c in path.T], axis=1)
        # It is the projections that lie on the surface, and the straight lines between them in the plane.
        shown.append(above(along))
        figure.add_traces([_line(shown[1]), _dots(result, above(path))])
    points = np.concatenate(shown)
    # On a logarithmic axis Plotly places all but the data by logarithms, and so does the eye.
    if log:
        points[:, 2] = np.log10(points[:, 2])
        notes = [(name, [px, py, np.log10(pz)]) for name, (px, py, pz) in notes]
    place = eye(x, y, colours, points)
    figure.update_scenes(
        camera={"eye": dict(zip("xyz", place, strict=True)), "center": {"x": 0, "y": 0, "z": -0.1}},
        annotations=_words(notes),
        zaxis={"title": {"text": quantity_label(result, "loss"), "font": {"size": 11}}}
        # By itself a logarithmic axis shows single digits between the powers of ten.
        | ({"type": "log"} if log else {"type": "linear"})
        | scale,
    )
    return figure


def _few(low: float, high: float) -> dict[str, Any]:
    """A few round numbers between two, as Plotly takes them: as many digits as tell them apart."""
    from matplotlib.ticker import MaxNLocator

    found = np.asarray(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    slack = 1e-9 * (high - low)
    return _written(found[(low - slack <= found) & (found <= high + slack)])


def _scale_of(low: float, high: float, log: bool) -> dict[str, Any]:
    """A few round numbers of a scale of losses."""
    if not log:
        return _few(low, high)
    from matplotlib.ticker import LogLocator

    subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0, 3.0) if high < 1000 * low else (1.0,)
    found = np.asarray(LogLocator(subs=subs, numticks=MOST_TICKS).tick_values(low, high))
    return _written(found[(low <= found) & (found <= high)])


def _written(ticks: np.ndarray) -> dict[str, Any]:
    ticks, words = ticks_apart(np.where(np.abs(ticks) > 1e-12 * np.abs(ticks).max(initial=0.0), ticks, 0.0))
    return {"tickvals": ticks, "ticktext": [word.replace("-", "−") for word in words]}


def _colour_bar(result: Any, scale: dict[str, Any], log: bool) -> dict[str, Any]:
    """Flat and below the picture, which a narrow page has room for."""
    return {
        **scale,
        # The axis may be logarithmic; colours are not by themselves.
        "tickvals": np.log10(scale["tickvals"]) if log else scale["tickvals"],
        "title": {"text": quantity_label(result, "loss"), "side": "top"},
        "orientation": "h",
        "thickness": 10,
        "len": 0.8,
        "x": 0.5,
        "xanchor": "center",
        "y": 0,
        "yanchor": "bottom",
    }


def _volume(result: Any, full_names: Mapping[str, str]) -> Figure:
    go = _graph_objects()
    grid = np.meshgrid(*(numbers(axis) for axis in result.axes), indexing="ij")
    losses = numbers(result.losses)
    low, high = np.nanquantile(losses, [0.05, 0.6])
    log = low > 0 and high > LOG_RATIO * low
    if log:
        losses, ends = np.log10(losses), np.log10([low, high])
    else:
        ends = [low, high]
    figure = go.Figure(
        go.Isosurface(
            **{name: axis.reshape(-1) for name, axis in zip("xyz", grid, strict=True)},
            value=losses.reshape(-1),
            isomin=ends[0],
            isomax=ends[1],
            surface_count=5,
            opacity=0.35,
            caps={"x_show": False, "y_show": False, "z_show": False},
            colorscale=COLOURS["loss"],
            colorbar=_colour_bar(result, _scale_of(low, high, log), log),
        )
    )
    names, places = _landmarks(result)
    figure.add_trace(_marks([full_names.get(name, name) for name in names], places))
    notes = list(zip(names, places, strict=True))
    if result.trajectory is not None:
        path = numbers(result.trajectory.coordinates)
        notes.append(("start", path[0]))
        figure.add_traces([_line(path), _dots(result, path)])
    figure.update_scenes(
        camera={"eye": {"x": 1.5, "y": 1.5, "z": 1.3}, "center": {"x": 0, "y": 0, "z": -0.1}},
        annotations=_words(notes),
    )
    return figure


def _landmarks(result: Any) -> tuple[list[str], np.ndarray]:
    """The network itself and those that directions lead to, and where they are ``(M, D)``."""
    D = len(result.direction_names)
    ends = [j for j in range(D) if leads_to_network(result, j) and result.axes[j][-1] >= 1]
    places = np.stack([np.zeros(D), *(np.eye(D)[j] for j in ends)])
    return ["centre", *(result.direction_names[j].removeprefix(TO) for j in ends)], places


def _words(notes: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Names over points, on paper, since the surface behind them may have any colour."""
    return [
        {
            **{axis: float(c) for axis, c in zip("xyz", point, strict=True)},
            "text": name,
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 1,
            "arrowcolor": INK,
            "ax": 0,
            "ay": -26,
            "bgcolor": "rgba(255, 255, 255, 0.75)",
            "borderpad": 1,
        }
        for name, point in notes
        if np.isfinite(np.asarray(point, dtype=float)).all()
    ]


def _scatter(points: np.ndarray, **style: Any) -> Any:
    x, y, z = points.T
    return _graph_objects().Scatter3d(x=x, y=y, z=z, showlegend=False, **style)


def _marks(names: list[str], points: np.ndarray) -> Any:
    return _scatter(
        points,
        mode="markers",
        marker={"size": 5, "color": VERMILLION},
        text=names,
        hovertemplate="%{text}<extra></extra>",
    )


def _line(points: np.ndarray) -> Any:
    return _scatter(points, mode="lines", line={"color": INK, "width": 4}, hoverinfo="skip")


def _dots(result: Any, points: np.ndarray) -> Any:
    """The points of the trajectory, each the larger the farther off it really is."""
    off = numbers(result.trajectory.residual_norms)
    return _scatter(
        points,
        mode="markers",
        marker={"size": 3 + 6 * off / (off.max() or 1.0), "color": PURPLE, "opacity": 1},
        customdata=off,
        hovertemplate="point %{pointNumber} of the trajectory<br>off by %{customdata:.4g}<extra></extra>",
    )
