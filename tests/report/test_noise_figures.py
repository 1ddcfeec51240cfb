"""The picture of the gradient noise: what is drawn is what the result says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tests.operators.cases import CASES

import thalweg as tw


@pytest.fixture(scope="module")
def result() -> tw.GradientNoise:
    return tw.gradient_noise(CASES["residual-running"].objective(), k=3, population=True, seed=0)


def test_three_panels(result: tw.GradientNoise, tmp_path) -> None:
    figure = tw.plot(result, tmp_path / "noise.png")
    spectra, proportion, kurtosis = figure.axes
    assert figure.get_suptitle() == "N = 21, batch norm: running"
    values = result.eigenvalues.numpy()
    np.testing.assert_allclose(spectra.get_lines()[0].get_ydata(), values / values[0])
    assert result.hessian is not None
    assert result.ggn is not None
    points = [line for line in proportion.get_lines() if line.get_marker() == "o"]
    for line, curvature in zip(points, (result.hessian, result.ggn), strict=True):
        np.testing.assert_allclose(line.get_xdata(), curvature.eigenvalues.numpy())
        np.testing.assert_allclose(line.get_ydata(), curvature.noise_along.numpy())
    nearest = [line for line in proportion.get_lines() if line.get_linestyle() == ":"]
    slope = result.hessian.trace_product / float(result.hessian.samples[:, 1].mean())
    assert nearest[0].get_ydata()[1] == pytest.approx(slope * float(result.hessian.eigenvalues.max()))
    np.testing.assert_allclose(kurtosis.get_lines()[0].get_ydata(), result.kurtosis.numpy())
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_bars_end_where_no_value_can_be(result: tw.GradientNoise) -> None:
    wide = dataclasses.replace(
        result, eigenvalue_errors=10 * result.eigenvalues, kurtosis_errors=10 + result.kurtosis.abs()
    )
    spectra, _, kurtosis = tw.plot(wide).axes
    for axes, least in ((spectra, 0.0), (kurtosis, -2 / result.batch_size)):
        (bars,) = axes.containers[0].lines[2]
        lowest = min(segment[:, 1].min() for segment in bars.get_segments())
        assert lowest == pytest.approx(least, abs=1e-12)


def test_what_is_not_there_is_not_drawn() -> None:
    objective = CASES["residual-batch"].objective()
    figure = tw.plot(tw.gradient_noise(objective, k=1, against=[], seed=0))  # three batches: no kurtosis
    assert len(figure.axes) == 2
    with pytest.raises(ValueError, match=r"`result` must hold directions to be drawn, .* k=0"):
        tw.plot(tw.gradient_noise(objective, k=0, seed=0))
