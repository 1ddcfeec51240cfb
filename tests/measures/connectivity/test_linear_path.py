"""`linear_path`: double wells with known barriers, plain PyTorch in each mode, standard errors, refusals."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.connectivity.linear_path import LinearPath, linear_path
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")


def well(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """Double well of height 1 between -1 and 1; each example tilts it by its own amount."""
    t = model.theta[0]
    return (t.square() - 1).square() + batch[0] * t


@pytest.fixture
def wells(toys):
    """Objectives at the two minima, the mean tilt being `tilt`."""

    def make(tilt: float = 0.0, ends: tuple[float, float] = (-1.0, 1.0), **kwargs) -> list[Objective]:
        tilts = torch.linspace(-1, 1, 9, dtype=torch.float64) + tilt
        points = [torch.tensor([end], dtype=torch.float64) for end in ends]
        return [Objective(toys.Theta(p), tilts, loss=well, **kwargs) for p in points]

    return make


@pytest.mark.parametrize("tilt", [0.0, 0.25])
def test_a_double_well_has_its_barrier(wells, tilt: float) -> None:
    found = linear_path(*wells(tilt), num_points=21)
    t = 2 * found.alphas - 1
    torch.testing.assert_close(found.losses, (t**2 - 1) ** 2 + tilt * t, rtol=0, atol=1e-14)
    # The tilt is the chord: it adds nothing to the height above it, but moves the top seen from the mean.
    assert found.value == found.barrier == pytest.approx(1, abs=1e-14)
    assert found.barrier_alpha == 0.5
    assert found.barrier_over_mean == pytest.approx(float(found.losses.max()), abs=1e-14)
    assert found.accuracies.isnan().all()
    assert found.error.data is None
    assert not found.loss_standard_errors.any()


def test_a_convex_path_has_none(toys) -> None:
    g, H = torch.tensor([1.0, 0.0], dtype=torch.float64), 2 * torch.eye(2, dtype=torch.float64)
    ends = (torch.tensor(p, dtype=torch.float64) for p in ([0.0, 0.0], [1.0, 1.0]))
    a, b = (toys.quadratic(g, H, at=p) for p in ends)
    found = linear_path(a, b)
    assert found.barrier == 0.0
    assert found.barrier_alpha == 0.0
    assert found.barrier_over_mean == pytest.approx((b.value() - a.value()) / 2)


@pytest.mark.parametrize("num_points", [6, 20, 50])
def test_the_estimate_covers_a_smooth_peak_between_grid_points(wells, num_points: int) -> None:
    found = linear_path(*wells(), num_points=num_points)  # the peak, at 0.5, is on no even grid
    missed = 1 - found.barrier
    assert 0 < missed <= found.error.grid
    assert found.error.grid < 5 / (num_points - 1) ** 2
    assert found.interval()[1] >= 1


def test_a_peak_that_no_point_sees_is_in_no_estimate(toys) -> None:
    """Why it is called one: nothing but a grid that is finer tells of it."""

    def spike(model, batch):
        return torch.exp(-(((model.theta[0] - 0.5) / 0.01) ** 2)) + 0 * batch[0]

    ends = (torch.tensor([t], dtype=torch.float64) for t in (0.0, 1.0))
    a, b = (Objective(toys.Theta(t), torch.zeros(3, dtype=torch.float64), loss=spike) for t in ends)
    coarse = linear_path(a, b, num_points=6)
    assert coarse.interval()[1] < 1e-9
    assert linear_path(a, b, num_points=7).barrier == 1
    assert coarse.error.solver is None
    assert "grid estimated" in repr(coarse)


def test_a_narrow_peak_at_the_edge_is_seen_by_its_neighbour(wells) -> None:
    found = linear_path(*wells(ends=(-1.0, -0.9)), num_points=5)
    assert found.barrier == 0.0
    assert found.error.grid > 0


@pytest.mark.parametrize("mode", MODES)
def test_points_are_what_plain_pytorch_makes_of_interpolated_networks(toys, mode) -> None:
    first, second, data = toys.convnet(1), toys.convnet(2), toys.images()
    a, b = (Objective(n, data, batch_norm=mode, batch_size=8, micro_batch=5) for n in (first, second))
    found = linear_path(a, b, num_points=5)
    for i, alpha in enumerate(found.alphas.tolist()):
        loss, accuracy = toys.plain_loss(interpolated(first, second, alpha), data, mode)
        assert float(found.losses[i]) == pytest.approx(loss.item(), rel=1e-12)
        assert float(found.accuracies[i]) == pytest.approx(accuracy)
    chord = (1 - found.alphas) * found.losses[0] + found.alphas * found.losses[-1]
    assert found.barrier == pytest.approx(float((found.losses - chord).max()))
    assert found.provenance["objective"]["batch_norm"] == mode


def test_the_modes_are_three_functions(toys) -> None:
    found = [
        linear_path(*(Objective(toys.convnet(s), toys.images(), batch_norm=m, batch_size=8) for s in (1, 2)))
        for m in MODES
    ]
    assert all(abs(float(p.losses[10] - q.losses[10])) > 1e-3 for p, q in pairwise(found))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_the_networks_own_and_the_way_back_is_the_same(toys, mode, dtype) -> None:
    a, b = (
        Objective(toys.convnet(s, dtype), toys.images(), batch_norm=mode, batch_size=8, weight_decay=0.1)
        for s in (1, 2)
    )
    there, back = linear_path(a, b, num_points=5), linear_path(b, a, num_points=5)
    assert float(there.losses[0]) == pytest.approx(a.evaluate().loss, rel=1e-14)
    assert float(there.losses[-1]) == pytest.approx(b.evaluate().loss, rel=1e-14)
    assert [float(there.accuracies[i]) for i in (0, -1)] == [a.evaluate().accuracy, b.evaluate().accuracy]
    # The L2 term is left out of the losses, and given apart.
    assert float(there.penalties[0]) == pytest.approx(a.evaluate().penalty)
    assert float(there.penalties[-1]) == pytest.approx(b.evaluate().penalty)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(there.losses, back.losses.flip(0), rtol=tolerance, atol=0)
    assert there.barrier == pytest.approx(back.barrier, rel=10 * tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_the_micro_batch_changes_nothing(toys, mode) -> None:
    found = [
        linear_path(
            *(
                Objective(toys.convnet(s), toys.images(), batch_norm=mode, batch_size=8, micro_batch=m)
                for s in (1, 2)
            ),
            num_points=4,
            population=True,
        )
        for m in (37, 3)
    ]
    torch.testing.assert_close(found[0].losses, found[1].losses, rtol=1e-12, atol=0)
    assert found[0].error.data.value == pytest.approx(found[1].error.data.value, rel=1e-9)


def test_recalibration_uses_the_calibration_data_at_every_point(toys) -> None:
    train, test = toys.images(50, seed=2), toys.images()
    nets = [toys.convnet(s) for s in (1, 2)]
    a, b = (
        Objective(n, test, batch_norm="recalibrated", calibration_data=train, micro_batch=7) for n in nets
    )
    found = linear_path(a, b, num_points=3)
    middle = toys.moved(nets[0], (b.params - a.params) / 2)
    toys.plain_loss(middle, train, "recalibrated")  # leaves the training data's statistics behind
    expected, _ = toys.plain_loss(middle, test, "running")
    assert float(found.losses[1]) == pytest.approx(expected.item(), rel=1e-12)


def test_standard_errors_pair_the_examples(toys) -> None:
    first, second, (x, y) = twins(toys)
    a, b = (Objective(n, (x, y), micro_batch=8) for n in (first, second))
    found = linear_path(a, b, num_points=5, population=True)
    with torch.no_grad():
        rows = torch.stack([
            nn.functional.cross_entropy(n(x), y, reduction="none")
            for n in (first, interpolated(first, second, found.barrier_alpha), second)
        ])  # fmt: skip
    torch.testing.assert_close(found.loss_standard_errors[[0, -1]], rows[[0, -1]].std(1) / math.sqrt(37))
    t = found.barrier_alpha
    assert 0 < t < 1
    height = rows[1] - (1 - t) * rows[0] - t * rows[2]
    assert found.error.data.value == pytest.approx(float(height.std()) / math.sqrt(37))
    assert found.error.data.dof == 36


def test_a_permuted_twin_computes_the_same_and_lies_behind_a_barrier(toys) -> None:
    first, second, data = twins(toys)
    found = linear_path(*(Objective(n, data) for n in (first, second)))
    assert float(found.losses[0]) == pytest.approx(float(found.losses[-1]), rel=1e-12)
    assert found.barrier > 0.1
    assert found.barrier == pytest.approx(found.barrier_over_mean, rel=1e-9)


def twins(toys) -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """A network, itself with its channels in another order, and data that it fits: its own answers."""
    first, (x, _) = toys.convnet(1), toys.images()
    with torch.no_grad():
        first.head.weight *= 5
        y = first(x).argmax(1)
        second, order = copy.deepcopy(first), torch.tensor([1, 2, 3, 0])
        for t in (*second.conv.parameters(), *second.norm.parameters(), *second.norm.buffers()):
            if t.ndim:
                t.copy_(t[order])
        second.head.weight.copy_(second.head.weight.view(3, 4, 16)[:, order].flatten(1))
    return first, second, (x, y)


def interpolated(first: nn.Module, second: nn.Module, alpha: float) -> nn.Module:
    between = copy.deepcopy(first)
    for ours, theirs in zip(between.state_dict().values(), second.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, alpha)
    return between


def test_in_batch_mode_the_batches_are_the_units(toys) -> None:
    first, second, (x, y) = toys.convnet(1), toys.convnet(2), toys.images()
    a, b = (Objective(n, (x, y), batch_norm="batch", batch_size=8) for n in (first, second))
    found = linear_path(a, b, num_points=3, population=True)
    sizes = np.array([8, 8, 8, 8, 5])
    nets = (first, interpolated(first, second, 0.5), second)
    totals = [toys.batch_totals(n, (x, y), 8) for n in nets]
    height = totals[1] - (totals[0] + totals[2]) / 2
    by_hand = math.sqrt(5 / 4 * np.sum((height - sizes * height.sum() / 37) ** 2)) / 37
    assert found.error.data.value == pytest.approx(by_hand)
    assert found.error.data.dof == 4


@pytest.mark.parametrize("repeats", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_intervals_cover_the_populations_barrier(toys, repeats) -> None:
    """Data sets of 25 examples of a well whose height varies from example to example about 1."""

    def loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        t = model.theta[0]
        return batch[0][:, 0] * (t.square() - 1).square() + batch[0][:, 1] * t

    rng = torch.Generator().manual_seed(0)
    ends = [torch.tensor([end], dtype=torch.float64) for end in (-1.0, 1.0)]
    z = []
    for _ in range(repeats):
        rows = torch.randn(25, 2, generator=rng, dtype=torch.float64) + torch.tensor([1.0, 0.0])
        found = linear_path(
            *(Objective(toys.Theta(e), rows, loss=loss) for e in ends), num_points=3, population=True
        )
        z.append((found.barrier - 1) / found.error.data.value)
    covered = np.mean(np.abs(z) < stats.t.ppf(0.975, 24))
    print("linear_path, population", repeats, covered)
    assert abs(covered - 0.95) < (0.015 if repeats == 2000 else 4 * math.sqrt(0.95 * 0.05 / repeats))


def test_buffers_that_agree_stay_to_the_bit(toys) -> None:
    """A mask compared for equality, and one of infinities, survive any weights of the mean."""

    class Masked(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))
            self.register_buffer("mask", torch.tensor([0.1, -math.inf, 0.7]))

        def forward(self, x: Tensor) -> Tensor:
            kept = torch.tensor([0.1, -math.inf, 0.7]) == self.mask
            return x @ self.w.masked_fill(~kept, 100.0)

    data = (torch.eye(3), torch.tensor([0, 2, 0]))
    nets = [Masked(s) for s in (0, 1)]
    found = linear_path(*(Objective(n, data) for n in nets))
    for alpha, loss in zip(found.alphas.tolist(), found.losses, strict=True):
        w = (1 - alpha) * nets[0].w + alpha * nets[1].w
        expected = nn.functional.cross_entropy(data[0] @ w, data[1])
        assert float(loss) == pytest.approx(expected.item(), rel=1e-6)


def test_a_path_of_infinite_loss_has_no_barrier(toys) -> None:
    def pole(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return model.theta[0].reciprocal().square() + batch[0]

    a, b = (
        Objective(toys.Theta(torch.tensor([e], dtype=torch.float64)), torch.arange(5.0), loss=pole)
        for e in (-1.0, 1.0)
    )
    with pytest.raises(NonFiniteLossError, match=r"not finite at alpha = 0.5 on the line"):
        linear_path(a, b, num_points=5)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_the_users_is_touched(toys, unchanged, mode) -> None:
    nets = [toys.convnet(s).train() for s in (1, 2)]
    nets[0].head.weight.grad = torch.ones_like(nets[0].head.weight)
    with unchanged(*nets):
        a, b = (Objective(n, toys.images(), batch_norm=mode, batch_size=8) for n in nets)
        linear_path(a, b, num_points=3, population=True)


def test_tuples_and_dictionaries_give_one_path(toys) -> None:
    x, y = toys.images()
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double() for _ in range(2)]
    with_tuple = linear_path(*(Objective(n, (x, y)) for n in nets), num_points=3)
    with_dict = linear_path(*(Objective(n, {"input": x, "labels": y}) for n in nets), num_points=3)
    assert torch.equal(with_tuple.losses, with_dict.losses)


@pytest.mark.parametrize("mode", MODES)
def test_from_a_network_to_itself_there_is_none(toys, mode) -> None:
    a, b = (Objective(toys.convnet(1), toys.images(), batch_norm=mode, batch_size=8) for _ in range(2))
    found = linear_path(a, b, num_points=8)
    assert (found.barrier, found.barrier_over_mean, found.error.grid) == (0.0, 0.0, 0.0)


def test_records_and_progress(wells) -> None:
    seen: list[tuple[int, int]] = []
    a, b = wells()
    found = linear_path(a, b, num_points=5, population=True, progress=lambda i, n: seen.append((i, n)))
    assert seen[-1] == (6, 6)
    assert found.provenance["arguments"] == {"num_points": 5, "population": True}
    assert found.provenance["objective"] == a.describe()
    assert found.provenance["objective_b"] == b.describe()
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert isinstance(back, LinearPath)
    assert torch.equal(back.losses, found.losses)
    assert back.error == found.error


class Variant(nn.Module):
    """A network that can differ from its like in one respect at a time."""

    def __init__(
        self, width=4, name="first", activation=torch.relu, frozen=None, buffer="scale", rank=1
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.add_module(name, nn.Linear(36, width).double())
            self.last = nn.Linear(width, 3).double()
        self.name, self.activation = name, activation
        self.register_buffer(buffer, torch.ones((1,) * rank, dtype=torch.float64))
        self.last.bias.requires_grad_(frozen is None)
        if frozen is not None:
            self.last.bias.data.fill_(frozen)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(getattr(self, self.name)(x.flatten(1))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"width": 5}}, r"first.weight has shape \(4, 36\) in `a` and \(5, 36\) in `b`"),
        ({"model": {"name": "begin"}}, r"first.weight \(4, 36\) of `a` is missing in `b`"),
        ({"model": {"frozen": 0.0}}, r"last.bias \(3,\) of `a` is missing in `b`"),
        ({"model": {"activation": torch.tanh}}, "such as an activation, a mask"),
        ({"model": {"buffer": "gain"}}, "same floating buffers, but only one has gain, scale"),
        ({"model": {"rank": 2}}, r"scale has \(1,\) in `a` and \(1, 1\) in `b`"),
        ({"data": 2}, "their data differs"),
        ({"n": 36}, "their num_examples differs: 37 in `a` and 36 in `b`"),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, "their loss differs"),
        ({"batch_norm": "batch"}, "their batch_norm differs: 'running' in `a` and 'batch' in `b`"),
        ({"weight_decay": 0.1}, "their weight_decay differs"),
        ({"dtype": torch.float32}, "their dtype differs: 'float64' in `a` and 'float32' in `b`; convert"),
    ],
)
def test_two_functions_have_no_path_between_them(toys, changes, message) -> None:
    def make(model=(), data=1, n=37, dtype=torch.float64, **kwargs) -> Objective:
        net = Variant(**dict(model)).to(dtype)
        return Objective(net, toys.images(n, seed=data), **{"batch_size": 8, **kwargs})

    with pytest.raises(ValueError, match=message):
        linear_path(make(), make(**changes))


def test_parameters_missing_in_the_first_and_orders_are_named(toys) -> None:
    a, b = (Objective(Variant(frozen=f), toys.images()) for f in (0.0, None))
    with pytest.raises(ValueError, match=r"last.bias \(3,\) of `b` is missing in `a`"):
        linear_path(a, b)


def test_frozen_parameters_must_agree(toys) -> None:
    a, b = (Objective(Variant(frozen=f), toys.images()) for f in (0.0, 0.5))
    with pytest.raises(ValueError, match="must have the same frozen parameters"):
        linear_path(a, b)


def test_the_partition_must_agree_in_batch_mode_only(toys) -> None:
    def pair(mode: str) -> list[Objective]:
        return [
            Objective(toys.convnet(s), toys.images(), batch_norm=mode, batch_size=size)
            for s, size in ((1, 8), (2, 7))
        ]

    with pytest.raises(ValueError, match="their batch_size differs: 8 in `a` and 7 in `b`"):
        linear_path(*pair("batch"), num_points=3)
    assert linear_path(*pair("running"), num_points=3).losses.isfinite().all()


def test_calibration_data_must_agree(toys) -> None:
    a, b = (
        Objective(
            toys.convnet(s), toys.images(), batch_norm="recalibrated", calibration_data=toys.images(50, s)
        )
        for s in (1, 2)
    )
    with pytest.raises(ValueError, match="their calibration_data differs"):
        linear_path(a, b)


def test_bad_arguments_are_named(toys, wells) -> None:
    a, b = wells()
    with pytest.raises(ValueError, match="`num_points` must be at least 3"):
        linear_path(a, b, num_points=2)
    with pytest.raises(ValueError, match="`num_points` must be a whole number"):
        linear_path(a, b, num_points=2.5)
    with pytest.raises(TypeError, match=r"`b` must be a thalweg.Objective, .* got Theta"):
        linear_path(a, toys.Theta(torch.zeros(1)))
    single = [Objective(toys.convnet(s), toys.images(), batch_norm="batch", batch_size=64) for s in (1, 2)]
    with pytest.raises(ValueError, match="`population=True` needs at least two independent units"):
        linear_path(*single, population=True)
