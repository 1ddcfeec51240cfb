"""Pictures of lines: random directions have a mean, named ones a line each."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

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
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "mean of 2 directions",
        "from the lowest direction to the highest",
    ]
    figure.canvas.draw()
    assert legend.get_window_extent().y1 < figure.axes[0].xaxis.label.get_window_extent().y0


def test_gaps_are_marked_and_all_that_was_asked_for_is_in_view(study):
    line = study.line("A1", "running")
    for values in (line.losses, line.losses_by_direction):
        values[..., :3] = torch.nan
    figure = plot(line)
    for axes in figure.axes:
        left, right = axes.get_xlim()
        assert left < -1
        assert right > 1
        (crosses,) = [mark for mark in axes.get_lines() if mark.get_marker() == "x"]
        assert crosses.get_xdata().tolist() == line.alphas[:3].tolist()
    assert not any(mark.get_marker() == "x" for mark in plot(study.line("B", "running")).axes[0].get_lines())


def test_few_points_are_marked_and_a_flat_line_fills_its_axis(mixed):
    def markers(line):
        return {drawn.get_marker() for drawn in plot(line).axes[0].get_lines()}

    assert markers(mixed) == {"."}
    flat = 0.3 + 1e-6 * mixed.losses_by_direction
    errors = torch.full_like(mixed.losses, 1e-7)
    figure = plot(dataclasses.replace(mixed, losses_by_direction=flat, loss_standard_errors=errors))
    low, high = figure.axes[0].get_ylim()
    relief = float(flat.max() - flat.min())
    assert high - low < 1.5 * relief
    assert figure.axes[0].get_title(loc="right") == "s.e. (mean) at most 1e-07; axis not from 0"


def test_numbers_of_a_tiny_span_are_apart(mixed):
    figure = plot(dataclasses.replace(mixed, alphas=1e-4 * mixed.alphas))
    figure.canvas.draw()
    numbers = [text.get_window_extent() for text in figure.axes[0].get_xticklabels() if text.get_text()]
    assert len(numbers) >= 3
    assert all(left.x1 < right.x0 for left, right in pairwise(numbers))


def test_the_errors_of_the_mean_are_called_so(mixed):
    result = dataclasses.replace(mixed, loss_standard_errors=torch.full_like(mixed.losses, 0.0213))
    assert plot(result).axes[0].get_title(loc="right") == "s.e. (mean) at most 0.021"
