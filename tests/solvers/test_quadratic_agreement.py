"""The surface's curvature at its centre against the Hessian's: where they agree, and where they must not."""

from __future__ import annotations

import json

import pytest
import torch
from tests.networks import cnn, images, mlp, residual, vectors
from torch import Tensor, nn

from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import Directions, find_directions
from thalweg.solvers.quadratic_agreement import (
    QuadraticAgreement,
    agreement_or_reason,
    quadratic_agreement,
)
from thalweg.solvers.second_differences import second_differences

DTYPE = torch.float64


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def given(o: Objective, V: Tensor) -> Directions:
    """Vectors ``(P,)`` or ``(P, D)`` as they are."""
    columns = V[:, None] if V.ndim == 1 else V
    return find_directions(o, columns, orthogonalise=False, independent=False, seed=0)


def bowl(toys, **options) -> tuple[Objective, Tensor]:
    A = normals(6, 6, seed=1)
    H = A + A.T
    return toys.quadratic(normals(6, seed=2), H, at=normals(6, seed=3), **options), H


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
def test_a_quadratic_agrees_to_rounding(toys, D: int, weight_decay: float) -> None:
    o, H = bowl(toys, weight_decay=weight_decay)
    V = normals(6, D, seed=4)
    found = quadratic_agreement(o, given(o, V))
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
        found, errors = second_differences(o, given(o, V), torch.full((2,), h, dtype=DTYPE))
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
        found, errors = second_differences(o, given(o, V), torch.full((2,), h, dtype=DTYPE))
        gaps = (found - exact).abs()
        assert bool((gaps <= errors).all()), h
        assert float(gaps.max()) > 1e-3 * h**4
        assert float(errors.max()) < 40 * float(gaps.max())


@pytest.mark.parametrize("kinds", [("random", "random"), ("top", "bottom"), ("gradient", "random")])
@pytest.mark.parametrize("mode", ["running", "batch", "recalibrated"])
@pytest.mark.parametrize("build", [cnn, residual])
def test_smooth_networks_agree_in_every_mode(build, mode: str, kinds: tuple[str, str]) -> None:
    o = Objective(build(), images(), batch_norm=mode, batch_size=8)
    found = quadratic_agreement(o, find_directions(o, kinds, seed=0))
    assert found.verdict == "agrees", found
    assert found.value <= 1e-4
    assert found.value <= 1.01 * (found.error.solver or 0)


def test_in_single_precision_the_error_is_larger_and_still_covers() -> None:
    """Where that is enough for the tolerance; else it goes on in float64."""
    exact = Objective(mlp(), vectors())
    single = exact.to_dtype(torch.float32)
    directions = find_directions(single, ("random", "random"), seed=0)
    fine = quadratic_agreement(exact, directions.cast(DTYPE))
    found = quadratic_agreement(single, directions, rtol=0.3)
    assert (found.verdict, found.precision, found.on_all) == ("agrees", "float32", None)
    gaps = (found.curvatures - fine.hessian_form).abs()
    assert bool((gaps <= found.curvature_errors).all())
    assert float(found.curvature_errors.max()) > 100 * float(fine.curvature_errors.max())
    closer = quadratic_agreement(single, directions, rtol=0.01)
    assert (closer.verdict, closer.precision) == ("agrees", "float64")
    assert closer.on_all is not None
    assert (closer.on_all.verdict, closer.on_all.precision) == ("undecided", "float32")
    assert torch.equal(closer.on_all.curvatures, found.curvatures)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["running", "recalibrated"])
def test_steps_shrink_until_kinks_are_out_of_the_way(toys, dtype: torch.dtype, mode: str) -> None:
    """A ReLU network with few examples; at the first step the difference is of the order of the curvature."""
    x, y = toys.images()
    o = Objective(toys.convnet(dtype=dtype), (x.to(dtype), y), batch_norm=mode)
    directions = find_directions(o, ("random", "random"), seed=0)
    found = quadratic_agreement(o, directions)
    assert found.verdict == "agrees", found
    assert found.precision == "float64"
    assert found.value <= (found.error.solver or 0)
    rough = quadratic_agreement(o, directions, step=0.01)
    assert rough.value > 10 * found.value
    assert rough.verdict != "agrees"


def test_recalibrated_statistics_bend_the_surface_and_that_is_said() -> None:
    """The surface's own curvature, by second derivatives through the statistics in plain PyTorch."""
    net, (x, y) = cnn(), images()
    o = Objective(net, (x, y), batch_norm="recalibrated")
    directions = find_directions(o, ("random", "random"), seed=0)
    found = quadratic_agreement(o, directions)
    assert found.verdict == "agrees"
    assert found.statistics_effect > 0.01
    # Statistics of the whole data that are differentiated through: batch mode, with one batch.
    drawn = Objective(net, (x, y), batch_norm="batch", batch_size=len(y))
    expected = quadratic_agreement(drawn, directions)
    torch.testing.assert_close(found.surface_curvatures, expected.hessian_form, rtol=1e-4, atol=1e-6)
    # And the frozen function's is another.
    assert float((found.hessian_form - expected.hessian_form).abs().max()) > 1e-3


def test_buffers_that_travel_to_a_network_bend_the_surface(toys) -> None:
    one = Objective(cnn(), images(), batch_norm="running")
    two = one.at(one.params + 0.1 * normals(one.space.dim), {k: b + 0.3 for k, b in one.buffers.items()})
    directions = find_directions(one, [two, "random"], seed=0)
    found = quadratic_agreement(one, directions)
    assert found.verdict == "agrees"
    assert found.statistics_effect > 1e-3
    without = quadratic_agreement(one, directions.cast(DTYPE, buffers=False))
    assert without.statistics_effect == 0
    torch.testing.assert_close(found.curvatures, without.curvatures, rtol=1e-12, atol=0)


def test_a_hessian_of_another_function_differs(toys, monkeypatch) -> None:
    """By six per cent, with a tolerance of five, and by four."""
    from thalweg.solvers import quadratic_agreement as module

    o, _ = bowl(toys)
    true = module._hessian_form
    for factor, verdict in ((1.06, "differs"), (1.04, "agrees")):

        def scaled(operator, V, factor=factor):
            form, errors = true(operator, V)
            return form / factor, errors

        monkeypatch.setattr(module, "_hessian_form", scaled)
        found = quadratic_agreement(o, given(o, normals(6, seed=5)))
        assert found.verdict == verdict
        assert found.value == pytest.approx(factor - 1, rel=1e-4)


def test_beside_a_kink_at_the_centre_nothing_can_be_told(toys) -> None:
    """|theta| bends at nought, whatever its second derivative is beside: the more, the smaller the step."""

    def loss(model, batch):
        return (model.theta.abs() + model.theta.square()).sum() + 0 * batch[0][:, 0]

    o = Objective(
        toys.Theta(torch.full((1,), 1e-9, dtype=DTYPE)), (torch.ones(5, 1, dtype=DTYPE),), loss=loss
    )
    found = quadratic_agreement(o, given(o, torch.ones(1, dtype=DTYPE)), step=0.01)
    assert found.verdict == "undecided"
    assert float(found.hessian_form) == pytest.approx(2)
    assert float(found.curvatures) > 50
    assert float(found.curvature_errors) > 50


def test_steps_that_rounding_swallows_decide_nothing() -> None:
    o = Objective(mlp(), vectors())
    tiny = quadratic_agreement(o, find_directions(o, ("random", "random"), seed=0), step=1e-9)
    assert tiny.verdict == "undecided"
    flat = quadratic_agreement(o.at(0 * o.params), given(o, torch.eye(o.space.dim, dtype=DTYPE)[0]))
    # Inputs do not matter while the second layer is nought.
    assert float(flat.hessian_form) == 0
    assert flat.verdict == "undecided"


def test_the_result_is_a_measurement_and_goes_through_json() -> None:
    o = Objective(residual(), images(), batch_norm="recalibrated")
    found = quadratic_agreement(o, find_directions(o, ("random", "top"), seed=0), step=(0.01, 0.02), rtol=0.1)
    assert found.steps.tolist() == [0.01, 0.02]
    assert found.batch_norm == "recalibrated"
    assert "surface and Hessian: agrees, within 0.1" in repr(found)
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
        quadratic_agreement(o, given(o, normals(o.space.dim, 2)), progress=lambda *a: seen.append(a))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_bad_input_is_refused(toys) -> None:
    o, _ = bowl(toys)
    v = given(o, normals(6))
    with pytest.raises(TypeError, match=r"`objective` must be a thalweg\.Objective"):
        quadratic_agreement(nn.Linear(1, 1), v)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`step` must be positive and finite, got 0"):
        quadratic_agreement(o, v, step=0)
    with pytest.raises(ValueError, match="`step` must be one number, or 1, one a direction"):
        quadratic_agreement(o, v, step=(0.1, 0.1))
    with pytest.raises(ValueError, match=r"`rtol` must lie in \(0, 1\)"):
        quadratic_agreement(o, v, rtol=0)
    with pytest.raises(ValueError, match="`mixed` must be True or False, got 0"):
        quadratic_agreement(o, v, mixed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`directions` must have 4 entries.* got 6"):
        quadratic_agreement(toys.quadratic(normals(4), torch.eye(4, dtype=DTYPE)), v)


def test_a_loss_that_is_not_finite_a_step_away_is_an_error(toys) -> None:
    def loss(model, batch):
        return -model.theta.log().sum() + 0 * batch[0][:, 0]

    o = Objective(toys.Theta(torch.full((2,), 0.1, dtype=DTYPE)), (torch.ones(5, 1, dtype=DTYPE),), loss=loss)
    with pytest.raises(NonFiniteLossError, match="the loss is not finite"):
        quadratic_agreement(o, given(o, torch.ones(2, dtype=DTYPE)), step=0.05)


def test_lines_are_compared_each_by_itself(toys) -> None:
    """Whatever they do to each other; with an L2 term, and as many evaluations as D lines need."""
    o, H = bowl(toys, weight_decay=0.7)
    V = normals(6, 4, seed=4)
    found = quadratic_agreement(o, given(o, V), mixed=False)
    expected = torch.einsum("pd,pq,qd->d", V, H + 0.7 * torch.eye(6, dtype=DTYPE), V)
    off = ~torch.eye(4, dtype=torch.bool)
    for array in (found.hessian_form, found.curvatures, found.surface_curvatures, found.curvature_errors):
        assert bool(array[off].isnan().all())
        assert bool(array[~off].isfinite().all())
    torch.testing.assert_close(found.hessian_form.diagonal(), expected, rtol=1e-12, atol=1e-12)
    gaps = (found.curvatures.diagonal() - expected).abs()
    assert bool((gaps <= found.curvature_errors.diagonal() + 1e-12).all())
    assert found.verdict == "agrees"
    assert found.value < 1e-6
    counts: list[int] = []
    second_differences(o, given(o, V), found.steps, mixed=False, progress=lambda _, of: counts.append(of))
    assert counts[-1] == 1 + 6 * 4
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_the_summary_names_both_sides_and_what_buffers_add() -> None:
    o = Objective(residual(), images(), batch_norm="recalibrated")
    found = quadratic_agreement(o, find_directions(o, ("random", "random"), seed=0))
    form, drawn = (
        ", ".join(f"{c:.3g}" for c in a.diagonal().tolist())
        for a in (found.hessian_form, found.surface_curvatures)
    )
    assert found.summary == (
        f"curvature at the centre: Hessian {form}, surface {form} with buffers held, "
        f"{drawn} as drawn, where they move: agrees"
    )
    many = quadratic_agreement(o, find_directions(o, "random", num_directions=5, seed=0), mixed=False)
    low, high = many.hessian_form.diagonal().min(), many.hessian_form.diagonal().max()
    assert f"Hessian {float(low):.3g} to {float(high):.3g}, surface" in many.summary


@pytest.mark.parametrize("mode", ["running", "batch", "recalibrated"])
def test_of_many_kinks_few_examples_are_out_of_the_way(mode: str) -> None:
    """Of a thousand examples and two hundred ReLUs no step misses the kinks; of a few one does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 3)).eval()
    x = normals(1000, 5, seed=1).float()
    y = torch.randint(3, (1000,), generator=torch.Generator().manual_seed(2))
    o = Objective(net, (x, y), batch_norm=mode)
    directions = find_directions(o, ("random", "random"), seed=0)
    found = quadratic_agreement(o, directions)
    assert found.verdict == "agrees", found.summary
    assert found.value < 5e-3
    assert found.on_all is not None
    whole = quadratic_agreement(o, directions, step=found.on_all.steps.tolist())
    assert torch.equal(found.on_all.hessian_form, whole.hessian_form)
    torch.testing.assert_close(found.on_all.curvatures, whole.curvatures, rtol=1e-3, atol=1e-4)
    assert found.on_all.verdict != "agrees"
    few = found.provenance["objective"]["num_examples"]
    assert few in (32, 8, 2)
    assert found.provenance["objective"]["batch_size"] == (few if mode == "batch" else 128)
    losses = o.evaluate_points([(o.params, o.buffers)]).example_losses[0]
    hardest = o.select(losses.topk(few).indices.sort().values)
    assert hardest.describe()["data"] == found.provenance["objective"]["data"]
    assert f"; of {few} examples, over smaller steps, Hessian " in found.summary
    assert ("as drawn, where they move" in found.summary) == (mode == "recalibrated")
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    smooth = Objective(
        nn.Sequential(nn.Linear(5, 200), nn.Tanh(), nn.Linear(200, 3)), (x, y), batch_norm=mode
    )
    assert quadratic_agreement(smooth, find_directions(smooth, "random", seed=0)).on_all is None


def test_where_there_is_no_hessian_the_reason_is_given(toys, monkeypatch) -> None:
    from thalweg.solvers import quadratic_agreement as module

    o, _ = bowl(toys)
    directions = given(o, normals(6))
    for error, said in (
        (DerivativeError("no composition\n passed"), "no composition passed"),
        (NonFiniteLossError("a product is not finite"), "a product is not finite"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "DefaultCPUAllocator"),
        (MemoryError(), "MemoryError"),
    ):
        seen: list[tuple[int, int]] = []
        monkeypatch.setattr(module, "Hessian", lambda *_, error=error: raised(error))
        found, reason = agreement_or_reason(
            o, directions, mixed=True, progress=lambda *a, seen=seen: seen.append(a)
        )
        assert found is None
        assert reason is not None
        assert reason.startswith(said)
        assert seen[-1] == (1, 1), "what comes after is not kept waiting"
    monkeypatch.setattr(module, "Hessian", lambda *_: raised(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        agreement_or_reason(o, directions, mixed=True)


def raised(error: Exception) -> None:
    raise error
