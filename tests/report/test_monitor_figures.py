"""Pictures of monitored runs: what is drawn, thresholds, events, scales."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thalweg as tw
from thalweg.analyses.monitored_run import MonitoredRun

# Measured at every other reading, as dear ones are.
SHARPNESS = {
    "lambda_max": [10.0, None, 15.0, None, 19.0, None, 21.0],
    "lambda_max_residual": [0.1, None, 0.1, None, 0.1, None, 0.1],
    "lambda_max_upper": [11.0, None, 16.0, None, 20.0, None, 22.0],
}
PLAIN = {
    **SHARPNESS,
    **{key.replace("lambda_max", "preconditioned_sharpness"): v for key, v in SHARPNESS.items()},
    "threshold": [20.0] * 7,
}


def run(**columns: Any) -> MonitoredRun:
    """A run of seven readings; the columns given beside loss and gradient."""
    given = {
        "step": list(range(100, 800, 100)),
        "loss": [2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.04],
        "gradient_norm": [1.0] * 7,
        "diverged": [0.0] * 7,
        **columns,
    }
    history: list[dict[str, float | None]] = [
        {key: values[i] for key, values in given.items()} for i in range(7)
    ]
    objective = {
        "loss": "cross_entropy",
        "num_examples": 500,
        "batch_norm": "running",
        "has_batch_norm": True,
    }
    return MonitoredRun.of(history, list(given), [], {"function": "monitor", "objective": objective})


def labels(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes: Any, label: str) -> np.ndarray:
    return next(found for found in axes.get_lines() if found.get_label() == label).get_xydata()


def test_loss_alone() -> None:
    figure = tw.plot(run())
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert labels(axes) == ["loss (nats)", "gradient norm"]
    assert line(axes, "loss (nats)")[:, 1].tolist() == [2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.04]
    assert figure.get_suptitle() == "N = 500, batch norm: running"


def test_the_largest_eigenvalue_against_the_threshold(tmp_path: Path) -> None:
    result = run(**PLAIN, catapult=[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    figure = tw.plot(result, tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Loss and gradient",
        "Sharpness and its threshold",
    ]
    axes = figure.axes[1]
    assert labels(axes) == ["λ max", "none above (99 %)", "stability threshold", "catapult"]
    # What was not measured leaves no hole.
    assert line(axes, "λ max").tolist() == [[100, 10], [300, 15], [500, 19], [700, 21]]
    assert line(axes, "stability threshold")[:, 1].tolist() == [20.0] * 7
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    # Both catapults are marked, in every panel, and named once.
    for ax in figure.axes:
        marked = [found for found in ax.get_lines() if found.get_linestyle() == "-."]
        assert [found.get_xdata()[0] for found in marked] == [300, 600]


def test_batch_sharpness_has_its_band_and_one_line_of_thresholds() -> None:
    result = run(
        **PLAIN,
        batch_sharpness=[5.0, 10.0, 20.0, 40.0, 100.0, 200.0, 210.0],
        batch_sharpness_standard_error=[1.0] * 7,
        batch_sharpness_threshold=[20.0] * 7,
    )
    axes = tw.plot(result).axes[1]
    assert axes.get_yscale() == "log"
    assert labels(axes) == ["λ max", "batch sharpness, ± 2 s.e.", "none above (99 %)", "2 / lr"]


def test_a_preconditioner_of_its_own_has_a_panel_of_its_own() -> None:
    own = {**PLAIN, "preconditioned_sharpness": [100.0, None, 200.0, None, 300.0, None, 390.0]}
    own["threshold"] = [380.0] * 7
    own["preconditioned_sharpness_upper"] = [110.0, None, 220.0, None, 310.0, None, 400.0]
    figure = tw.plot(run(**own, trace=[None] * 6 + [50.0], trace_standard_error=[None] * 6 + [5.0]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Loss and gradient",
        "Sharpness and its threshold",
        "Preconditioned sharpness",
        "Trace of the Hessian",
    ]
    assert "stability threshold" not in labels(figure.axes[1])
    assert "stability threshold" in labels(figure.axes[2])


def test_divergence_is_marked() -> None:
    lost = run(loss=[2.0, 3.0, 9.0, *[math.nan] * 4], diverged=[0.0, 0.0, 0.0, *[1.0] * 4])
    (axes,) = tw.plot(lost).axes
    assert labels(axes)[-1] == "diverged"
    assert lost.diverged_at == 400


def test_without_a_reading_there_is_nothing_to_draw() -> None:
    empty = MonitoredRun.of([], ["loss", "gradient_norm", "diverged"], [], {})
    with pytest.raises(ValueError, match="`result` must hold a reading to be drawn"):
        tw.plot(empty)
