"""Pictures of perturbations show what the results hold."""

from __future__ import annotations

import pytest
import torch
from tests.measures.conftest import convnet, images, quadratic

import thalweg as tw
from thalweg.core.measurement import Measurement
from thalweg.report.plot import plot


@pytest.fixture(scope="module")
def objective() -> tw.Objective:
    return tw.Objective(convnet(), images(), batch_norm="recalibrated")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("keskar_sharpness", {"num_restarts": 3, "seed": 0}),
        ("average_sharpness", {"num_samples": 3, "seed": 0}),
        ("pac_bayes_sigma", {"num_samples": 2, "scaling": "element", "seed": 0}),
        ("basin_width", {"num_directions": 2, "seed": 0}),
        ("critical_sharpness", {}),
        ("sam_sharpness", {"norm": "linf", "scaling": "filter", "seed": 0}),
    ],
)
def test_each_is_drawn_with_named_axes_and_its_mode(objective, name, arguments):
    result = getattr(tw, name)(objective, **arguments)
    figure = plot(result)
    title = figure.get_suptitle()
    assert title.endswith("batch norm: recalibrated")
    assert ("scaled by" in title) == ("scaling" in arguments)
    assert ("linf ball" in title) == ("norm" in arguments)
    (axes,) = figure.axes
    assert axes.get_xlabel()
    assert axes.get_ylabel() or not axes.get_yticks().size
    # A record draws as the result does.
    assert plot(Measurement.from_dict(result.to_dict())).axes[0].get_xlim() == axes.get_xlim()


def test_searches_show_what_was_tried_and_found(objective):
    result = tw.pac_bayes_sigma(objective, num_samples=2, seed=0)
    tried, level, found = plot(result).axes[0].get_lines()
    assert tried.get_xdata().tolist() == result.sigmas.tolist()
    assert tried.get_ydata().tolist() == result.mean_rises.tolist()
    assert set(level.get_ydata()) == {0.1}
    assert set(found.get_xdata()) == {result.value}


def test_sides_beyond_the_scan_point_outwards():
    o = quadratic(torch.tensor([1.0, 0, 0]).double(), 0.01 * torch.eye(3).double())
    result = tw.basin_width(o, num_directions=2, max_distance=5.0, normalisation="raw", ignore="none", seed=0)
    ends = {
        (line.get_marker(), round(float(line.get_xdata()[0]), 9)) for line in plot(result).axes[0].get_lines()
    }
    forwards, backwards = result.widths.isinf().any(0).tolist()
    assert forwards or backwards
    assert ((">", 5.0) in ends) == forwards
    assert (("<", -5.0) in ends) == backwards
