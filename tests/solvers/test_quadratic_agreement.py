"""The surface's curvature at its centre against the Hessian's: where they agree, and where they must not."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tests.networks import cnn, images, mlp, residual, vectors
from torch import Tensor, nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import find_directions
from thalweg.solvers.quadratic_agreement import QuadraticAgreement, agreement
from thalweg.solvers.second_differences import second_differences

DTYPE = torch.float64


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def bowl(toys, **options) -> tuple[Objective, Tensor]:
    A = normals(6, 6, seed=1)
    H = A + A.T
    return toys.quadratic(normals(6, seed=2), H, at=normals(6, seed=3), **options), H


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
def test_a_quadratic_agrees_to_rounding(toys, D: int, weight_decay: float) -> None:
    o, H = bowl(toys, weight_decay=weight_decay)
    V = normals(6, D, seed=4)
    found = agreement(o, V)
    expected = V.T @ (H + weight_decay * torch.eye(6, dtype=DTYPE)) @ V
    torch.testing.assert_close(found.hessian_form, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.curvatures, expected, rtol=1e-7, atol=1e-7)
    assert bool(((found.curvatures - expected).abs() <= found.curvature_errors + 1e-12).all())
    assert found.verdict == "agrees"
    assert found.value < 1e-7
    assert found.statistics_effect == 0
    assert torch.equal(found.surface_curvatures, found.curvatures)


def test_of_a_quartic_the_error_covers_what_the_steps_leave(toys) -> None:
    """Along theta = t (1, 1): L = sum theta^4, second differences by hand."""

    def loss(model, batch):
        return model.theta.pow(4).sum() + 0 * batch[0][:, 0]

    o = Objective(
        toys.Theta(torch.tensor([1.0, 2.0], dtype=DTYPE)), (torch.zeros(5, 2, dtype=DTYPE),), loss=loss
    )
    V = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=DTYPE)
    exact = V.T @ torch.diag(torch.tensor([12.0, 48.0], dtype=DTYPE)) @ V
    for h in (0.4, 0.05, 1e-3):
        found, errors = second_differences(o, V, None, torch.full((2,), h, dtype=DTYPE))
        gaps = (found - exact).abs()
        assert bool((gaps <= errors + 1e-13).all()), h
        # A fourth-degree polynomial's differences are in error by a multiple of h^2, which is taken off.
        assert float(gaps.max()) <= 1e-12 / h**2

    # With a term of the sixth degree something is left, and covered.
    def steeper(model, batch):
        return model.theta.pow(6).sum() + 0 * batch[0][:, 0]

    o = Objective(
        toys.Theta(torch.tensor([1.0, 2.0], dtype=DTYPE)), (torch.zeros(5, 2, dtype=DTYPE),), loss=steeper
    )
    exact = V.T @ torch.diag(30 * torch.tensor([1.0, 16.0], dtype=DTYPE)) @ V
    for h in (0.3, 0.1, 0.03):
        found, errors = second_differences(o, V, None, torch.full((2,), h, dtype=DTYPE))
        gaps = (found - exact).abs()
        assert bool((gaps <= errors).all()), h
        assert float(gaps.max()) > 1e-3 * h**4
        assert float(errors.max()) < 40 * float(gaps.max())


@pytest.mark.parametrize("kinds", [("random", "random"), ("top", "bottom"), ("gradient", "random")])
@pytest.mark.parametrize("mode", ["running", "batch", "recalibrated"])
@pytest.mark.parametrize("build", [cnn, residual])
def test_smooth_networks_agree_in_every_mode(build, mode: str, kinds: tuple[str, str]) -> None:
    o = Objective(build(), images(), batch_norm=mode, batch_size=8)
    found = agreement(o, find_directions(o, kinds, seed=0))
    assert found.verdict == "agrees", found
    assert found.value <= 1e-4
    assert found.value <= 1.01 * (found.error.solver or 0)


def test_in_single_precision_the_error_is_larger_and_still_covers() -> None:
    exact = Objective(mlp(), vectors())
    kinds = ("random", "random")
    single = exact.to_dtype(torch.float32)
    coarse = agreement(single, find_directions(single, kinds, seed=0))
    fine = agreement(exact, find_directions(exact, kinds, seed=0))
    assert coarse.verdict == fine.verdict == "agrees"
    assert (coarse.precision, fine.precision) == ("float32", "float64")
    assert (coarse.error.solver or 0) > 10 * (fine.error.solver or 0)
    gaps = (coarse.curvatures - fine.hessian_form).abs()
    assert bool((gaps <= coarse.curvature_errors + 1e-5 * fine.hessian_form.abs().max()).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["running", "recalibrated"])
def test_steps_shrink_until_kinks_are_out_of_the_way(toys, dtype: torch.dtype, mode: str) -> None:
    """A ReLU network with few examples; at the first step the difference is of the order of the curvature."""
    x, y = toys.images()
    o = Objective(toys.convnet(dtype=dtype), (x.to(dtype), y), batch_norm=mode)
    directions = find_directions(o, ("random", "random"), seed=0)
    found = agreement(o, directions)
    assert found.verdict == "agrees", found
    assert found.precision == "float64"
    assert found.value <= (found.error.solver or 0)
    rough = agreement(o, directions, step=0.01)
    assert rough.value > 10 * found.value
    assert rough.verdict != "agrees"


def test_recalibrated_statistics_bend_the_surface_and_that_is_said() -> None:
    """The surface's own curvature, by second derivatives through the statistics in plain PyTorch."""
    net, (x, y) = cnn(), images()
    o = Objective(net, (x, y), batch_norm="recalibrated")
    directions = find_directions(o, ("random", "random"), seed=0)
    found = agreement(o, directions)
    assert found.verdict == "agrees"
    assert found.statistics_effect > 0.01
    # Statistics of the whole data that are differentiated through: batch mode, with one batch.
    drawn = Objective(net, (x, y), batch_norm="batch", batch_size=len(y))
    expected = agreement(drawn, directions.vectors)
    torch.testing.assert_close(found.surface_curvatures, expected.hessian_form, rtol=1e-4, atol=1e-6)
    # And the frozen function's is another.
    assert float((found.hessian_form - expected.hessian_form).abs().max()) > 1e-3


def test_buffers_that_travel_to_a_network_bend_the_surface(toys) -> None:
    one = Objective(cnn(), images(), batch_norm="running")
    two = one.at(one.params + 0.1 * normals(one.space.dim), {k: b + 0.3 for k, b in one.buffers.items()})
    directions = find_directions(one, [two, "random"], seed=0)
    found = agreement(one, directions)
    assert found.verdict == "agrees"
    assert found.statistics_effect > 1e-3
    without = agreement(one, directions.vectors)
    assert without.statistics_effect == 0
    torch.testing.assert_close(found.curvatures, without.curvatures, rtol=1e-12, atol=0)


def test_a_hessian_of_another_function_differs(toys, monkeypatch) -> None:
    """By six per cent, with a tolerance of five, and by four."""
    from thalweg.solvers import quadratic_agreement

    o, _ = bowl(toys)
    true = quadratic_agreement._hessian_form
    for factor, verdict in ((1.06, "differs"), (1.04, "agrees")):

        def scaled(operator, V, factor=factor):
            form, errors = true(operator, V)
            return form / factor, errors

        monkeypatch.setattr(quadratic_agreement, "_hessian_form", scaled)
        found = agreement(o, normals(6, seed=5))
        assert found.verdict == verdict
        assert found.value == pytest.approx(factor - 1, rel=1e-4)


def test_a_kink_at_the_centre_differs(toys) -> None:
    """|theta| bends at nought, whatever its second derivative is beside."""

    def loss(model, batch):
        return (model.theta.abs() + model.theta.square()).sum() + 0 * batch[0][:, 0]

    o = Objective(
        toys.Theta(torch.full((1,), 1e-9, dtype=DTYPE)), (torch.ones(5, 1, dtype=DTYPE),), loss=loss
    )
    found = agreement(o, torch.ones(1, dtype=DTYPE), step=0.01)
    assert found.verdict == "differs"
    assert float(found.hessian_form) == pytest.approx(2)
    assert float(found.curvatures) > 50


def test_steps_that_rounding_swallows_decide_nothing() -> None:
    o = Objective(mlp(), vectors())
    V = find_directions(o, ("random", "random"), seed=0).vectors
    assert agreement(o, V, step=1e-9).verdict == "undecided"
    flat = agreement(o.at(0 * o.params), torch.eye(o.space.dim, dtype=DTYPE)[:, :1])
    # Inputs do not matter while the second layer is nought.
    assert float(flat.hessian_form) == 0
    assert flat.verdict == "undecided"


def test_the_result_is_a_measurement_and_goes_through_json() -> None:
    o = Objective(residual(), images(), batch_norm="recalibrated")
    found = agreement(o, find_directions(o, ("random", "top"), seed=0), step=(0.01, 0.02), rtol=0.1)
    assert found.steps.tolist() == [0.01, 0.02]
    assert found.batch_norm == "recalibrated"
    assert "surface and Hessian: agrees within 0.1" in repr(found)
    assert found.interval()[1] == pytest.approx(found.value + (found.error.solver or 0))
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert isinstance(back, QuadraticAgreement)
    assert back.verdict == found.verdict
    assert torch.equal(back.curvatures, found.curvatures)
    arguments = found.provenance["arguments"]
    assert arguments["step"] == [0.01, 0.02]
    assert arguments["rtol"] == 0.1


def test_progress_never_falls_and_ends_at_the_whole(unchanged) -> None:
    net, data = cnn(), images()
    seen: list[tuple[int, int]] = []
    with unchanged(net, *data):
        o = Objective(net, data, batch_norm="recalibrated")
        agreement(o, normals(o.space.dim, 2), progress=lambda *a: seen.append(a))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_bad_input_is_refused(toys) -> None:
    o, _ = bowl(toys)
    v = normals(6)
    with pytest.raises(TypeError, match=r"`objective` must be a thalweg\.Objective"):
        agreement(nn.Linear(1, 1), v)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`step` must be positive and finite, got 0"):
        agreement(o, v, step=0)
    with pytest.raises(ValueError, match="`step` must be one number, or 1, one a direction"):
        agreement(o, v, step=(0.1, 0.1))
    with pytest.raises(ValueError, match=r"`rtol` must lie in \(0, 1\)"):
        agreement(o, v, rtol=0)
    with pytest.raises(ValueError, match=r"`directions` must have shape \(6, 1\)"):
        agreement(o, v[1:])
    with pytest.raises(ValueError, match="none that is zero"):
        agreement(o, 0 * v)
    with pytest.raises(ValueError, match="`directions` must be finite"):
        agreement(o, v * math.nan)


def test_a_loss_that_is_not_finite_a_step_away_is_an_error(toys) -> None:
    def loss(model, batch):
        return -model.theta.log().sum() + 0 * batch[0][:, 0]

    o = Objective(toys.Theta(torch.full((2,), 0.1, dtype=DTYPE)), (torch.ones(5, 1, dtype=DTYPE),), loss=loss)
    with pytest.raises(NonFiniteLossError, match="the loss is not finite"):
        agreement(o, torch.ones(2, dtype=DTYPE), step=0.05)
