"""`line_slice`: closed forms, plain PyTorch in each batch-norm mode, and its standard errors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.surfaces.line import LineSlice, line_slice
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import random_direction

MODES = ("running", "recalibrated", "batch")


@pytest.fixture
def objective(toys) -> Objective:
    return Objective(toys.convnet(), toys.images(), batch_size=8)


def test_a_quadratic_is_its_own_slice(toys) -> None:
    rng = torch.Generator().manual_seed(0)
    g, A, at = (torch.randn(*s, generator=rng, dtype=torch.float64) for s in ((6,), (6, 6), (6,)))
    H = A + A.T
    o = toys.quadratic(g, H, at=at)
    found = line_slice(o, num_points=7, span=0.4, num_directions=3, ignore="none", seed=1)
    assert found.alphas.tolist() == pytest.approx(
        [-0.4, -0.4 * 2 / 3, -0.4 / 3, 0, 0.4 / 3, 0.4 * 2 / 3, 0.4]
    )
    assert float(found.alphas[3]) == 0
    for j in range(3):
        d = random_direction(o, j, ignore="none", seed=1)
        slope, bend = d @ (g + H @ at), d @ H @ d
        expected = g @ at + 0.5 * at @ H @ at + found.alphas * slope + 0.5 * found.alphas**2 * bend
        torch.testing.assert_close(found.losses_by_direction[j], expected, rtol=1e-12, atol=1e-12)
        assert float(found.direction_norms[j]) == pytest.approx(float(d.norm()))
    torch.testing.assert_close(found.losses, found.losses_by_direction.mean(0), rtol=1e-14, atol=0)
    assert found.accuracies.isnan().all()
    assert found.interval() == (found.value, found.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_centre_is_the_objectives_value_to_the_bit(toys, mode, weight_decay, dtype) -> None:
    o = Objective(
        toys.convnet(dtype=dtype), toys.images(), batch_norm=mode, batch_size=8, weight_decay=weight_decay
    )
    found = line_slice(o, num_points=5, num_directions=3, seed=0)
    assert found.value == o.value() == float(found.losses[2])
    assert found.losses_by_direction[:, 2].tolist() == [o.value()] * 3
    assert found.accuracies[2] == o.evaluate().accuracy
    assert found.penalties[2] == o.evaluate().penalty
    # The L2 term is part of the loss, as it is of the value.
    without = line_slice(
        Objective(toys.convnet(dtype=dtype), toys.images(), batch_norm=mode, batch_size=8),
        num_points=5,
        num_directions=3,
        seed=0,
    )
    torch.testing.assert_close(found.losses - found.penalties, without.losses)
    assert (found.penalties[[0, -1]] > 0).all() or weight_decay == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("normalisation", ["filter", "raw"])
def test_points_are_what_plain_pytorch_makes_of_the_moved_weights(toys, mode, normalisation) -> None:
    net, data = toys.convnet(), toys.images()
    o = Objective(net, data, batch_norm=mode, batch_size=8, micro_batch=5)
    found = line_slice(
        o, num_points=5, span=0.7, num_directions=2, normalisation=normalisation, ignore="none", seed=0
    )
    for j in range(2):
        d = random_direction(o, j, normalisation=normalisation, ignore="none", seed=0)
        for i, alpha in enumerate(found.alphas):
            loss, accuracy = toys.plain_loss(toys.moved(net, alpha * d), data, mode)
            assert float(found.losses_by_direction[j, i]) == pytest.approx(loss.item(), rel=1e-12)
            assert float(found.accuracies_by_direction[j, i]) == pytest.approx(accuracy)


def test_without_batch_norm_the_modes_agree(toys) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    found = [
        line_slice(Objective(net, toys.images(), batch_norm=m, batch_size=8), num_points=3, seed=0)
        for m in MODES
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.losses, found[0].losses, rtol=1e-14, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_the_micro_batch_changes_nothing(toys, mode) -> None:
    a, b = (
        line_slice(
            Objective(toys.convnet(), toys.images(), batch_norm=mode, batch_size=8, micro_batch=m),
            num_points=3,
            population=True,
            seed=0,
        )
        for m in (37, 3)
    )
    torch.testing.assert_close(a.losses, b.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(a.rise_standard_errors, b.rise_standard_errors, rtol=1e-9, atol=1e-15)


def test_the_first_directions_are_the_same_however_many(objective: Objective) -> None:
    one, three = (line_slice(objective, num_points=5, num_directions=d, seed=7) for d in (1, 3))
    assert torch.equal(one.losses_by_direction[0], three.losses_by_direction[0])
    assert not torch.equal(three.losses_by_direction[0], three.losses_by_direction[1])
    assert torch.equal(line_slice(objective, num_points=5, seed=7).losses, one.losses)
    assert not torch.equal(line_slice(objective, num_points=5, seed=8).losses, one.losses)


def log_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """Finite for positive parameters only: NaN at negative ones, infinite at zero."""
    return -model.theta.log().sum() + batch[0]


def test_points_that_are_not_finite_are_marked_and_never_filled_in(toys) -> None:
    o = Objective(toys.Theta(torch.tensor([1.0], dtype=torch.float64)), torch.arange(5.0), loss=log_loss)
    found = line_slice(o, num_points=5, span=2.0, num_directions=2, ignore="none", population=True, seed=0)
    # Filter normalisation of one parameter is a step of plus or minus its size: 1 - 2, 1 - 1, 1, 2, 3.
    up = found.losses_by_direction.isnan().tolist()
    assert up[0] in ([True, True, False, False, False], [False, False, False, True, True])
    marked = found.losses_by_direction.isnan().any(0)
    for array in (found.losses, found.loss_standard_errors, found.rise_standard_errors):
        assert torch.equal(array.isnan(), marked)
    text = json.dumps(found.to_dict(), allow_nan=False)
    back = Measurement.from_dict(json.loads(text))
    assert isinstance(back, LineSlice)
    assert torch.equal(back.losses.isnan(), marked)


def test_accuracy_is_marked_where_the_loss_is(toys) -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.w.sqrt()

    o = Objective(Root(), (torch.eye(3, dtype=torch.float64), torch.arange(3)))
    found = line_slice(o, num_points=5, span=3.0, seed=0)
    assert found.losses.isnan().sum() == 2
    assert torch.equal(found.accuracies.isnan(), found.losses.isnan())
    assert torch.equal(found.accuracies_by_direction.isnan(), found.losses_by_direction.isnan())


def test_a_centre_that_is_not_finite_is_an_error(toys) -> None:
    o = Objective(toys.Theta(torch.tensor([-1.0], dtype=torch.float64)), torch.arange(5.0), loss=log_loss)
    with pytest.raises(NonFiniteLossError, match="example 0"):
        line_slice(o, ignore="none", seed=0)


def test_standard_errors_pair_the_examples(toys) -> None:
    net, (x, y) = toys.convnet(), toys.images()
    o = Objective(net, (x, y))
    found = line_slice(o, num_points=5, span=0.2, num_directions=2, population=True, ignore="none", seed=0)
    per_example = torch.zeros(5, 37, dtype=torch.float64)
    with torch.no_grad():
        for j in range(2):
            d = random_direction(o, j, ignore="none", seed=0)
            for i, alpha in enumerate(found.alphas):
                per_example[i] += (
                    nn.functional.cross_entropy(toys.moved(net, alpha * d)(x), y, reduction="none") / 2
                )
    torch.testing.assert_close(found.loss_standard_errors, per_example.std(1) / math.sqrt(37))
    rises = per_example - per_example[2]
    torch.testing.assert_close(found.rise_standard_errors, rises.std(1) / math.sqrt(37))
    assert found.rise_standard_errors[2] == 0
    assert found.rise_standard_errors[1] < 0.5 * found.loss_standard_errors[1]
    assert found.error.data.value == float(found.loss_standard_errors[2])
    assert found.error.data.dof == 36


def test_in_batch_mode_the_batches_are_the_units(toys) -> None:
    net, (x, y) = toys.convnet(), toys.images()
    o = Objective(net, (x, y), batch_norm="batch", batch_size=8)
    found = line_slice(o, num_points=3, span=0.5, population=True, ignore="none", seed=0)
    d = random_direction(o, 0, ignore="none", seed=0)
    sizes = np.array([8, 8, 8, 8, 5])
    totals = [toys.batch_totals(toys.moved(net, a * d), (x, y), 8) for a in found.alphas]

    def by_hand(t: np.ndarray) -> float:
        return math.sqrt(5 / 4 * np.sum((t - sizes * t.sum() / 37) ** 2)) / 37

    assert found.loss_standard_errors.tolist() == pytest.approx([by_hand(t) for t in totals])
    assert found.rise_standard_errors.tolist() == pytest.approx([by_hand(t - totals[1]) for t in totals])
    assert found.error.data.dof == 4


@pytest.mark.parametrize("repeats", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_intervals_cover_the_population(toys, repeats) -> None:
    """Data sets of 30 examples of a quadratic with known expectation: losses, and rises by pairs."""
    g, P = torch.tensor([0.3, -0.2], dtype=torch.float64), 2
    rng = torch.Generator().manual_seed(0)
    z_loss, z_rise, d, estimates = [], [], None, []

    def loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return batch[0][:, :P] @ model.theta + 0.5 * model.theta.square().sum() + batch[0][:, P]

    at = torch.tensor([0.5, 1.0], dtype=torch.float64)
    for _ in range(repeats):
        rows = torch.randn(30, P + 1, generator=rng, dtype=torch.float64)
        rows[:, :P] += g
        o = Objective(toys.Theta(at), rows, loss=loss)
        d = random_direction(o, 0, normalisation="raw", ignore="none", seed=0) if d is None else d
        found = line_slice(
            o,
            num_points=3,
            span=0.5,
            normalisation="raw",
            ignore="none",
            population=True,
            agreement=False,
            seed=0,
        )
        truth = [float(g @ (at + a * d) + 0.5 * (at + a * d).square().sum()) for a in found.alphas]
        z_loss.append((float(found.losses[2]) - truth[2]) / float(found.loss_standard_errors[2]))
        rise = float(found.losses[2]) - found.value
        z_rise.append((rise - truth[2] + truth[1]) / float(found.rise_standard_errors[2]))
        low, high = found.interval(0.95)
        estimates.append(low <= truth[1] <= high)
    limit = stats.t.ppf(0.975, 29)
    for covered in (np.mean(np.abs(z_loss) < limit), np.mean(np.abs(z_rise) < limit), np.mean(estimates)):
        print("line_slice, population", repeats, covered)
        assert abs(covered - 0.95) < (0.015 if repeats == 2000 else 4 * math.sqrt(0.95 * 0.05 / repeats))


def test_without_population_the_losses_are_exact(objective: Objective) -> None:
    found = line_slice(objective, num_points=3, seed=0)
    assert found.error.data is None
    assert not found.loss_standard_errors.any()
    assert not found.rise_standard_errors.any()
    assert "exact" in repr(found)


def test_tuples_and_dictionaries_give_one_slice(toys) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 3).double()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.lin(torch.cat([a, b], 1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, a, b = Two(), torch.randn(11, 2).double(), torch.randn(11, 2).double()
    y = torch.arange(11) % 3
    found = [
        line_slice(Objective(net, data, micro_batch=4), num_points=3, seed=0)
        for data in ((a, b, y), {"a": a, "b": b, "labels": y})
    ]
    assert torch.equal(found[0].losses, found[1].losses)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_the_users_is_touched(toys, unchanged, mode) -> None:
    net = toys.convnet().train()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.conv.bias.requires_grad_(False)
    with unchanged(net):
        line_slice(Objective(net, toys.images(), batch_norm=mode, batch_size=8), num_points=3, seed=0)


def test_progress_ends_at_the_total(objective: Objective) -> None:
    seen: list[tuple[int, int]] = []
    found = line_slice(
        objective,
        num_points=5,
        num_directions=2,
        agreement=False,
        seed=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (9, 9)
    assert found.provenance["arguments"] == {
        "num_points": 5,
        "span": 1.0,
        "num_directions": 2,
        "directions": "random",
        "normalisation": "filter",
        "ignore": "bias_and_norm",
        "rtol": None,
        "atol": None,
        "population": False,
        "tolerance": None,
        "agreement": False,
        "seed": 0,
    }
    assert found.provenance["objective"] == objective.describe()


def test_lines_are_interpolated_where_every_direction_allows_it(toys) -> None:
    """Along one axis a parabola, along the other a kink: its surroundings are evaluated, for both."""

    def loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        x, y = model.theta
        return x.square() + (y - 0.3).abs() + batch[0]

    o = Objective(toys.Theta(torch.zeros(2, dtype=torch.float64)), torch.arange(5.0), loss=loss)
    axes = torch.eye(2, dtype=torch.float64)
    arguments = {"num_points": 65, "directions": axes, "population": True, "seed": 0}
    full = line_slice(o, **arguments)
    smooth = line_slice(o, **(arguments | {"directions": axes[:, :1]}), tolerance=0.01)
    both = line_slice(o, **arguments, tolerance=0.01)
    assert smooth.num_points_saved == 65 - 9
    assert 0 < both.num_points_saved < smooth.num_points_saved
    here = both.alphas[both.evaluated]
    assert float((here[1:] - here[:-1])[(here[1:] > 0.3) & (here[:-1] < 0.3)]) == pytest.approx(2 / 64)
    torch.testing.assert_close(both.losses_by_direction[0], full.losses_by_direction[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(both.losses_by_direction, full.losses_by_direction, rtol=0, atol=0.02)
    torch.testing.assert_close(both.losses, both.losses_by_direction.mean(0), rtol=1e-12, atol=0)
    weights = both.fold_sizes.double() / both.num_examples
    torch.testing.assert_close(weights @ both.fold_losses, both.losses, rtol=1e-12, atol=1e-12)
    low, high = both.loss_interval()
    assert torch.equal(high > low, torch.ones(65, dtype=torch.bool)), "of the population"


def test_its_directions_come_with_it(objective: Objective) -> None:
    found = line_slice(objective, num_points=3, num_directions=2, normalisation="raw", seed=7)
    for j in range(2):
        d = random_direction(objective, j, normalisation="raw", seed=7)
        assert torch.equal(found.directions[:, j], d)
    assert found.num_averaged == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_points": 40}, "`num_points` must be odd and at least 3.*got 40; use 41"),
        ({"num_points": 1}, "`num_points` must be odd and at least 3.*use 3"),
        ({"num_points": 0}, "`num_points` must be a whole number"),
        ({"num_directions": 0}, "`num_directions` must be a whole number"),
        ({"span": 0.0}, "`span` must be positive and finite, got 0.0"),
        ({"span": math.inf}, "`span` must be positive and finite, got inf"),
        ({"span": math.nan}, "`span` must be positive and finite, got nan"),
        ({"normalisation": "tensor"}, "`normalisation` must be one of filter, layer"),
        ({"ignore": "bias"}, "`ignore` must be one of"),
    ],
)
def test_bad_arguments_are_named(objective: Objective, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        line_slice(objective, seed=0, **arguments)


def test_a_single_unit_has_no_spread(toys) -> None:
    o = Objective(toys.convnet(), toys.images(), batch_norm="batch", batch_size=64)
    with pytest.raises(ValueError, match="`population=True` needs at least two independent units"):
        line_slice(o, population=True, seed=0)
