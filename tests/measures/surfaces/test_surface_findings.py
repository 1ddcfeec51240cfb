"""What a slice says of itself: its curvature beside the Hessian's, and what it sees of a trajectory."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tests.networks import images, residual
from torch import Tensor, nn

from thalweg.core.measurement import Measurement
from thalweg.measures.surfaces.line import line_slice
from thalweg.measures.surfaces.plane import PlaneSlice, plane_slice
from thalweg.measures.surfaces.volume import volume_slice
from thalweg.objective.objective import Objective
from thalweg.solvers.projection import project
from thalweg.training.trajectory import TrainingHistory

DTYPE = torch.float64


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def per_example(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """A quadratic for each example."""
    slopes, bends = batch[0][:, :2], batch[0][:, 2]
    return slopes @ model.theta + bends * (model.theta[0] * model.theta[1] + model.theta[0].square())


def toy(toys, n: int) -> Objective:
    rows = normals(n, 3) + torch.tensor([0.3, -0.2, 3.0], dtype=DTYPE)
    return Objective(toys.Theta(torch.tensor([0.5, 1.0], dtype=DTYPE)), rows, loss=per_example)


def bends(surface) -> Tensor:
    """Second differences of a plane's losses at its centre, over the spacing of its grid: ``(2, 2)``."""
    L, (i, j) = surface.losses, (len(axis) // 2 for axis in surface.axes)
    a, b = (float(axis[1] - axis[0]) for axis in surface.axes)
    mixed = float(L[i + 1, j + 1] - L[i + 1, j - 1] - L[i - 1, j + 1] + L[i - 1, j - 1]) / (4 * a * b)
    along = float(L[i + 1, j] - 2 * L[i, j] + L[i - 1, j]) / a**2
    across = float(L[i, j + 1] - 2 * L[i, j] + L[i, j - 1]) / b**2
    return torch.tensor([[along, mixed], [mixed, across]], dtype=DTYPE)


@pytest.mark.parametrize("atol", [None, 0.05])
@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
def test_the_surface_that_is_drawn_bends_as_the_hessian_on_its_own_sample(toys, atol, weight_decay) -> None:
    """Of quadratics the drawn points themselves show the form, whatever the spans, and whichever examples."""
    rows = normals(4000, 3) + torch.tensor([0.3, -0.2, 3.0], dtype=DTYPE)
    at = torch.tensor([0.5, 1.0], dtype=DTYPE)
    o = Objective(toys.Theta(at), rows, loss=per_example, weight_decay=weight_decay)
    found = plane_slice(
        o, num_points=(5, 7), span=(0.4, 1.1), directions=normals(2, 2, seed=1), atol=atol, seed=0
    )
    assert (found.num_examples < 4000) == (atol is not None)
    assert found.agreement is not None
    assert found.no_agreement is None
    assert found.agreement.verdict == "agrees"
    torch.testing.assert_close(found.agreement.hessian_form, bends(found), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.agreement.curvatures, bends(found), rtol=1e-5, atol=1e-6)
    assert found.agreement.provenance["objective"]["num_examples"] == found.num_examples
    assert found.agreement.provenance["arguments"]["directions"] == found.provenance["directions"]["vectors"]
    assert found.agreement.summary in repr(found)


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_every_slice_of_a_network_says_how_it_agrees(mode) -> None:
    o = Objective(residual(0), images(), batch_norm=mode, batch_size=8)
    plane = plane_slice(o, num_points=3, seed=0)
    line = line_slice(o, num_points=3, num_directions=2, seed=0)
    volume = volume_slice(o, num_points=3, seed=0)
    for found in (plane, line, volume):
        assert found.agreement.verdict == "agrees"
        assert f"{found.agreement.summary}, batch norm {mode})" in repr(found)
        assert ("as drawn" in found.agreement.summary) == (mode == "recalibrated")
        back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
        assert back == found
    # The directions of a plane are those of the lines but for the turn of the second.
    assert float(line.agreement.hessian_form[0, 0]) == pytest.approx(
        float(plane.agreement.hessian_form[0, 0])
    )
    assert bool(line.agreement.hessian_form[0, 1].isnan())


def test_a_line_draws_what_it_compares(toys) -> None:
    o = toy(toys, 60)
    found = line_slice(o, num_points=5, span=0.3, directions=normals(2, 2, seed=1), seed=0)
    step = float(found.alphas[1] - found.alphas[0])
    drawn = (found.losses_by_direction[:, [1, 3]].sum(1) - 2 * found.value) / step**2
    torch.testing.assert_close(found.agreement.hessian_form.diagonal(), drawn, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("measure", [line_slice, plane_slice, volume_slice])
def test_it_need_not_be_compared(measure) -> None:
    o = Objective(residual(0), images())
    found, without = (measure(o, num_points=3, agreement=a, seed=0) for a in (True, False))
    assert without.agreement is None
    assert without.no_agreement is None
    assert "curvature" not in repr(without)
    assert torch.equal(found.losses, without.losses)
    with pytest.raises(ValueError, match="`agreement` must be True or False, got 1"):
        measure(o, num_points=3, agreement=1, seed=0)


class Halved(torch.autograd.Function):
    """A square with half its derivative, so that the gradient of what goes through it is none."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * g


def test_a_network_without_a_hessian_has_a_surface_all_the_same() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            z = self.lin(x)
            return torch.cat([z[:, :1].square(), Halved.apply(z[:, 1:])], dim=1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        o = Objective(Net(), (normals(9, 3), torch.arange(9) % 2))
    seen: list[tuple[int, int]] = []
    found = plane_slice(o, num_points=3, seed=0, progress=lambda *a: seen.append(a))
    assert found.agreement is None
    assert found.no_agreement
    assert "\n" not in found.no_agreement
    assert f"curvature at the centre not compared: {found.no_agreement}" in found.notes
    assert torch.equal(found.losses, plane_slice(o, num_points=3, agreement=False, seed=0).losses)
    assert seen[-1][0] == seen[-1][1]
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_a_loss_that_ends_beside_the_centre_has_a_surface_all_the_same(toys) -> None:
    def loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        theta = model.theta
        return torch.where(theta > 1 - 1e-7, theta.square(), math.nan).sum() + batch[0]

    o = Objective(toys.Theta(torch.ones(2, dtype=DTYPE)), torch.arange(5.0), loss=loss)
    found = plane_slice(o, num_points=3, directions=torch.eye(2, dtype=DTYPE), seed=0)
    assert found.no_agreement is not None
    assert "the loss is not finite" in found.no_agreement
    assert found.losses.isnan().tolist() == [[True] * 3, [True, False, False], [True, False, False]]


def walk(o: Objective, steps: int = 5, seed: int = 3) -> list[Tensor]:
    """Towards the objective's point, and there at last."""
    moves = 0.05 * normals(steps, o.space.dim, seed=seed).to(o.params)
    return [o.params + moves[t:].sum(0) for t in range(steps)] + [o.params]


@pytest.mark.parametrize("measure", [plane_slice, volume_slice])
def test_a_trajectory_is_projected_onto_the_directions_of_the_slice(measure) -> None:
    o = Objective(residual(0), images())
    path = walk(o)
    found = measure(o, num_points=3, directions="random", trajectory=path, agreement=False, seed=0)
    expected = project(path, o.params, found.directions)
    for name in ("coordinates", "residual_norms", "distances", "explained_squares", "value"):
        assert getattr(found.trajectory, name) == pytest.approx(getattr(expected, name)), name
    # Pythagoras about the centre, with the directions of the result itself.
    inside = found.directions.double() @ found.trajectory.coordinates.T
    offs = torch.stack(path).double().T - o.params.double()[:, None] - inside
    torch.testing.assert_close(found.trajectory.residual_norms, offs.norm(dim=0))
    assert float(found.trajectory.relative_residual) > 1, "two or three of so many directions see little"
    assert found.trajectory.summary in repr(found)
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert back == found


def test_its_own_components_show_most_of_it_and_the_grid_holds_it() -> None:
    o = Objective(residual(0), images())
    path = walk(o)
    found = plane_slice(o, num_points=3, directions=[path, path], trajectory=path, span="trajectory", seed=0)
    reach = found.trajectory.coordinates.abs().amax(0)
    assert [float(axis[-1]) for axis in found.axes] == pytest.approx((1.1 * reach).tolist())
    shares = [entry["share"] for entry in found.provenance["directions"]["directions"]]
    assert found.trajectory.explained_squares == pytest.approx(sum(shares), rel=1e-6)
    assert found.provenance["arguments"]["span"] == "trajectory"
    by_name = plane_slice(
        o, num_points=3, directions="trajectory", trajectory=iter(path), span="trajectory", seed=0
    )
    assert torch.equal(by_name.losses, found.losses)
    assert by_name.trajectory == found.trajectory
    assert by_name.provenance["arguments"]["directions"] == "trajectory"
    mixed = plane_slice(o, num_points=3, directions=["trajectory", "random"], trajectory=path, seed=0)
    assert mixed.direction_names == ("trajectory component 0", "random 0")


def test_networks_vectors_and_generators_are_trajectories() -> None:
    o = Objective(residual(0), images())
    path = walk(o)
    expected = plane_slice(o, num_points=3, trajectory=path, agreement=False, seed=0)
    for given in ([o.at(p) for p in path], iter(path), torch.stack(path), [p.numpy() for p in path]):
        found = plane_slice(o, num_points=3, trajectory=given, agreement=False, seed=0)
        assert found == expected
    other = plane_slice(o, num_points=3, trajectory=path[1:], agreement=False, seed=0)
    assert torch.equal(other.losses, expected.losses)
    assert other.provenance["trajectory"] != expected.provenance["trajectory"]


def test_what_is_no_trajectory_is_refused() -> None:
    o = Objective(residual(0), images())
    history = TrainingHistory.of_rows([dict.fromkeys(ROW, 1)], {})
    for given, message in (
        (history, "`trajectory` must be vectors .* got one TrainingHistory"),
        ([o.params, residual(1)], r"`trajectory\[1\]` must be a vector \(P,\) or an objective, got Residual"),
        ([o.params[1:]], r"`trajectory\[0\]` must have shape"),
        ([o.params * math.nan], r"`trajectory\[0\]` must be finite"),
        ([], "`trajectory` must hold at least one point"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            plane_slice(o, num_points=3, trajectory=given, seed=0)
    for ways in ("trajectory", ["trajectory", "top"]):
        with pytest.raises(ValueError, match="`directions='trajectory'` needs one: give `trajectory`"):
            plane_slice(o, num_points=3, directions=ways, seed=0)
    with pytest.raises(ValueError, match="got 'trajectory'"):
        line_slice(o, num_points=3, directions="trajectory", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`span='trajectory'` needs one: give `trajectory`"):
        plane_slice(o, num_points=3, span="trajectory", seed=0)
    along = plane_slice(o, num_points=3, agreement=False, seed=0).directions[:, 0]
    with pytest.raises(ValueError, match="but it does not along number 1"):
        plane_slice(o, num_points=3, span="trajectory", trajectory=[o.params + along], seed=0)
    with pytest.raises(ValueError, match="`span` must be positive and finite, got 'trajectory'"):
        line_slice(o, num_points=3, span="trajectory", seed=0)  # type: ignore[arg-type]


ROW = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate")


def test_the_sample_and_the_points_saved_are_said(toys) -> None:
    found = plane_slice(toy(toys, 4000), num_points=33, atol=0.05, tolerance=0.01, ignore="none", seed=0)
    assert f"compared on {found.num_examples:,} of 4,000 examples" in found.notes
    (saved,) = [note for note in found.notes if "interpolated" in note]
    assert saved.startswith(f"{33 * 33 - 81:,} of 1,089 points interpolated, to about ")


def test_a_record_without_arrays_and_one_of_an_earlier_version_still_say_what_they_know() -> None:
    o = Objective(residual(0), images())
    large = plane_slice(o, num_points=(65, 65), trajectory=walk(o), tolerance=0.05, seed=0)
    back = Measurement.from_dict(json.loads(json.dumps(large.to_dict(), allow_nan=False)))
    assert isinstance(back, PlaneSlice)
    assert back.losses is None
    assert back.evaluated is None
    assert large.agreement.summary in repr(back)
    assert large.trajectory.summary in repr(back)
    line = line_slice(o, num_points=5, seed=0)
    old = {k: v for k, v in line.to_dict().items() if k not in NOT_THERE_AT_FIRST}
    read = Measurement.from_dict(json.loads(json.dumps(old, allow_nan=False)))
    assert read.num_points_saved == 0  # type: ignore[attr-defined]
    assert repr(read).startswith("LineSlice(loss at the centre ")
    assert "curvature" not in repr(read)


NOT_THERE_AT_FIRST = (
    "accuracy_standard_errors",
    "dof",
    "evaluated",
    "interpolation_errors",
    "num_examples",
    "num_example_losses",
    "direction_names",
    "direction_cosines",
    "directions",
    "agreement",
    "no_agreement",
)
