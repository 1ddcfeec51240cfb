"""Pictures of curvature: what is drawn is what the result says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.operators.cases import CASES

import thalweg as tw
from thalweg.objective.objective import Objective

CALLS: dict[str, dict[str, Any]] = {
    "spectral_density": {"num_probes": 3, "num_steps": 5},
    "hessian_trace": {"rtol": 0.3},
    "block_curvature": {"num_probes": 3, "num_steps": 3},
    "curvature_profile": {"max_matvecs": 16},
}


@pytest.fixture(scope="module")
def objective() -> Objective:
    return CASES["residual-running"].objective()


def drawn(objective: Objective, name: str) -> tuple[Any, Any]:
    result = {**tw.MEASURES, **tw.ANALYSES}[name](objective, seed=0, **CALLS[name])
    return result, tw.plot(result)


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_named(objective: Objective, name: str, tmp_path) -> None:
    result, figure = drawn(objective, name)
    assert figure.get_suptitle() == "hessian, N = 21, batch norm: running"
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_xlabel() or axes.get_label() == "<colorbar>"
    tw.plot(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_density(objective: Objective) -> None:
    result, figure = drawn(objective, "spectral_density")
    axes = figure.axes[0]
    curve = next(line for line in axes.get_lines() if line.get_label().startswith("density"))
    peak = float(result.density(result.grid()).max())
    assert curve.get_ydata().max() == pytest.approx(peak)
    rug = next(line for line in axes.get_lines() if line.get_label() == "nodes")
    np.testing.assert_array_equal(rug.get_xdata(), result.nodes.numpy())
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < 1 / (result.dim * result.width * np.sqrt(2 * np.pi))


def test_traces_of_the_layers(objective: Objective) -> None:
    result, figure = drawn(objective, "hessian_trace")
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == list(result.layers)
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], result.layer_traces.numpy())


def test_profile(objective: Objective) -> None:
    result, figure = drawn(objective, "curvature_profile")
    density, log_det, layers = figure.axes
    assert [t.get_text() for t in layers.get_yticklabels()] == list(result.layers)
    widths = [bar.get_width() for bar in layers.patches]
    np.testing.assert_allclose(widths, result.layer_traces.numpy())
    damping, y = log_det.get_lines()[0].get_data()
    np.testing.assert_allclose(y, result.log_det(damping).value / result.density.dim)
    assert {result.lambda_max_upper, result.lambda_min_lower} <= {
        float(line.get_xdata()[0]) for line in density.get_lines() if len(line.get_xdata())
    }


def test_blocks(objective: Objective) -> None:
    result, figure = drawn(objective, "block_curvature")
    image = figure.axes[0].get_images()[0].get_array()
    np.testing.assert_allclose(np.ma.filled(image, 0), result.block_norms.numpy())
    assert f"{100 * result.value:.3g} %" in figure.axes[0].get_title(loc="left")


def test_the_zero_matrix() -> None:
    """Nothing to see, but no error either."""
    objective = CASES["mlp-mse"].objective()
    flat = Objective(
        CASES["mlp-mse"].model(), CASES["mlp-mse"].data(), loss=lambda outputs, _: 0 * outputs.sum(1)
    )
    assert flat.space == objective.space
    for name in CALLS:
        drawn(flat, name)
    _, figure = drawn(flat, "block_curvature")
    assert len(figure.axes) == 1, "no scale of colours where there is nothing to shade"


def test_both_ends_by_rank(objective: Objective) -> None:
    result = tw.top_eigenvalues(objective, 2, which="both", seed=0)
    (axes,) = tw.plot(result).axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "−1", "−2"]
    places, values = axes.get_lines()[0].get_data()
    np.testing.assert_array_equal(values, result.eigenvalues)
    assert list(places) == [0, 1, 4, 3], "from the largest on the left to the smallest on the right"
    bounds = [tuple(line.get_ydata()) for line in axes.get_lines() if line.get_linewidth() == 7]
    assert bounds == [
        (result.lower_bound, result.upper_bound),
        (result.smallest_lower_bound, result.smallest_upper_bound),
    ]


def test_a_block_is_named_and_data_error_shown(objective: Objective) -> None:
    result = tw.hessian_trace(objective, rtol=0.3, params="head", population=True, num_folds=3, seed=0)
    figure = tw.plot(result)
    assert figure.get_suptitle() == "hessian, block head, N = 21, batch norm: running"
    title = figure.axes[0].get_title(loc="left")
    assert title == f"trace {result.value:.4g} ± {result.error.half_width(0.95):.2g} (95 %)"


def test_bars_are_intervals_by_the_degrees_of_freedom(objective: Objective) -> None:
    result, figure = drawn(objective, "curvature_profile")
    (container,) = (c for c in figure.axes[2].containers if hasattr(c, "errorbar"))
    bars = container.errorbar.lines[2][0].get_segments()
    quantile = float(stats.t.ppf(0.975, result.num_probes - 1))
    half = [(right[0] - left[0]) / 2 for left, right in bars]
    np.testing.assert_allclose(half, quantile * result.layer_trace_errors.numpy(), rtol=1e-9)
