"""The picture of an alignment: starts, ends, and the share of units that moved."""

from __future__ import annotations

import pytest
import torch
from tests.networks import images, residual

import thalweg as tw


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_starts_ends_and_moved_units_are_drawn(method, tmp_path):
    a, b = (tw.Objective(residual(seed), images()) for seed in (0, 1))
    result = tw.align_permutation(a, b, method=method, num_restarts=3, seed=0)
    figure = tw.plot(result, tmp_path / "alignment.svg")
    runs, layers = figure.axes
    starts, ends, kept = (line.get_xdata() for line in runs.get_lines())
    assert list(starts) == result.start_similarities.tolist()
    assert list(ends) == result.similarities.tolist()
    assert set(kept) == {float(result.similarities.max())}
    (bar,) = layers.patches
    assert bar.get_width() == pytest.approx(100 * float(result.num_moved[0] / result.num_units[0]))
    assert [text.get_text() for text in layers.get_yticklabels()] == list(result.layers)
    assert figure.get_suptitle() == "N = 21, batch norm: running"
    back = tw.Measurement.from_dict(result.to_dict())
    assert torch.equal(back.num_moved, result.num_moved)
    tw.plot(back)
