"""Pictures of lines: random directions have a mean, named ones a line each."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.networks import images, residual

import thalweg as tw
from thalweg.report.plot import plot


@pytest.fixture(scope="module")
def mixed() -> tw.LineSlice:
    one, two = (tw.Objective(residual(k), images(21)) for k in (0, 1))
    return tw.line_slice(one, num_points=5, directions=["random", two, "random"], seed=0)


def drawn(axes) -> list[list[float]]:
    return [line.get_ydata().tolist() for line in axes.get_lines()]


def test_named_directions_have_a_line_each_with_name_and_length(mixed, tmp_path):
    figure = plot(mixed, tmp_path / "line.png")
    loss, accuracy = figure.axes
    assert drawn(loss) == mixed.losses_by_direction.tolist()
    assert drawn(accuracy) == mixed.accuracies_by_direction.tolist()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{name} (length {norm:.3g})"
        for name, norm in zip(mixed.direction_names, mixed.direction_norms.tolist(), strict=True)
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in loss.get_lines()}) == 3
    assert loss.get_xlabel() == "step along each direction\n(1 = its length)"


def test_labels_of_the_panels_do_not_overlap(mixed):
    figure = plot(mixed)
    figure.canvas.draw()
    left, right = (axes.xaxis.label.get_window_extent() for axes in figure.axes)
    assert left.x1 < right.x0
    assert left.x0 >= 0
    assert right.x1 <= figure.bbox.x1


def test_draws_of_one_random_kind_have_their_mean(mixed):
    objective = tw.Objective(residual(0), images(21))
    line = tw.line_slice(objective, num_points=3, num_directions=2, seed=0)
    figure = plot(line)
    assert drawn(figure.axes[0]) == [line.losses.tolist()]
    assert not figure.legends


def test_the_errors_of_the_mean_are_called_so(mixed):
    result = dataclasses.replace(mixed, loss_standard_errors=torch.full_like(mixed.losses, 0.0213))
    assert plot(result).axes[0].get_title(loc="right") == "s.e. (mean) at most 0.021"
