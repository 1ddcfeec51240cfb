"""What lies between two minima: networks permuted by hand, known geometry, and what cannot be had."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.measures.connectivity.test_permutation import pair
from tests.networks import images, residual, shuffle_statistics, vectors
from torch import Tensor, nn

import thalweg as tw
from thalweg.analyses.mode_connectivity_parts import BEND, expected_passes
from thalweg.analyses.network_plane import corner_indices, pass_height

QUICK: dict[str, Any] = {"num_points": 5, "num_steps": 20, "plane_points": 7, "seed": 0}


def between(a: Any, b: Any, **more: Any) -> tw.ModeConnectivity:
    return tw.mode_connectivity(a, b, **{**QUICK, **more})


def hidden(seed: int, width: int = 6, **layers: Any) -> nn.Sequential:
    """Dense, batch norm with statistics of its own, tanh, dense."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(5, width), nn.BatchNorm1d(width, **layers), nn.Tanh(), nn.Linear(width, 3)
        )
    return cast(nn.Sequential, shuffle_statistics(model, seed).double())


def two(mode: Any = "recalibrated", seeds: tuple[int, int] = (0, 1), n: int = 40) -> list[tw.Objective]:
    return [tw.Objective(hidden(s).eval(), vectors(n), batch_norm=mode, batch_size=8) for s in seeds]


# -- networks permuted by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
@pytest.mark.parametrize("name", ["relu", "convolutional", "residual"])
def test_a_network_permuted_by_hand_has_no_barrier_and_no_distance_once_aligned(name, mode):
    a, b = pair(name, batch_norm=mode, batch_size=50)
    found = between(a, b, num_restarts=10, num_steps=5)
    assert found.distances.tolist() == pytest.approx([float((a.params - b.params).norm()), 0.0])
    assert float(found.angles[0]) > 10
    assert float(found.angles[1]) == pytest.approx(0, abs=1e-6)
    (line,), (aligned,) = found.lines, found.aligned_lines
    assert line is not None
    assert line.barrier > 1e-3
    assert aligned is not None
    assert aligned.barrier == pytest.approx(0, abs=1e-12)
    assert found.value == aligned.barrier
    assert found.lowest == "straight line, aligned"
    # The aligned b is a itself: the curve's bend takes its place in the plane.
    assert found.plane_names == ("a", "b", BEND)
    assert float(found.curve_residuals.max()) == pytest.approx(0, abs=1e-10)


# -- numbers and geometry --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_every_part_is_what_the_measure_alone_gives(mode):
    a, b = two(mode)
    found = between(a, b, method="activations", num_restarts=3, seed=4)
    alignment = tw.align_permutation(a, b, method="activations", num_restarts=3, seed=4)
    assert found.alignment == alignment
    assert found.lines == (tw.linear_path(a, b, num_points=5, population=True),)
    assert found.aligned_lines == (tw.linear_path(a, alignment.objective, num_points=5, population=True),)
    curve = tw.bezier_path(a, b, num_points=5, num_steps=20, population=True, seed=4)
    assert found.curve == curve
    barriers = [found.lines[0].barrier, found.aligned_lines[0].barrier, curve.barrier]  # type: ignore[union-attr]
    assert found.value == min(barriers)
    assert found.error == found.paths[str(found.lowest)].error
    assert found.reasons == {}


def test_the_networks_lie_on_the_plane_where_it_says():
    a, b = two("running")
    found = between(a, b)
    assert found.alignment is not None
    assert found.plane is not None
    assert found.plane_names == ("a", "b", "b, aligned")
    losses = [float(found.plane.losses[i]) for i in corner_indices(7)]
    there = b.at(found.alignment.params, dict(found.alignment.buffers))
    assert losses == pytest.approx([a.value(), b.value(), there.value()], rel=1e-12)
    # The pass of a plane that holds both is no lower than the higher end, and no infinity.
    assert max(losses[:2]) <= float(found.saddles[0]) < math.inf
    assert max(losses[::2]) <= float(found.saddles[1]) < math.inf
    for row in found.rows:
        if row.quantity.startswith("saddle") and row.before and row.aligned:
            assert max(losses[:2]) <= row.before.low <= row.before.value <= row.before.high
            assert max(losses[::2]) <= row.aligned.low <= row.aligned.value


def test_angles_and_distances_are_euclids():
    def at(*numbers: float) -> tw.Objective:
        model = nn.Linear(2, 1, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(torch.tensor([numbers]))
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return tw.Objective(model, (x, x.sum(1, keepdim=True)), loss="mse")

    found = between(at(1, 0), at(1, 1), start=at(0, 1))
    assert float(found.distances[0]) == pytest.approx(1)
    assert found.norms.tolist() == pytest.approx([1, math.sqrt(2)])
    assert float(found.angles[0]) == pytest.approx(45)
    assert found.start_angle == pytest.approx(45)
    assert between(at(1, 0), at(0, 2), start=at(0, 0)).start_angle == pytest.approx(90)
    # An angle of 1e-9 radian is lost in an arccosine.
    assert float(between(at(1, 0), at(1, 1e-9)).angles[0]) == pytest.approx(math.degrees(1e-9), rel=1e-6)
    assert math.isnan(float(between(at(0, 0), at(1, 1)).angles[0]))


def test_the_curve_is_projected_with_what_it_leaves_out():
    a, b = two()
    found = between(a, b, num_steps=200)
    assert found.curve is not None
    assert found.plane is not None
    assert found.curve_coordinates.shape == (5, 2)
    # Its ends are networks of the plane, its middle is not.
    assert found.curve_coordinates[[0, -1]].tolist() == [
        pytest.approx([1, 1], abs=1e-9),
        pytest.approx([-1, 1], abs=1e-9),
    ]
    assert found.curve_residuals[[0, -1]].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert float(found.curve_residuals[2]) > 1e-2
    assert any("The curve leaves the plane" in line for line in found.remarks)


def joined_by_flooding(heights: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> float:
    """The lowest level at which a flood from `start` reaches `end`: every level is tried."""
    for level in sorted(heights[np.isfinite(heights)]):
        if heights[start] > level:
            continue
        reached, front = {start}, [start]
        while front:
            i, j = front.pop()
            for there in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                inside = 0 <= there[0] < heights.shape[0] and 0 <= there[1] < heights.shape[1]
                if inside and there not in reached and heights[there] <= level:
                    reached.add(there)
                    front.append(there)
        if end in reached:
            return float(level)
    return math.inf


def test_the_pass_between_two_points_is_that_of_a_flood():
    rng = np.random.default_rng(0)
    for _ in range(20):
        heights = rng.normal(size=(9, 7)).round(1)
        heights[rng.random(heights.shape) < 0.2] = np.nan
        heights[0, 0] = heights[-1, -1] = -1.0
        expected = joined_by_flooding(heights, (0, 0), (8, 6))
        assert pass_height(torch.from_numpy(heights), (0, 0), (8, 6)) == expected


def test_the_pass_of_a_double_well_is_its_saddle():
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    heights = (x[:, None] ** 2 - 1) ** 2 + x[None, :] ** 2 + 0.3  # minima at x = -1 and 1, saddle at nought
    assert pass_height(heights, (10, 20), (30, 20)) == pytest.approx(1.3)
    assert pass_height(heights, (10, 20), (10, 20)) == pytest.approx(0.3)


# -- what cannot be had ----------------------------------------------------------------------------------


def test_units_that_may_not_trade_places_cost_no_other_number():
    a, b = (tw.Objective(nn.Linear(5, 3).double(), vectors(40)) for _ in range(2))
    found = between(a, b)
    assert "hidden units" in found.reasons["alignment"]
    assert found.reasons["aligned_lines"] == found.reasons["alignment"]
    assert found.alignment is None
    assert found.aligned_lines == (None,)
    assert found.modes == (None,)
    assert math.isnan(float(found.distances[1]))
    assert float(found.distances[0]) > 0
    assert found.lines[0] is not None
    assert found.curve is not None
    assert found.plane_names == ("a", "b", BEND)
    assert found.topology is not None
    rows = {row.quantity: row for row in found.rows}
    assert rows["distance"].aligned is not None
    assert rows["distance"].aligned.reason == found.reasons["alignment"]
    assert rows["saddle on the plane (loss)"].aligned is None


def test_no_path_of_finite_loss_is_said_and_distance_and_angle_are_still_there():
    class Wall(nn.Module):
        def __init__(self, w: float) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([w, 1.0], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            # Not finite for |w| < 1/2, whatever the other parameter: no path leads around.
            return x + torch.where(self.w[0].abs() < 0.5, math.nan, 0.0) + 0 * self.w.sum()

    x = torch.zeros(8, 1, dtype=torch.float64)
    a, b = (tw.Objective(Wall(w), (x, x), loss="mse") for w in (-1.0, 1.0))
    found = between(a, b)
    assert math.isnan(found.value)
    assert repr(found) == "ModeConnectivity(no path of finite loss)"
    assert found.distances[0] == 2
    for part in ("lines", "curve"):
        assert "not finite" in found.reasons[part]
    assert "No path has a finite loss everywhere." in found.remarks
    back = tw.Measurement.from_dict(found.to_dict())
    assert back == found


def test_modes_that_one_cannot_be_measured_in_and_batches_that_are_too_few():
    def run(seed: int) -> tw.Run:
        return tw.Run(
            {"seed": seed},
            lambda: hidden(seed, track_running_stats=False),
            {"data": vectors(40), "batch_size": 40},
        )

    found = between(run(0), run(1))
    assert found.modes == ("running", "recalibrated", "batch")
    assert found.reference_mode == "recalibrated"
    assert "needs stored statistics" in found.reasons["running"]
    assert [line is None for line in found.lines] == [True, False, False]
    rows = [row for row in found.rows if row.quantity == "barrier, straight line"]
    assert [bool(row.before and row.before.reason) for row in rows] == [True, False, False]
    # A single batch has a barrier, and no spread.
    assert "two independent units" in found.reasons["population batch"]
    assert [line and line.error.data is not None for line in found.lines] == [None, True, False]


def test_a_single_batch_costs_no_line_and_no_curve():
    a, b = (tw.Objective(hidden(s).eval(), vectors(40), batch_norm="batch", batch_size=40) for s in (0, 1))
    found = between(a, b)
    assert found.lines == (tw.linear_path(a, b, num_points=5),)
    assert found.curve is not None
    assert found.value == min(path.barrier for path in found.paths.values())
    assert "two independent units" in found.reasons["population batch"]


def test_runs_are_measured_in_every_mode_and_one_alignment_serves_all():
    runs = [
        tw.Run({"seed": s}, lambda s=s: hidden(s), {"data": vectors(40), "batch_size": 8}) for s in (0, 1)
    ]
    found = between(*runs)
    assert found.alignment is not None
    for i, mode in enumerate(("running", "recalibrated", "batch")):
        a, b = two(mode)
        there = b.at(found.alignment.params, dict(found.alignment.buffers))
        assert found.lines[i] == tw.linear_path(a, b, num_points=5, population=True)
        assert found.aligned_lines[i] == tw.linear_path(a, there, num_points=5, population=True)
    # Without batch norm there is one row, and it has no mode.

    def plain(seed: int) -> tw.Run:
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        return tw.Run({"seed": seed}, lambda: layers, {"data": vectors(40)})

    plain_one = between(plain(0), plain(1), num_steps=0, plane_points=0)
    assert plain_one.modes == (None,)
    assert plain_one.batch_norm is None


def test_what_is_not_asked_for_is_left_out():
    found = between(*two(), num_steps=0, plane_points=0)
    assert found.reasons == {
        "curve": "not asked for (num_steps=0)",
        "plane": "not asked for (plane_points=0)",
        "topology": "not asked for (plane_points=0)",
    }
    assert found.curve is None
    assert found.plane is None
    assert found.plane_names == ()
    assert bool(found.saddles.isnan().all())


def test_without_gudhi_only_the_topology_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gudhi", None)
    found = between(*two())
    assert found.topology is None
    assert "topology" in found.reasons["topology"]
    assert found.plane is not None
    assert float(found.saddles[0]) > 0


# -- bad input -------------------------------------------------------------------------------------------


def other_data() -> list[tw.Objective]:
    a, _ = two()
    return [a, tw.Objective(hidden(1), vectors(39), batch_norm="recalibrated", batch_size=8)]


BAD: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "another shape": (
        lambda: between(two()[0], tw.Objective(hidden(0, 7), vectors(40), batch_norm="recalibrated")),
        ValueError,
        r"same trainable parameters, but 0.weight has shape",
    ),
    "other data": (lambda: between(*other_data()), ValueError, "`a` and `b` must be points of one function"),
    "two modes": (
        lambda: between(two()[0], two("batch")[1]),
        ValueError,
        "`modes` must be the objectives' own",
    ),
    "a bare network": (lambda: between(two()[0], hidden(1)), TypeError, "`b` must be a thalweg.Objective"),
    "another start": (
        lambda: between(*two(), start=tw.Objective(hidden(0, 7), vectors(40))),
        ValueError,
        "`start` must have the same trainable parameters",
    ),
    "no start": (lambda: between(*two(), start=hidden(0)), TypeError, "`start` must be a thalweg.Objective"),
    "a plane off the grid": (
        lambda: between(*two(), plane_points=11),
        ValueError,
        "`plane_points` must be 7",
    ),
    "a truth value": (lambda: between(*two(), plane_points=True), ValueError, "`plane_points` must be 7"),
    "a method": (lambda: between(*two(), method="magic"), ValueError, "`method` must be one of weights"),
    "too few points": (lambda: between(*two(), num_points=2), ValueError, "`num_points` must be a whole"),
    "too large a rate": (lambda: between(*two(), learning_rate=-1), ValueError, "`learning_rate` must be"),
    "a level in per cent": (lambda: between(*two(), level=95), ValueError, r"`level` must lie in \(0, 1\)"),
    "one name": (lambda: between(*two(), names=("x", "x")), ValueError, "`names` must be two different"),
    "a flag in words": (lambda: between(*two(), population="yes"), ValueError, "`population` must be True"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_at_once(case, monkeypatch):
    monkeypatch.setattr(
        tw.Objective, "evaluate_points", lambda *_, **__: pytest.fail("something was measured")
    )
    call, kind, words = BAD[case]
    with pytest.raises(kind, match=words):
        call()


def test_networks_of_two_functions_are_refused_though_their_shapes_agree():
    a = two()[0]
    model = nn.Sequential(hidden(1)[0], hidden(1)[1], nn.ReLU(), hidden(1)[3])
    relu = tw.Objective(model, vectors(40), batch_norm="recalibrated", batch_size=8)
    with pytest.raises(ValueError, match="an activation, a mask or an epsilon"):
        between(a, relu)


# -- work ------------------------------------------------------------------------------------------------


def test_the_work_foreseen_is_the_work_done():
    calls: list[tuple[int, int]] = []
    a, b = two()
    between(a, b, progress=lambda done, whole: calls.append((done, whole)))
    expected = expected_passes(
        40, ["recalibrated"], num_norms=1, num_points=5, num_steps=20, batch_size=8, plane_points=7
    )
    assert calls[0][1] == pytest.approx(sum(expected.values()), rel=0.1)
    assert calls[-1][0] == calls[-1][1] == pytest.approx(sum(expected.values()), rel=0.1)
    done = [c[0] for c in calls]
    assert done == sorted(done)
    assert expected["plane"] == 49 * 2 * 40


def test_residual_networks_of_images_go_through(unchanged):
    models = [residual(seed) for seed in (0, 1)]
    objectives = [tw.Objective(m, images(21), batch_norm="recalibrated", batch_size=8) for m in models]
    with unchanged(models):
        found = between(*objectives, names=("first", "second"))
    assert found.names == ("first", "second")
    assert "an upper bound on what separates the two" in found.remarks[0]
