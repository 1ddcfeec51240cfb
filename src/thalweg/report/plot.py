"""`thalweg.plot`: one picture of one result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.core.measurement import Measurement
from thalweg.report import figures as draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(result: Measurement, path: str | Path | None = None) -> Figure:
    """Draw whatever a result has to see.

    Parameters
    ----------
    result
        A result of ``train``, ``line_slice``, ``linear_path``, ``sam_sharpness``, ``sam_sharpness_spread`` or
        ``top_eigenvalues``.
    path
        Where to write it as well; the suffix ``.png``, ``.svg`` or ``.pdf`` chooses the format.

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
    """
    drawer = _DRAWERS.get(result.measure) if isinstance(result, Measurement) else None
    if drawer is None:
        raise TypeError(
            f"`result` must be a result that has something to see, got {type(result).__name__}; results of "
            f"{', '.join(sorted(_DRAWERS))} have."
        )
    if path is not None and Path(path).suffix.lower() not in draw.FORMATS:
        raise ValueError(
            f"`path` must end in one of {', '.join(draw.FORMATS)}, got {str(path)!r}; .png suits most uses."
        )
    with draw.house_style():
        figure = drawer(result)
        mode = result.batch_norm
        if mode:
            figure.suptitle(f"batch norm: {mode}", x=0.01, ha="left", fontsize=8.5, color=draw.GREY)
    if path is not None:
        draw.save_figure(figure, path)
    return figure


def _history(result: Any) -> Figure:
    figure, axes = draw.new_figure(1, 2, width=7.2, height=3)
    for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
        draw.draw_history(ax, result, quantity, draw.BLUE)
        ax.set_title(quantity.capitalize())
    draw.scale_loss_axis(axes[0, 0], result.train_loss, result.test_loss)
    axes[0, 0].legend()
    return figure


def _slice(result: Any) -> Figure:
    figure, axes = draw.new_figure(1, 2, width=7.2, height=3)
    for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
        draw.draw_slice(ax, result, quantity, draw.BLUE)
        ax.set_xlabel(draw.slice_label(result))
        ax.set_title(quantity.capitalize())
    draw.scale_loss_axis(axes[0, 0], result.losses_by_direction)
    axes[0, 0].legend()
    return figure


def _path(result: Any) -> Figure:
    figure, axes = draw.new_figure(1, 2, width=7.2, height=3)
    for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
        draw.draw_path(ax, result, quantity, draw.BLUE)
        ax.set_title(quantity.capitalize())
    draw.scale_loss_axis(axes[0, 0], result.losses)
    return figure


def _spread(result: Any) -> Figure:
    figure, axes = draw.new_figure(1, 1, width=6, height=2.2)
    ax = axes[0, 0]
    draw.draw_samples(ax, result.samples, 0.0, draw.BLUE)
    ax.axvline(result.value, color=draw.INK, linewidth=0.9, linestyle=":", label=f"mean {result.value:.4g}")
    ax.set_xlabel(f"rise in loss within {result.radius:g} (nats), one dot a batch of {result.batch_size}")
    ax.set_yticks([])
    ax.set_ylim(-0.6, 0.6)
    ax.legend()
    return figure


def _single(drawer: Callable[..., None]) -> Callable[[Any], Figure]:
    def picture(result: Any) -> Figure:
        figure, axes = draw.new_figure(1, 1, width=4.2, height=3)
        drawer(axes[0, 0], result, draw.BLUE)
        return figure

    return picture


_DRAWERS: dict[str, Callable[[Any], Figure]] = {
    "train": _history,
    "line_slice": _slice,
    "linear_path": _path,
    "sam_sharpness": _single(draw.draw_restarts),
    "sam_sharpness_spread": _spread,
    "top_eigenvalues": _single(draw.draw_eigenvalues),
}
