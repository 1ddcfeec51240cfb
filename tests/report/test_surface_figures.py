"""Pictures of surfaces: what they show, what they mark, and what they refuse."""

from __future__ import annotations

import builtins
import json
import sys

import numpy as np
import pytest
import torch
from tests.networks import images, residual

import thalweg as tw
from thalweg.report import surface_html
from thalweg.report.plot import plot
from thalweg.report.surface_figures import contour_levels, seen_from, ticks_apart
from thalweg.solvers.projection import project


@pytest.fixture(scope="module")
def plane() -> tw.Measurement:
    objective = tw.Objective(residual(0), images(21), batch_norm="recalibrated")
    return tw.plane_slice(objective, num_points=(17, 9), span=(0.8, 0.5), tolerance=0.02, seed=0)


@pytest.fixture(scope="module")
def volume() -> tw.Measurement:
    return tw.volume_slice(tw.Objective(residual(0), images(21)), num_points=5, seed=0)


def changed(result, **values):
    import dataclasses

    return dataclasses.replace(result, **values)


def test_a_plane_shows_loss_accuracy_centre_and_where_it_was_evaluated(plane, tmp_path):
    figure = plot(plane, tmp_path / "plane.png")
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")
    assert figure.get_suptitle().startswith("N = 21, batch norm: recalibrated\n")
    # Wrapped where the picture is too narrow.
    said = " ".join(figure.get_suptitle().split())
    assert all(note in said for note in plane.notes)
    assert plane.agreement.summary in plane.notes
    loss, accuracy, *bars = figure.axes
    assert loss.get_title(loc="left") == "Loss"
    assert accuracy.get_title(loc="left") == "Accuracy"
    assert [bar.get_ylabel() for bar in bars] == [
        "loss (mean cross-entropy, nats)",
        "accuracy (share correct)",
    ]
    for axes in (loss, accuracy):
        assert axes.get_xlabel().startswith("step along random 0\n(1 = each filter's own norm, a distance")
        assert axes.get_ylabel().startswith("step along random 1\n")
        assert axes.get_xlim() == (-0.8, 0.8)
        assert axes.get_ylim() == (-0.5, 0.5)
        dots, _, cross = axes.get_lines()
        assert len(dots.get_xdata()) == int(plane.evaluated.sum())
        assert cross.get_xydata().tolist() == [[0, 0]]


def test_every_point_is_inside_the_levels_and_the_axes_are_not_swapped(plane):
    ramp = plane.alphas[:, None] + 0 * plane.betas
    figure = plot(changed(plane, losses=ramp))
    drawn = figure.axes[0].collections[0]
    assert drawn.levels[0] <= -0.8
    assert drawn.levels[-1] >= 0.8
    # Contours of a function of the first direction are upright.
    for path in drawn.get_paths():
        for polygon in path.to_polygons():
            assert np.ptp(polygon[:, 1]) == pytest.approx(1.0)


def test_levels_are_in_ratios_where_the_loss_spans_decades():
    levels = contour_levels(np.array([0.03, 1.0, 400.0]))
    ratios = levels[1:] / levels[:-1]
    assert levels[0] <= 0.03
    assert levels[-1] >= 400
    assert ratios.max() < 4
    even = np.diff(contour_levels(np.array([1.0, 2.0, 3.0])))
    assert np.allclose(even, even[0])
    assert contour_levels(np.array([-1.0, 100.0]))[0] <= -1


@pytest.mark.parametrize("accuracies", [[0.01, 0.5, 0.97], [0.93, 1.0], [0.0, 1.0], [0.2, 0.99]])
def test_levels_of_accuracies_are_even_and_within_one(accuracies):
    values = np.array(accuracies)
    levels = contour_levels(values, "accuracy")
    steps = np.diff(levels)
    assert 0 <= levels[0] <= values.min()
    assert values.max() <= levels[-1] <= 1
    assert np.allclose(steps[:-1], steps[0])
    assert len(levels) >= 5


def test_a_plane_of_accuracies_over_a_decade_has_even_colours(plane):
    accuracies = torch.linspace(0.02, 0.97, plane.losses.numel(), dtype=torch.float64).reshape(
        plane.losses.shape
    )
    bar = plot(changed(plane, accuracies=accuracies)).axes[3]
    ticks = bar.get_yticks()
    assert np.allclose(np.diff(ticks)[:-1], ticks[1] - ticks[0]), "the last ends at 1"
    assert max(bar.get_ylim()) <= 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, 1.0, 1.5], ["0.5", "1", "1.5"]),
        ([0.8861, 0.8862, 0.8863], ["0.8861", "0.8862", "0.8863"]),
        ([1.0, 1.025, 1.05], ["1", "1.025", "1.05"]),
        ([0.1, 1.25, 1e5], ["0.1", "1.25", "1e+05"]),
        (1 + 1e-12 * np.arange(5), ["1"]),
    ],
)
def test_numbers_beside_colours_have_the_digits_that_tell_them_apart(values, words):
    ticks, found = ticks_apart(np.array(values))
    assert found == words
    assert len(ticks) == len(words)


def test_a_nearly_flat_plane_has_no_number_twice_beside_its_colours(plane):
    losses = 0.886 + 1e-5 * plane.losses
    bar = plot(changed(plane, losses=losses)).axes[2]
    words = [text.get_text() for text in bar.get_yticklabels()]
    assert len(set(words)) == len(words) > 4


def test_holes_are_hatched_and_flat_or_empty_surfaces_said_to_be(plane, tmp_path):
    losses = plane.losses.clone()
    losses[:5, :3] = torch.nan
    plot(changed(plane, losses=losses), tmp_path / "hole.svg")
    assert plot(changed(plane, losses=losses)).axes[0].patch.get_hatch() == "////"
    assert not plot(plane).axes[0].patch.get_hatch()
    said = " ".join(plot(changed(plane, losses=losses)).get_suptitle().split())
    assert "15 of 153 points have no finite loss: hatched around them" in said
    assert "no finite loss" not in " ".join(plot(plane).get_suptitle().split())
    flat = plot(changed(plane, losses=torch.ones_like(losses)))
    assert [t.get_text() for t in flat.axes[0].texts] == ["1 everywhere"]


def test_errors_are_in_the_title(plane):
    found = plot(changed(plane, loss_standard_errors=torch.full_like(plane.losses, 0.0213)))
    assert found.axes[0].get_title(loc="right") == "s.e. at most 0.021"


def test_a_volume_shows_its_coordinate_planes_on_one_scale(volume, tmp_path):
    figure = plot(volume, tmp_path / "volume.pdf")
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["Directions 0 and 1", "Directions 0 and 2", "Directions 1 and 2"]
    levels = [axes.collections[0].levels.tolist() for axes in figure.axes[:3]]
    assert levels[0] == levels[1] == levels[2]


def path_of(objective: tw.Objective, num: int = 4) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    moves = [torch.randn(objective.space.dim, generator=rng, dtype=torch.float64) for _ in range(num)]
    return [objective.params + 0.1 * (num - k) * move for k, move in enumerate(moves)] + [objective.params]


def test_a_trajectory_is_drawn_where_the_plane_sees_it_by_how_far_off_it_is(tmp_path):
    objective = tw.Objective(residual(0), images(21))
    path = path_of(objective)
    plane = tw.plane_slice(
        objective, num_points=3, directions=[path, path], trajectory=path, span=0.5, seed=0
    )
    figure = plot(plane, tmp_path / "path.png")
    for axes in figure.axes[:2]:
        (dots,) = [c for c in axes.collections if len(c.get_offsets()) == len(path)]
        assert np.allclose(dots.get_offsets(), plane.trajectory.coordinates.numpy())
        areas, off = dots.get_sizes(), plane.trajectory.residual_norms.numpy()
        assert np.array_equal(np.argsort(areas), np.argsort(off))
        assert areas[-1] == areas.min(), "the centre lies on the plane"
    said = " ".join(figure.get_suptitle().split())
    assert plane.trajectory.summary in said
    outside = int((plane.trajectory.coordinates.abs() > 0.5).any(1).sum())
    assert 0 < outside < len(path)
    assert f"{outside} of 5 outside the picture" in said
    assert f"the larger the farther off they lie, up to {off.max():.3g}"[:-1] in said


def test_the_planes_of_a_volume_see_a_trajectory_as_they_would_alone():
    """Where directions are oblique, as those to networks are, what leads out of a plane moves the nearest."""
    one, two, three = (tw.Objective(residual(k), images(21)) for k in (0, 1, 2))
    path = path_of(one)
    volume = tw.volume_slice(one, num_points=3, directions=[two, three, "random"], trajectory=path, seed=0)
    assert abs(float(volume.direction_cosines[0, 1])) > 0.1
    for i, j in ((0, 1), (0, 2), (1, 2)):
        alone = project(path, one.params, volume.directions[:, [i, j]])
        coordinates, off = seen_from(volume, i, j)
        assert np.allclose(coordinates, alone.coordinates, rtol=1e-8, atol=1e-12)
        assert np.allclose(off, alone.residual_norms, rtol=1e-8, atol=1e-12)
    figure = plot(volume)
    counts = [sum(len(c.get_offsets()) == len(path) for c in axes.collections) for axes in figure.axes[:3]]
    assert counts == [1, 1, 1]


def test_networks_that_directions_lead_to_are_marked_where_they_are(tmp_path):
    one, two, three = (tw.Objective(residual(k), images(21)) for k in (0, 1, 2))
    plane = tw.plane_slice(one, num_points=3, span=(1.5, 0.8), directions=[two, three], seed=0)
    figure = plot(plane)
    axes = figure.axes[0]
    squares = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == "s"]
    assert squares == [[[1.0, 0.0]]], "the other is outside"
    assert [text.get_text() for text in axes.texts] == ["network 1"]
    assert axes.get_xlabel() == f"step to network 1\n(1 = there, {float(plane.direction_norms[0]):.3g} away)"
    assert axes.get_ylabel().endswith(f"\ncosine {float(plane.direction_cosines[0, 1]):.2g} with the first")


def test_a_line_shows_where_it_was_evaluated():
    objective = tw.Objective(residual(0), images(21))
    line = tw.line_slice(objective, num_points=33, tolerance=0.01, normalisation="layer", seed=0)
    figure = plot(line)
    assert line.num_points_saved > 0
    curve, dots = figure.axes[0].get_lines()
    assert len(curve.get_xdata()) == 33
    assert dots.get_xdata().tolist() == line.alphas[line.evaluated].tolist()
    assert f"{line.num_points_saved} of 33 points interpolated, to about 0.00" in figure.get_suptitle()
    norm = float(line.direction_norms[0])
    assert figure.axes[0].get_xlabel() == (
        f"step along random 0\n(1 = each layer's own norm, a distance of {norm:.3g})"
    )
    several = tw.line_slice(objective, num_points=3, num_directions=2, seed=0)
    label = plot(several).axes[0].get_xlabel()
    assert label == "step along random directions\n(1 = each filter's own norm)"


def test_without_plotly_the_error_names_the_extra(plane, tmp_path, monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("plotly"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    for name in [m for m in sys.modules if m.startswith("plotly")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"needs Plotly, .* pip install 'thalweg\[interactive\]'"):
        plot(plane, tmp_path / "plane.html")
    assert not list(tmp_path.iterdir())


def test_only_surfaces_can_be_turned(tmp_path):
    line = tw.line_slice(tw.Objective(residual(0), images(21)), num_points=3, seed=0)
    with pytest.raises(ValueError, match=r"`path` may end in \.html for results of plane_slice"):
        plot(line, tmp_path / "line.html")


def test_a_page_to_turn_says_where_it_has_holes(plane, tmp_path):
    pytest.importorskip("plotly")
    losses = plane.losses.clone()
    losses[0, 0] = torch.inf
    plot(changed(plane, losses=losses), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "1 of 153 points has no finite loss: holes there" in text
    with pytest.raises(ValueError, match=r"`path` may end in \.html where some loss is finite"):
        plot(changed(plane, losses=torch.full_like(losses, torch.nan)), tmp_path / "b.html")


@pytest.mark.parametrize("kind", ["plane", "volume"])
def test_a_page_to_turn_needs_nothing_from_outside(kind, request, tmp_path):
    pytest.importorskip("plotly")
    result = request.getfixturevalue(kind)
    plot(result, tmp_path / "a.html")
    plot(result, tmp_path / "b.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "<script src=" not in text
    assert "batch norm: " in text
    assert result.agreement.summary.split(":")[0] in text


@pytest.mark.parametrize("measure", [tw.plane_slice, tw.volume_slice])
def test_a_page_to_turn_shows_the_trajectory_and_the_networks(measure, tmp_path):
    pytest.importorskip("plotly")
    one, two = (tw.Objective(residual(k), images(21)) for k in (0, 1))
    ways = [two, "random", "random"][: 2 if measure is tw.plane_slice else 3]
    path = path_of(one)
    result = measure(one, num_points=5, span=1.2, directions=ways, trajectory=path, seed=0)
    figure = surface_html.figure_of(result)
    landmarks, line, dots = figure.data[1:]
    assert list(landmarks.text) == ["centre", "network 1"]
    assert list(landmarks.x) == [0, 1]
    assert np.allclose([dots.x, dots.y], result.trajectory.coordinates[:, :2].T)
    assert np.allclose(dots.customdata, result.trajectory.residual_norms)
    assert len(line.x) >= len(dots.x)
    if measure is tw.plane_slice:
        # On the surface, but for the lift that keeps it visible.
        height = float(result.losses.max() - result.losses.min())
        inside = (result.trajectory.coordinates.abs() <= 1.2).all(1).numpy()
        assert np.isfinite(np.array(dots.z, dtype=float)).tolist() == inside.tolist()
        assert dots.z[-1] == pytest.approx(result.value + 0.02 * height)
        assert landmarks.z[1] == pytest.approx(two.value(), abs=0.1 * height)
    plot(result, tmp_path / "a.html")
    assert "the larger the farther off they lie" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_page_to_turn_calls_the_loss_by_its_name(plane):
    pytest.importorskip("plotly")
    nowhere = torch.full_like(plane.accuracies, torch.nan)
    result = changed(plane, accuracies=nowhere, provenance={"objective": {"loss": "mse"}})
    figure = surface_html.figure_of(result)
    surface = figure.data[0]
    assert surface.colorbar.title.text == figure.layout.scene.zaxis.title.text == "loss (mean squared error)"
    assert "accuracy" not in surface.hovertemplate
    assert "accuracy" in surface_html.figure_of(plane).data[0].hovertemplate


def test_arrays_are_exported_for_numpy(plane, tmp_path):
    tw.export_arrays(plane, tmp_path / "plane.npz")
    with np.load(tmp_path / "plane.npz", allow_pickle=False) as file:
        assert np.array_equal(file["losses"], plane.losses.numpy())
        assert np.array_equal(file["evaluated"], plane.evaluated.numpy())
        assert file["directions"].shape == (plane.directions.shape[0], 2)
        assert np.array_equal(file["agreement.curvatures"], plane.agreement.curvatures.numpy())
        rest = json.loads(str(file["json"]))
    assert rest["value"] == plane.value
    assert rest["provenance"]["objective"] == plane.provenance["objective"]
    with pytest.raises(ValueError, match=r"`path` must end in \.npz"):
        tw.export_arrays(plane, tmp_path / "plane.zip")
    with pytest.raises(TypeError, match="`result` must be a result of a measure"):
        tw.export_arrays(plane.losses, tmp_path / "plane.npz")
