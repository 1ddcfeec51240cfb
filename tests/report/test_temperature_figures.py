"""The pictures of temperatures: what is drawn is what the result says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.measures.dynamics.quadratics import objective

import thalweg as tw

SHORT: dict[str, Any] = {"num_directions": 3, "burn_in": 50, "num_steps": 300, "loss_every": 5, "seed": 0}


@pytest.fixture(scope="module")
def result() -> tw.SGDTemperature:
    return tw.sgd_temperature(objective(), lr=0.3, batch_size=8, **SHORT)


def test_three_panels(result: tw.SGDTemperature, tmp_path) -> None:
    figure = tw.plot(result, tmp_path / "temperature.png")
    temperatures, losses, positions = figure.axes
    assert (
        figure.get_suptitle()
        == "N = 40, no batch norm\nlr 0.3, momentum 0, batches of 8 drawn with replacement"
    )
    continuous, predicted, run = temperatures.get_lines()[:3]
    h = result.eigenvalues.numpy()
    for line, values in (
        (continuous, result.continuous),
        (predicted, result.predicted),
        (run, result.temperatures),
    ):
        np.testing.assert_allclose(line.get_xdata(), h)
        np.testing.assert_allclose(line.get_ydata(), values.numpy())
    assert temperatures.get_title(loc="left") == f"Temperature ({result.outcome})"
    curve = losses.get_lines()[0]
    np.testing.assert_allclose(curve.get_xdata(), result.loss_steps.numpy())
    np.testing.assert_allclose(curve.get_ydata(), result.losses.numpy())
    assert len(positions.get_lines()) == 2
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_a_run_that_diverged_is_drawn_as_far_as_it_went() -> None:
    found = tw.sgd_temperature(objective(), lr=0.6, batch_size=8, **SHORT)
    figure = tw.plot(found)
    assert figure.axes[0].get_title(loc="left") == "Temperature (diverged)"
    assert len(figure.axes[0].get_lines()) == 2
    assert len(figure.axes[0].get_lines()[1].get_xdata()) == 2  # no prediction beyond the threshold


def test_no_noise_is_drawn() -> None:
    found = tw.sgd_temperature(
        objective(), lr=0.3, batch_size=40, sampling="without_replacement", **SHORT | {"num_steps": 50}
    )
    assert found.predicted.tolist() == [0.0, 0.0, 0.0]
    assert len(tw.plot(found).axes[0].get_lines()) >= 3


def test_a_single_direction() -> None:
    found = tw.sgd_temperature(objective(), lr=0.3, batch_size=8, **SHORT | {"num_directions": 1})
    assert len(tw.plot(found).axes[2].get_lines()) == 1


def test_scaling(tmp_path) -> None:
    few = SHORT | {"num_steps": 300, "num_directions": 1, "drift_level": 1e-6, "min_effective_size": 10}
    found = tw.temperature_scaling(objective(), lrs=[0.2, 0.4, 0.6], batch_sizes=[4, 8], **few)
    figure = tw.plot(found, tmp_path / "scaling.svg")
    scaling, departures = figure.axes
    fitted = next(line for line in scaling.get_lines() if line.get_label() == "fitted")
    ratios = found.ratios.numpy()
    used = ratios[np.array(found.outcomes) == "stationary"]
    assert len(used) < ratios.size  # of the largest rate none
    np.testing.assert_allclose(fitted.get_xdata(), [used.min(), used.max()])
    np.testing.assert_allclose(
        np.log(fitted.get_ydata()), found.log_factor + found.value * np.log(fitted.get_xdata())
    )
    bars = scaling.containers[0].lines[2][0].get_segments()[0][:, 1]
    np.testing.assert_allclose(bars, found.runs[0].interval(0.95))
    exact = [
        line for line in departures.get_lines() if line.get_linestyle() == ":" and len(line.get_xdata()) > 0
    ]
    np.testing.assert_allclose(exact[0].get_ydata(), (found.predicted / found.continuous)[:2, 0].numpy())
    marks = [float(container.lines[0].get_ydata()[0]) for container in departures.containers]
    shown = [ratio for ratio in found.departures.T.flatten().exp().tolist() if np.isfinite(ratio)]
    np.testing.assert_allclose(marks, shown)
    assert departures.get_yscale() == "log"
    law = "T ∝ (lr / B)^" if found.fits else "No power law: mean slope "
    assert scaling.get_title(loc="left") == f"{law}{found.value:.3g}"
