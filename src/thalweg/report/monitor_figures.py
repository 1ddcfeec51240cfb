"""Pictures of a monitored run: loss, sharpness against its threshold, and what else was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.report.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LOG_RATIO,
    PURPLE,
    VERMILLION,
    new_figure,
    numbers,
    unit_of_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Standard errors that a band shows on either side.
BAND = 2.0


def monitor_figure(result: Any) -> Figure:
    """One panel for each kind of number that was measured at all, over the same steps."""
    if not len(result.steps):
        raise ValueError(
            "`result` must hold a reading to be drawn, but this monitor has measured nothing yet; it does "
            "every `every` steps."
        )
    panels: list[tuple[str, Callable[[Axes, Any], None]]] = [("Loss and gradient", _draw_loss)]
    panels += [("Sharpness and its threshold", _draw_sharpness)] if _sharpness(result) else []
    if _has_own_preconditioner(result):
        panels.append(("Preconditioned sharpness", _draw_preconditioned))
    panels += [("Trace of the Hessian", _draw_trace)] if _is_there(result, "trace") else []
    panels += [("Gradient noise", _draw_noise)] if _is_there(result, "noise_trace") else []
    panels += [("Gradient noise scale", _draw_noise_scale)] if _is_there(result, "noise_scale") else []
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, width=4.4 * columns, height=0.4 + 2.6 * rows, sharex=True)
    for ax, (title, drawer) in zip(axes.flat, panels, strict=False):
        drawer(ax, result)
        _mark_events(ax, result)
        ax.set_title(title)
        ax.set_xlabel("step of the optimizer")
        ax.xaxis.set_tick_params(labelbottom=True)
        ax.legend()
    for ax in list(axes.flat)[len(panels) :]:
        ax.remove()
    return figure


def _draw_loss(axes: Axes, result: Any) -> None:
    losses = _draw(axes, result, "loss", BLUE, f"loss{unit_of_loss(result)}")
    norms = _draw(axes, result, "gradient_norm", GREY, "gradient norm")
    axes.set_ylabel("of the probe")
    _scale(axes, [losses, norms])


def _draw_sharpness(axes: Axes, result: Any) -> None:
    shown: list[np.ndarray] = []
    for key, colour, label in _sharpness(result):
        shown.append(_draw(axes, result, key, colour, label))
    if _is_there(result, "lambda_max"):
        # Above the eigenvalue found: up to what nothing exceeds, at the confidence of the bound.
        steps, low = map(numbers, result.measured("lambda_max"))
        high = numbers(result.measured("lambda_max_upper")[1])
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0, label="none above (99 %)")
    for key, colour, name in (
        ("batch_sharpness_threshold", INK, "2 / lr"),
        ("threshold", INK, "stability threshold"),
    ):
        if _is_there(result, key) and not (key == "threshold" and _has_own_preconditioner(result)):
            if key == "threshold" and _same(result, "threshold", "batch_sharpness_threshold"):
                continue
            dashes = "--" if key == "threshold" else ":"
            shown.append(_draw(axes, result, key, colour, name, dashes=dashes, marker=""))
    axes.set_ylabel("loss / parameter²")
    _scale(axes, shown)


def _draw_preconditioned(axes: Axes, result: Any) -> None:
    key = "preconditioned_sharpness"
    shown = [_draw(axes, result, key, BLUE, "of P⁻¹H")]
    steps, low = map(numbers, result.measured(key))
    high = numbers(result.measured(f"{key}_upper")[1])
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0, label="none above (99 %)")
    shown.append(_draw(axes, result, "threshold", INK, "stability threshold", dashes="--", marker=""))
    axes.set_ylabel("1 / learning rate")
    _scale(axes, shown)


def _draw_trace(axes: Axes, result: Any) -> None:
    shown = [_draw(axes, result, "trace", GREEN, "tr H", error="trace_standard_error")]
    axes.set_ylabel("loss / parameter²")
    _scale(axes, shown)


def _draw_noise(axes: Axes, result: Any) -> None:
    shown = [_draw(axes, result, "noise_trace", PURPLE, "tr C")]
    axes.set_ylabel("loss² / parameter²")
    _scale(axes, shown)


def _draw_noise_scale(axes: Axes, result: Any) -> None:
    shown = [_draw(axes, result, "noise_scale", GREY, "tr C / ‖g‖²")]
    axes.set_ylabel("examples")
    _scale(axes, shown)


def _sharpness(result: Any) -> list[tuple[str, str, str]]:
    """Key, colour and label of the curvatures that share an axis, as far as they were measured."""
    known = (
        ("lambda_max", BLUE, "λ max"),
        ("batch_sharpness", VERMILLION, "batch sharpness"),
        ("critical_sharpness", GREEN, "critical sharpness"),
    )
    return [entry for entry in known if _is_there(result, entry[0])]


def _draw(
    axes: Axes,
    result: Any,
    key: str,
    colour: str,
    label: str,
    *,
    error: str = "",
    dashes: str = "-",
    marker: str = ".",
) -> np.ndarray:
    """One number along the steps, two standard errors about it where it has one; the values."""
    steps, values = map(numbers, result.measured(key))
    error = error or f"{key}_standard_error"
    if error in result.readings:
        band = BAND * numbers(result.measured(error)[1])
        axes.fill_between(steps, values - band, values + band, color=colour, alpha=0.2, linewidth=0)
        label += f", ± {BAND:g} s.e."
    axes.plot(steps, values, dashes, marker=marker, markersize=4, color=colour, label=label)
    return values


def _mark_events(axes: Axes, result: Any) -> None:
    """Catapults where they were seen to end, and where the run diverged."""
    for i, step in enumerate(result.catapults):
        label = "catapult" if i == 0 else None
        axes.axvline(step, color=PURPLE, linewidth=0.9, linestyle="-.", label=label)
    if result.diverged_at is not None:
        axes.axvline(result.diverged_at, color=VERMILLION, linewidth=1.2, label="diverged")


def _scale(axes: Axes, shown: list[np.ndarray]) -> None:
    """Logarithmic where positive numbers span more than a decade, else from nought."""
    flat = np.concatenate(shown) if shown else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    if flat.size and flat.min() > 0:
        if flat.max() > LOG_RATIO * flat.min():
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)


def _is_there(result: Any, key: str) -> bool:
    return key in result.readings and bool(len(result.measured(key)[0]))


def _has_own_preconditioner(result: Any) -> bool:
    """Whether the preconditioned matrix is another than the Hessian that is drawn."""
    key = "preconditioned_sharpness"
    return _is_there(result, key) and not _same(result, key, "lambda_max")


def _same(result: Any, key: str, other: str) -> bool:
    if key not in result.readings or other not in result.readings:
        return False
    a, b = numbers(result.readings[key]), numbers(result.readings[other])
    return bool(np.array_equal(a, b, equal_nan=True))
