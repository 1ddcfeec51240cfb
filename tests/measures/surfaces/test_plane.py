"""`plane_slice` and `volume_slice` on all examples: closed forms, plain PyTorch, the centre to the bit."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.surfaces.line import line_slice
from thalweg.measures.surfaces.plane import PlaneSlice, plane_slice
from thalweg.measures.surfaces.volume import volume_slice
from thalweg.objective import compilation, evaluation
from thalweg.objective.compilation import COMPILED
from thalweg.objective.objective import Objective
from thalweg.solvers import row_table
from thalweg.solvers.directions import find_directions
from thalweg.solvers.surface import Surface

MODES = ("running", "recalibrated", "batch")


@pytest.fixture
def objective(toys) -> Objective:
    return Objective(toys.convnet(), toys.images(), batch_size=8)


def quadratic(toys, P: int = 6, **kwargs: Any) -> tuple[Objective, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    g, A, at = (torch.randn(*s, generator=rng, dtype=torch.float64) for s in ((P,), (P, P), (P,)))
    return toys.quadratic(g, A + A.T, at=at, **kwargs), g, A + A.T, at


def test_a_quadratic_is_its_own_surface(toys) -> None:
    o, g, H, at = quadratic(toys)
    found = plane_slice(o, num_points=(7, 5), span=(0.4, 2.0), ignore="none", seed=1)
    assert found.losses.shape == (7, 5)
    assert found.alphas.tolist() == pytest.approx([0.4 * i / 3 for i in range(-3, 4)])
    assert found.betas.tolist() == [-2, -1, 0, 1, 2]
    for i, a in enumerate(found.alphas):
        for j, b in enumerate(found.betas):
            x = at + a * found.directions[:, 0] + b * found.directions[:, 1]
            assert float(found.losses[i, j]) == pytest.approx(float(g @ x + 0.5 * x @ H @ x), rel=1e-12)
    assert found.accuracies.isnan().all()
    assert found.evaluated.all()
    assert found.num_points_saved == 0
    assert not found.interpolation_errors.any()
    assert found.interval() == (found.value, found.value)


def test_directions_are_orthogonal_and_come_with_the_result(toys, objective: Objective) -> None:
    found = plane_slice(objective, num_points=3, seed=4)
    expected = find_directions(objective, "random", num_directions=2, seed=4)
    assert torch.equal(found.directions, expected.vectors)
    assert torch.equal(found.direction_norms, expected.norms)
    assert float(found.direction_cosines[0, 1]) == pytest.approx(0, abs=1e-12)
    assert found.direction_names == ("random 0", "random 1")
    assert found.provenance["directions"] == expected.description


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_centre_is_the_objectives_value_to_the_bit(toys, mode, weight_decay, dtype) -> None:
    o = Objective(
        toys.convnet(dtype=dtype), toys.images(), batch_norm=mode, batch_size=8, weight_decay=weight_decay
    )
    found = plane_slice(o, num_points=(3, 5), seed=0)
    assert found.value == o.value() == float(found.losses[1, 2])
    assert found.accuracies[1, 2] == o.evaluate().accuracy
    assert found.penalties[1, 2] == o.evaluate().penalty
    assert (found.penalties[0] > 0).all() or weight_decay == 0


@pytest.mark.parametrize("mode", MODES)
def test_points_are_what_plain_pytorch_makes_of_the_moved_weights(toys, mode) -> None:
    net, data = toys.convnet(), toys.images()
    o = Objective(net, data, batch_norm=mode, batch_size=8, micro_batch=5)
    found = plane_slice(o, num_points=3, span=0.7, ignore="none", seed=0)
    for i, a in enumerate(found.alphas):
        for j, b in enumerate(found.betas):
            moved = toys.moved(net, a * found.directions[:, 0] + b * found.directions[:, 1])
            loss, accuracy = toys.plain_loss(moved, data, mode)
            assert float(found.losses[i, j]) == pytest.approx(loss.item(), rel=1e-12)
            assert float(found.accuracies[i, j]) == pytest.approx(accuracy)


@pytest.mark.parametrize("mode", MODES)
def test_the_middle_row_is_the_line_of_the_same_seed(toys, mode) -> None:
    o = Objective(toys.convnet(), toys.images(), batch_norm=mode, batch_size=8)
    plane = plane_slice(o, num_points=(7, 3), population=True, seed=3)
    line = line_slice(o, num_points=7, population=True, seed=3)
    for name in ("losses", "accuracies", "loss_standard_errors", "rise_standard_errors"):
        torch.testing.assert_close(getattr(plane, name)[:, 1], getattr(line, name), rtol=1e-12, atol=1e-15)
    volume = volume_slice(o, num_points=(7, 3, 3), seed=3)
    torch.testing.assert_close(volume.losses[:, :, 1], plane.losses, rtol=1e-12, atol=0)


def test_a_volume_of_a_quadratic(toys) -> None:
    o, g, H, at = quadratic(toys)
    found = volume_slice(o, num_points=(3, 5, 3), span=0.5, ignore="none", seed=0)
    assert isinstance(found, Surface)
    assert [len(axis) for axis in found.axes] == [3, 5, 3]
    steps = torch.stack(torch.meshgrid(*found.axes, indexing="ij"), dim=-1)
    x = at + steps @ found.directions.T
    expected = x @ g + 0.5 * torch.einsum("...i,ij,...j->...", x, H, x)
    torch.testing.assert_close(found.heights, expected, rtol=1e-12, atol=1e-12)


def test_an_even_function_has_a_symmetric_surface(toys) -> None:
    o, _, H, _ = quadratic(toys)
    o = o.at(torch.linalg.solve(-H, o.at(torch.zeros_like(o.params)).gradient()))  # the stationary point
    found = plane_slice(o, num_points=(5, 7), ignore="none", seed=0)
    torch.testing.assert_close(found.losses, found.losses.flip(0, 1), rtol=1e-10, atol=1e-10)


def test_through_two_networks_the_corners_are_they(toys) -> None:
    a, b, c = (Objective(toys.convnet(seed), toys.images()) for seed in (0, 1, 2))
    found = plane_slice(a, num_points=3, directions=[b, c], seed=0)
    assert float(found.losses[2, 1]) == pytest.approx(b.value(), rel=1e-12)
    assert float(found.losses[1, 2]) == pytest.approx(c.value(), rel=1e-12)
    assert found.provenance["arguments"]["directions"] == [b.describe()["params"], c.describe()["params"]]
    assert found.direction_names == ("to network 1", "to network 2")


def test_eigenvectors_bend_by_their_eigenvalues(toys) -> None:
    o, _, H, _ = quadratic(toys)
    calls: list[tuple[int, int]] = []
    found = plane_slice(
        o, num_points=3, span=0.1, directions=("top", "bottom"), seed=0, progress=lambda *c: calls.append(c)
    )
    eigenvalues = torch.linalg.eigvalsh(H)
    bend = [
        float(found.losses[2, 1] - 2 * found.losses[1, 1] + found.losses[0, 1]) / 0.01,
        float(found.losses[1, 2] - 2 * found.losses[1, 1] + found.losses[1, 0]) / 0.01,
    ]
    assert bend == pytest.approx([float(eigenvalues[-1]), float(eigenvalues[0])], rel=1e-4)
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize("mode", MODES)
def test_the_micro_batch_changes_nothing(toys, mode) -> None:
    a, b = (
        plane_slice(
            Objective(toys.convnet(), toys.images(), batch_norm=mode, batch_size=8, micro_batch=m),
            num_points=3,
            population=True,
            seed=0,
        )
        for m in (37, 3)
    )
    torch.testing.assert_close(a.losses, b.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(a.rise_standard_errors, b.rise_standard_errors, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(a.fold_losses, b.fold_losses, rtol=1e-12, atol=1e-12)


def log_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """Finite where both parameters are positive; NaN at negative ones, infinite at zero."""
    return -model.theta.log().sum() + batch[0]


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_points_that_are_not_finite_are_marked_and_never_filled_in(toys, tolerance) -> None:
    o = Objective(toys.Theta(torch.ones(2, dtype=torch.float64)), torch.arange(5.0), loss=log_loss)
    axes = torch.eye(2, dtype=torch.float64)
    found = plane_slice(
        o, num_points=33, span=2.0, directions=axes, population=True, tolerance=tolerance, seed=0
    )
    x, y = torch.meshgrid(1 + found.alphas, 1 + found.betas, indexing="ij")
    hole = (x <= 0) | (y <= 0)
    for array in (found.losses, found.loss_standard_errors, found.rise_standard_errors):
        assert torch.equal(array.isnan(), hole)
    assert found.evaluated[hole].all()
    assert found.evaluated.all() == (tolerance is None)
    low, high = found.loss_interval()
    assert torch.equal(low.isnan(), hole)
    assert (low <= high)[~hole].all()
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert isinstance(back, PlaneSlice)
    assert torch.equal(back.losses.isnan(), hole)


def test_a_centre_that_is_not_finite_is_an_error(toys) -> None:
    o = Objective(
        toys.Theta(torch.tensor([-1.0, 1.0], dtype=torch.float64)), torch.arange(5.0), loss=log_loss
    )
    with pytest.raises(NonFiniteLossError, match="example 0"):
        plane_slice(o, ignore="none", seed=0)


def test_the_surface_of_a_quadratic_is_interpolated(toys) -> None:
    o, *_ = quadratic(toys, weight_decay=0.2)
    full, few = (
        plane_slice(o, num_points=(25, 51), ignore="none", population=True, tolerance=t, seed=0)
        for t in (None, 1e-6)
    )
    assert few.num_points_saved == 25 * 51 - 81
    for name in ("losses", "penalties", "fold_losses"):
        torch.testing.assert_close(getattr(few, name), getattr(full, name), rtol=1e-9, atol=1e-9)
    assert few.interpolation_errors.max() < 1e-6
    assert few.value == full.value == float(few.losses[12, 25])
    torch.testing.assert_close(few.losses[few.evaluated], full.losses[few.evaluated], rtol=0, atol=0)


def test_a_networks_surface_is_interpolated_within_the_tolerance(objective: Objective) -> None:
    full, few = (
        plane_slice(objective, num_points=33, span=0.6, tolerance=t, seed=0) for t in (None, (0.02, 0.02))
    )
    errors = (few.losses - full.losses).abs()
    between = ~few.evaluated
    # An estimate, no bound: a ReLU network has kinks everywhere.
    assert float((errors <= few.interpolation_errors)[between].double().mean()) > 0.97
    assert (errors <= 2 * (0.02 * full.losses).clamp(min=0.02)).all()
    assert not errors[few.evaluated].any()
    assert (few.interpolation_errors <= 1.05 * (0.02 * full.losses).clamp(min=0.02)).all()
    assert 0 < few.num_points_saved < 33 * 33
    assert ((few.accuracies >= 0) & (few.accuracies <= 1)).all()


def test_the_pass_is_compiled_once_for_all_chunks(toys, monkeypatch) -> None:
    calls = []

    def fake(function, *example, elsewhere):
        calls.append(len(example[0][0]))
        return function, COMPILED

    monkeypatch.setattr(evaluation, "compiled", fake)
    monkeypatch.setattr(row_table, "CHUNK_POINTS", 2)
    o = Objective(toys.convnet(), toys.images(), micro_batch=8)
    found = plane_slice(o, num_points=3, seed=0)
    assert not calls
    assert found.provenance["passes"] == "eager", "too little work"
    monkeypatch.setattr(compilation, "LEAST_FLOPS", 3 * compilation.forward_flops(o))
    fast = plane_slice(o, num_points=3, seed=0)
    assert calls == [8], "for whole micro-batches; the centre alone is too little, too"
    assert fast.provenance["passes"] == COMPILED
    assert torch.equal(fast.losses, found.losses)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_points": (4, 5)}, "`num_points` must be odd and at least 3.*got 4; use 5"),
        ({"num_points": (5, 5, 5)}, "`num_points` must be one number or 2"),
        ({"num_points": (5, 0)}, "`num_points` must be a whole number"),
        ({"span": (1.0, 0.0)}, "`span` must be positive and finite, got 0.0"),
        ({"span": math.inf}, "`span` must be positive and finite, got inf"),
        ({"normalisation": "unit"}, "`normalisation` must be one of"),
        ({"directions": ["random"] * 3}, "`directions` must be 2, or one kind for all, got 3"),
        ({"directions": "sideways"}, r"`directions\[0\]` must be one of"),
        ({"rtol": -0.1}, "`rtol` must be a finite number >= 0 or None, got -0.1"),
        ({"atol": 0.0}, "`atol` or `rtol` must be positive"),
        ({"tolerance": (0.1, -1.0)}, r"`tolerance\[1\]` must be a finite number"),
        ({"tolerance": (0.1, 0.2, 0.3)}, "`tolerance` must be a number, a pair of numbers or None"),
        ({"population": 1}, "`population` must be True or False"),
    ],
)
def test_bad_arguments_are_named(objective: Objective, arguments, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        plane_slice(objective, seed=0, **arguments)


def test_a_single_batch_is_enough_where_no_spread_is_asked_for(toys) -> None:
    data = toys.images()
    one = Objective(toys.convnet(), data, batch_norm="batch", batch_size=len(data[0]))
    found = plane_slice(one, num_points=3, agreement=False, seed=0)
    assert found.value == pytest.approx(float(one.value()), rel=1e-12)
    assert not found.loss_standard_errors.any()
    with pytest.raises(ValueError, match="at least two independent units"):
        plane_slice(one, num_points=3, agreement=False, population=True, seed=0)


def test_a_store_must_be_one(objective: Objective) -> None:
    with pytest.raises(TypeError, match=r"`store` must keep arrays by key, got str; .*ArrayStore"):
        plane_slice(objective, num_points=3, store="folder", seed=0)  # type: ignore[arg-type]
