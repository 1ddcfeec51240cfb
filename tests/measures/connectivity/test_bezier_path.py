"""`bezier_path`: a ring-shaped valley with known best curves, plain autograd in each mode, refusals."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.connectivity.bezier_path import BezierPath, bezier_path
from thalweg.measures.connectivity.curve_training import CurveTraining, _batches, _positions
from thalweg.measures.connectivity.linear_path import linear_path
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")


def ring(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """A valley along the unit circle, a hill of height 1 within; each example tilts it by its own amount."""
    return (model.theta.square().sum() - 1).square() + batch[0] @ model.theta


@pytest.fixture
def rings(toys):
    """Objectives at the opposite points (-1, 0) and (1, 0) of the valley, or at others."""

    def make(*ends: tuple[float, float], **kwargs) -> list[Objective]:
        tilts = torch.randn(9, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        tilts = 0.1 * (tilts - tilts.mean(0))
        places = [torch.tensor(e, dtype=torch.float64) for e in ends or ((-1.0, 0.0), (1.0, 0.0))]
        return [
            Objective(toys.Theta(p), tilts, loss=ring, **{"batch_size": 4, "micro_batch": 2, **kwargs})
            for p in places
        ]

    return make


# r^2 - 1 is a polynomial in t, so that the mean loss over a curve with its bend at (0, h) is one in h. The
# best height and its barrier: h^2 / 4 = 9 / 8 and 4 / 81 for the parabola; h^2 = 3 / 2 and 1 / 4 for sides.
BEST = {"bezier": (3 / math.sqrt(2), 4 / 81), "polygon": (math.sqrt(1.5), 1 / 4)}


@pytest.mark.parametrize("kind", BEST)
def test_the_bend_finds_the_best_height_round_a_hill(rings, kind) -> None:
    height, barrier = BEST[kind]
    a, b = rings()
    found = bezier_path(a, b, kind=kind, num_points=37, num_steps=1000, learning_rate=0.03, seed=0)
    assert linear_path(a, b).barrier == pytest.approx(1, abs=1e-12)
    bend = found.control_points[:, 1]
    assert abs(float(bend[1])) == pytest.approx(height, abs=0.004)  # round either side
    assert float(bend[0]) == pytest.approx(0, abs=0.01)
    assert found.value == found.barrier == pytest.approx(barrier, abs=0.004)
    assert found.distance == pytest.approx(2)
    assert 2 < found.arc_length < 1.15 * math.pi
    assert float(found.arc_lengths[-1]) == found.arc_length
    assert (found.arc_lengths.diff() > 0).all()


@pytest.mark.parametrize(("kind", "num_bends", "barrier"), [("bezier", 3, 2e-4), ("polygon", 5, 0.02)])
def test_more_bends_follow_the_valley(rings, kind, num_bends, barrier) -> None:
    found = bezier_path(
        *rings(), kind=kind, num_bends=num_bends, num_points=37, num_steps=1000, learning_rate=0.05, seed=0
    )
    assert found.barrier < barrier
    assert found.arc_length == pytest.approx(math.pi, rel=0.02)


def test_a_quarter_of_the_ring(rings) -> None:
    """Ends at right angles: the chord's middle has radius cos 45 degrees, so the linear barrier is 1 / 4."""
    a, b = rings((1.0, 0.0), (0.0, 1.0))
    assert linear_path(a, b).barrier == pytest.approx(0.25, abs=0.02)  # tilts add a slope to the chord
    found = bezier_path(a, b, num_steps=500, learning_rate=0.1, seed=0)
    assert found.barrier < 0.005
    assert found.arc_length == pytest.approx(math.pi / 2, rel=0.02)


@pytest.mark.parametrize("kind", BEST)
def test_the_best_curve_through_a_bowl_is_the_line(toys, kind) -> None:
    H = torch.diag(torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64))
    end = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    a, b = (toys.quadratic(torch.zeros(3, dtype=torch.float64), H, at=s * end) for s in (-1, 1))
    found = bezier_path(a, b, kind=kind, num_steps=500, learning_rate=0.1, batch_size=7, seed=1)
    assert found.barrier == 0
    assert found.barrier_alpha == 0
    torch.testing.assert_close(found.control_points[:, 1], torch.zeros_like(end), rtol=0, atol=0.01)
    assert found.arc_length == pytest.approx(found.distance, rel=1e-3)


def test_a_level_floor_leaves_the_line_as_it_is(toys) -> None:
    H = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))
    ends = (torch.tensor([x, 0.0], dtype=torch.float64) for x in (-1.0, 2.0))
    a, b = (toys.quadratic(torch.zeros(2, dtype=torch.float64), H, at=e) for e in ends)
    found = bezier_path(a, b, num_steps=50, batch_size=7, seed=0)
    assert found.control_points[1].abs().max() < 1e-12
    assert found.barrier == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", BEST)
def test_untrained_it_is_the_linear_path_to_the_bit(toys, mode, kind) -> None:
    a, b = (
        Objective(toys.convnet(s), toys.images(), batch_norm=mode, batch_size=8, weight_decay=0.1)
        for s in (1, 2)
    )
    found = bezier_path(a, b, kind=kind, num_points=7, num_steps=0, population=True, seed=0)
    line = linear_path(a, b, num_points=7, population=True)
    for name in ("alphas", "losses", "accuracies", "penalties", "loss_standard_errors"):
        assert torch.equal(getattr(found, name), getattr(line, name)), name
    for name in ("value", "error", "barrier", "barrier_over_mean", "barrier_alpha"):
        assert getattr(found, name) == getattr(line, name), name
    assert found.arc_length == pytest.approx(found.distance)
    assert found.training_losses.numel() == 0


@pytest.mark.parametrize("kind", BEST)
@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_that_of_plain_autograd(toys, mode, kind) -> None:
    """Of a curve of copies of the weights, with dropout-free batch norm in `train()` or in `eval()`."""
    nets, (x, y) = [toys.convnet(s) for s in (1, 2)], toys.images()
    a, b = (Objective(n, (x, y), batch_norm=mode, batch_size=37, micro_batch=5) for n in nets)
    found = bezier_path(a, b, kind=kind, num_steps=1, learning_rate=0.7, momentum=0.3, num_points=3, seed=5)
    t = float(found.training_positions[0])
    assert 0 < t < 1
    first, last = (dict(n.named_parameters()) for n in nets)
    bends = {k: ((first[k] + last[k]) / 2).detach().requires_grad_() for k in first}
    c = (
        [(1 - t) ** 2, 2 * t * (1 - t), t**2]
        if kind == "bezier"
        else [max(0, 1 - 2 * t), 1 - abs(2 * t - 1), max(0, 2 * t - 1)]
    )
    weights = {k: c[0] * first[k].detach() + c[1] * bends[k] + c[2] * last[k].detach() for k in first}
    # Statistics: the batch's own, or what lies between the stored ones.
    net, (s, u) = toys.convnet(1), (dict(n.named_buffers()) for n in nets)
    net.train(mode != "running")
    stored = {k: (1 - t) * s[k] + t * u[k] for k in s if s[k].is_floating_point()}
    loss = nn.functional.cross_entropy(functional_call(net, {**weights, **stored}, (x,)), y)
    gradients = torch.autograd.grad(loss, list(bends.values()))
    expected = torch.cat([(w - 0.7 * g).flatten() for w, g in zip(bends.values(), gradients, strict=True)])
    torch.testing.assert_close(found.control_points[:, 1], expected.detach(), rtol=1e-10, atol=1e-12)
    assert float(found.training_losses[0]) == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_points_of_the_curve_are_networks_of_plain_pytorch(toys, mode) -> None:
    nets, data = [toys.convnet(s) for s in (1, 2)], toys.images()
    a, b = (Objective(n, data, batch_norm=mode, batch_size=8, micro_batch=5) for n in nets)
    found = bezier_path(a, b, num_points=5, num_steps=20, seed=0)
    assert float(found.training_losses.std()) > 0
    for i, t in enumerate(found.alphas.tolist()):
        net = toys.moved(nets[0], found.params_at(t) - a.params)
        for ours, theirs in zip(net.norm.buffers(), nets[1].norm.buffers(), strict=True):
            if ours.is_floating_point():
                ours.lerp_(theirs, t)
        loss, accuracy = toys.plain_loss(net, data, mode)
        assert float(found.losses[i]) == pytest.approx(loss.item(), rel=1e-11)
        assert float(found.accuracies[i]) == pytest.approx(accuracy)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_stay_to_the_bit_and_losses_leave_the_l2_term_out(toys, mode, dtype) -> None:
    a, b = (
        Objective(toys.convnet(s, dtype), toys.images(), batch_norm=mode, batch_size=8, weight_decay=0.1)
        for s in (1, 2)
    )
    found = bezier_path(a, b, num_bends=2, num_points=4, num_steps=10, seed=0)
    assert found.control_points.dtype == dtype
    assert found.control_points.shape == (a.space.dim, 4)
    for i, end in ((0, a), (-1, b)):
        assert torch.equal(found.control_points[:, i], end.params)
        at_end = end.evaluate()
        assert float(found.losses[i]) == pytest.approx(at_end.loss, rel=1e-14)
        assert float(found.losses[i]) == pytest.approx(end.value() - at_end.penalty, rel=1e-6)
        assert float(found.penalties[i]) == pytest.approx(at_end.penalty)
        assert float(found.accuracies[i]) == at_end.accuracy
    middle = found.params_at(1 / 3).double()
    assert float(found.penalties[1]) == pytest.approx(0.05 * float(middle.square().sum()), rel=1e-6)


def test_the_l2_term_is_trained_and_not_reported(toys) -> None:
    """Of the penalty alone the best bend is -3/4 (a + b): E[c_0 c_1] / E[c_1^2] = (1/10) / (2/15)."""

    def flat(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return 0 * model.theta.sum() + batch[0]

    ends = [torch.tensor(e, dtype=torch.float64) for e in ((1.0, 0.0), (0.0, 1.0))]
    a, b = (
        Objective(toys.Theta(e), torch.full((5,), 2.0), loss=flat, weight_decay=1.0, batch_size=3)
        for e in ends
    )
    found = bezier_path(a, b, num_steps=1000, learning_rate=0.1, seed=0)
    torch.testing.assert_close(
        found.control_points[:, 1], torch.full((2,), -0.75, dtype=torch.float64), rtol=0, atol=0.005
    )
    assert found.losses.tolist() == [2.0] * 21
    assert found.training_losses.tolist() == [2.0] * 1000
    assert found.barrier == 0


def test_seeds_decide(rings) -> None:
    a, b = rings()
    first, again, other = (bezier_path(a, b, num_steps=30, seed=s) for s in (0, 0, 1))
    assert first == again
    assert not torch.equal(first.control_points, other.control_points)
    longer = bezier_path(a, b, num_steps=40, seed=0)
    assert torch.equal(longer.training_positions[:30], first.training_positions)


def test_a_curve_trained_on_some_data_is_evaluated_on_others(toys) -> None:
    def pair(data) -> list[Objective]:
        return [
            Objective(
                toys.convnet(s), data, batch_norm="recalibrated", calibration_data=toys.images(), batch_size=8
            )
            for s in (1, 2)
        ]

    trained = bezier_path(*pair(toys.images()), num_points=5, num_steps=20, seed=0)
    control = trained.control_points
    back = bezier_path(*pair(toys.images()), num_points=5, num_steps=0, control_points=control, seed=0)
    assert torch.equal(back.losses, trained.losses), "the same curve to the bit"
    test = pair(toys.images(23, seed=9))
    found = bezier_path(*test, num_points=5, num_steps=0, control_points=control, seed=0)
    middle = test[0].at(trained.params_at(0.5))
    assert float(found.losses[2]) == pytest.approx(middle.evaluate().loss, rel=1e-12)
    assert found.provenance["arguments"]["control_points"]
    on = bezier_path(*pair(toys.images()), num_points=5, num_steps=20, control_points=control, seed=1)
    assert float(on.training_losses.mean()) < float(trained.training_losses.mean()), "it goes on from there"


@pytest.mark.parametrize("kind", BEST)
def test_one_curve_however_it_is_written(rings, kind) -> None:
    """Backwards; with one bend more, its degree raised or a side halved: the same points at the same t."""
    a, b = rings()
    found = bezier_path(a, b, kind=kind, num_steps=50, seed=0)
    first, bend, last = found.control_points.unbind(1)
    back = bezier_path(b, a, kind=kind, num_steps=0, control_points=found.control_points.flip(1), seed=0)
    torch.testing.assert_close(back.losses, found.losses.flip(0))
    assert back.barrier == pytest.approx(found.barrier)
    if kind == "bezier":
        more = [first, (first + 2 * bend) / 3, (2 * bend + last) / 3, last]
    else:
        more = [first, (first + bend) / 2, bend, (bend + last) / 2, last]
    again = bezier_path(
        a,
        b,
        kind=kind,
        num_bends=len(more) - 2,
        num_steps=0,
        control_points=torch.stack(more, 1),
        seed=0,
    )
    torch.testing.assert_close(again.losses, found.losses)
    for other in (back, again):
        assert other.arc_length == pytest.approx(found.arc_length, rel=1e-9)


def test_losses_are_the_same_whatever_the_curves_speed(rings) -> None:
    """Moving a point along the line changes when the curve is where, and not what it passes."""
    a, b = rings((-1.0, 0.0), (1.0, 0.0))
    line = torch.stack([a.params, torch.tensor([0.6, 0.0], dtype=torch.float64), b.params], 1)
    found = bezier_path(a, b, kind="polygon", num_steps=0, control_points=line, seed=0)
    even = linear_path(a, b, num_points=201)
    assert found.arc_length == pytest.approx(2)
    where = (100 * found.arc_lengths).round().long()
    assert float((100 * found.arc_lengths - where).abs().max()) < 1e-9
    torch.testing.assert_close(found.losses, even.losses[where])
    assert found.arc_lengths.diff().unique(dim=0).numel() > 1


def test_mini_batches_are_of_one_size_and_use_each_example_as_often() -> None:
    source = _batches(37, 8, seed=4)
    taken = [next(source) for _ in range(37)]
    assert {len(index) for index in taken} == {8}
    assert torch.cat(taken).bincount(minlength=37).tolist() == [8] * 37
    assert torch.equal(torch.cat(taken)[:37].sort().values, torch.arange(37))
    assert not torch.equal(torch.cat(taken)[:37], torch.cat(taken)[37:74])
    assert [len(next(_batches(3, 8, seed=0)))] == [3]


def test_positions_are_uniform_and_leave_no_gap() -> None:
    starts = torch.stack([_positions(8, seed) for seed in range(2000)])
    # Each by itself is uniform on [0, 1).
    assert float((starts.sort(0).values - torch.arange(2000)[:, None] / 2000).abs().max()) < 0.05
    for start in (0, 13):  # any 100 in a row
        gaps = _positions(113, seed=7)[start : start + 100].sort().values.diff()
        assert float(gaps.max()) < 0.02


def test_the_rate_follows_the_papers_schedule() -> None:
    training = CurveTraining(100, 0.05, 0.9, 8)
    shares = [training.share_of_rate(step) for step in (0, 49, 50, 70, 90, 99)]
    assert shares == pytest.approx([1, 1, 1, (1 + 0.01) / 2, 0.01, 0.01])


def test_trained_networks_are_joined_by_a_curve_below_their_line(toys) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=rng, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()

    def trained(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
        for _ in range(300):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        return net

    a, b = (Objective(trained(s), (x, y), batch_size=20) for s in (0, 1))
    line = linear_path(a, b)
    curve = bezier_path(a, b, num_steps=1000, learning_rate=0.2, seed=0)
    assert line.barrier > 0.3
    assert curve.barrier < 0.1 * line.barrier


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_the_users_is_touched(toys, unchanged, mode) -> None:
    nets = [toys.convnet(s).train() for s in (1, 2)]
    nets[0].head.weight.grad = torch.ones_like(nets[0].head.weight)
    control = torch.randn(nets[0].head.weight.numel() + 48 + 3, 3, dtype=torch.float64)
    with unchanged(*nets, control):
        a, b = (Objective(n, toys.images(), batch_norm=mode, batch_size=8) for n in nets)
        with unchanged(a.params, b.params):
            bezier_path(a, b, num_points=3, num_steps=3, population=True, seed=0)


def test_records(rings) -> None:
    a, b = rings()
    found = bezier_path(a, b, num_points=5, num_steps=3, population=True, seed=2)
    assert found.provenance["arguments"] == {
        "kind": "bezier",
        "num_bends": 1,
        "num_points": 5,
        "num_steps": 3,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "batch_size": None,
        "control_points": None,
        "population": True,
        "seed": 2,
    }
    assert found.provenance["objective_b"] == b.describe()
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert isinstance(back, BezierPath)
    assert back == found
    assert torch.equal(back.params_at(0.3), found.params_at(0.3))


def test_a_rate_too_large_is_told_with_the_step(rings) -> None:
    with pytest.raises(NonFiniteLossError, match=r"diverged at step \d+ of 200.*smaller `learning_rate`"):
        bezier_path(*rings(), num_steps=200, learning_rate=50.0, seed=0)


def test_training_that_ended_above_where_it_began_is_said(rings) -> None:
    good = bezier_path(*rings(), num_steps=60, num_points=5, seed=0)
    assert not good.has_risen
    losses = torch.cat([torch.full((10,), 1.0), torch.zeros(80), torch.full((10,), 1.1)]).double()
    bad = dataclasses.replace(good, training_losses=losses)
    assert bad.has_risen
    assert "training ended above where it began" in repr(bad)
    assert not dataclasses.replace(good, training_losses=torch.zeros(0).double()).has_risen


def test_an_end_that_is_broken_is_told_before_training(rings) -> None:
    a, b = rings()
    with pytest.raises(NonFiniteLossError, match="the loss of `b` itself is not finite: it is no end"):
        bezier_path(a, b.at(torch.full_like(b.params, math.nan)), num_steps=10, seed=0)


def test_models_that_differ_are_told_before_training(toys) -> None:
    a, b = (
        Objective(nn.Sequential(nn.Flatten(), nn.Linear(36, 3), f).double(), toys.images())
        for f in (nn.Tanh(), nn.Sigmoid())
    )
    with pytest.raises(ValueError, match="such as an activation, a mask"):
        bezier_path(a, b, num_steps=10**9, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "spline"}, "`kind` must be one of bezier, polygon"),
        ({"num_bends": 0}, "`num_bends` must be a whole number of at least 1, got 0"),
        ({"num_points": 2}, "`num_points` must be at least 3"),
        ({"kind": "polygon", "num_bends": 2, "num_points": 21}, r"multiple of num_bends \+ 1 = 3.*use 22"),
        ({"num_steps": -1}, "`num_steps` must be a whole number of at least 0, got -1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive and finite, got 0.0"),
        ({"momentum": 1.0}, r"`momentum` must lie in \[0, 1\), got 1.0"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        (
            {"control_points": torch.zeros(2, 4)},
            r"`control_points` must be .* shape .* = \(2, 3\), .* \(2, 4\)",
        ),
        ({"control_points": torch.zeros(2, 3)}, "first column is not the parameters of `a`"),
        ({"control_points": torch.full((2, 3), math.nan)}, "`control_points` must be finite numbers"),
    ],
)
def test_bad_arguments_are_named(rings, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        bezier_path(*rings(), **arguments, seed=0)


def test_other_refusals(rings, toys) -> None:
    a, b = rings()
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        bezier_path(a, b, num_steps=0, seed=None)
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\], from one end to the other, got 1.5"):
        bezier_path(a, b, num_steps=0, seed=0).params_at(1.5)
    ends = torch.stack([a.params, a.params, a.params], 1)
    with pytest.raises(ValueError, match="last column is not the parameters of `b`"):
        bezier_path(a, b, control_points=ends, seed=0)
    other = Objective(toys.convnet(1), toys.images())
    with pytest.raises(ValueError, match="must have the same trainable parameters"):
        bezier_path(a, other, seed=0)
