"""`sam_sharpness`: trust-region truths on quadratics, plain PyTorch in each mode, guarantees, refusals."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.core.rng import generator
from thalweg.measures.sharpness.sam_sharpness import SamSharpness, sam_sharpness
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")
RADIUS = 0.05


def trust_region_maximum(g: Tensor, spectrum: Tensor, Q: Tensor, radius: float) -> float:
    """Maximum over the ball of ``g.d + d.H.d / 2``, H = Q diag(spectrum) Q^T, outside the hard case.

    Inside the ball if H is negative definite enough; else d = (m I - H)^-1 g with m above the top eigenvalue
    and zero, such that the length is the radius (More and Sorensen 1983); m by bisection.
    """
    c = Q.T @ g

    def length(m: float) -> float:
        return float((c / (m - spectrum)).norm())

    low = max(float(spectrum.max()), 0.0)
    if float(spectrum.max()) < 0 and length(0.0) <= radius:
        d = -c / spectrum
    else:
        high = low + float(c.norm()) / radius + 1.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if length(middle) > radius else (low, middle)
        d = c / (high - spectrum)
    return float(c @ d + 0.5 * (spectrum * d * d).sum())


def problem(spectrum: Tensor, gradient_norm: float, toys) -> tuple[Objective, float, Tensor]:
    """A quadratic with a planted spectrum, its true S, its gradient."""
    P = len(spectrum)
    rng = torch.Generator().manual_seed(P)
    Q = torch.linalg.qr(torch.randn(P, P, generator=rng, dtype=torch.float64))[0]
    g = torch.randn(P, generator=rng, dtype=torch.float64)
    g *= gradient_norm / g.norm()
    H = (Q * spectrum) @ Q.T
    return toys.quadratic(g, (H + H.T) / 2), trust_region_maximum(g, spectrum, Q, RADIUS), g


def powers(low: float, high: float, n: int) -> Tensor:
    return torch.logspace(low, high, n, dtype=torch.float64)


SPECTRA = {
    "convex": powers(-3, 2, 20),
    "mildly indefinite": torch.cat([powers(-3, 2, 16), -powers(-2, 1, 4)]),
    "concave dominates": torch.cat([powers(-3, 1, 16), -powers(-2, 2, 4)]),
    "concave": -powers(-1, 2, 20),
    "close pair": torch.cat([powers(-3, 1, 18), torch.tensor([95.0, 100.0], dtype=torch.float64)]),
}


def test_the_oracle_is_right_where_it_can_be_read_off() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    along = torch.tensor([3.0, 0.0], dtype=torch.float64)
    assert trust_region_maximum(along, torch.tensor([2.0, 1.0]).double(), eye, 0.1) == pytest.approx(
        0.3 + 0.01
    )
    assert trust_region_maximum(along, torch.tensor([-60.0, -1.0]).double(), eye, 0.1) == pytest.approx(0.075)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("gradient_norm", [1e-3, 0.3, 10.0])
def test_it_approaches_the_maximum_over_the_ball_and_never_exceeds_it(toys, name, gradient_norm) -> None:
    objective, truth, g = problem(SPECTRA[name], gradient_norm, toys)
    values = [sam_sharpness(objective, num_steps=k, seed=0).value for k in (1, 2, 8, 60)]
    assert values == sorted(values)
    assert values[-1] <= truth * (1 + 1e-9)
    # A maximum inside the ball, reached from a small gradient, is the slow case.
    assert values[-1] >= (0.3 if name == "concave" and gradient_norm < 0.1 else 0.995) * truth
    one_step = RADIUS * gradient_norm + 0.5 * (RADIUS / gradient_norm) ** 2 * hessian_form(objective, g)
    assert values[0] == pytest.approx(max(0.0, one_step), rel=1e-9, abs=1e-15)


def hessian_form(objective: Objective, v: Tensor) -> float:
    """v.H.v of a quadratic, from its gradients: exact."""
    return float(v @ (objective.at(objective.params + v).gradient() - objective.gradient()))


@pytest.mark.parametrize("name", ["convex", "concave dominates", "close pair"])
def test_restarts_and_steps_never_lower_the_value(toys, name) -> None:
    objective, truth, _ = problem(SPECTRA[name], 1e-3, toys)
    found = {
        (k, r): sam_sharpness(objective, num_steps=k, num_restarts=r, seed=1)
        for k in (1, 3, 5)
        for r in (1, 2, 4)
    }
    for k in (1, 3, 5):
        # The first restarts are the same whatever their number.
        assert torch.equal(found[k, 4].restart_values[:2], found[k, 2].restart_values)
        assert found[k, 1].value <= found[k, 2].value <= found[k, 4].value <= truth
        assert found[k, 4].value == max(0.0, float(found[k, 4].restart_values.max()))
        assert len(set(found[k, 4].restart_values.tolist())) == 4
    for r in (1, 2, 4):
        for less, more in ((1, 3), (3, 5)):
            assert (found[less, r].restart_values <= found[more, r].restart_values + 1e-15).all()


def test_a_restart_climbs_from_its_random_point_of_the_sphere(toys) -> None:
    objective, _, _ = problem(SPECTRA["convex"], 0.3, toys)
    found = sam_sharpness(objective, num_steps=2, num_restarts=3, seed=4)
    for restart in (1, 2):
        u = torch.randn(20, generator=generator(4, "sam_sharpness", restart), dtype=torch.float64)
        delta = RADIUS * u / u.norm()
        for _ in range(2):
            gradient = objective.at(objective.params + delta).gradient()
            delta = RADIUS * gradient / gradient.norm()
        rise = objective.at(objective.params + delta).value() - objective.value()
        assert float(found.restart_values[restart]) == pytest.approx(rise, rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_it_is_what_plain_pytorch_finds(toys, mode, num_steps) -> None:
    net, data = toys.convnet(), toys.images()
    o = Objective(net, data, batch_norm=mode, batch_size=8, micro_batch=5)
    found = sam_sharpness(o, radius=RADIUS, num_steps=num_steps, seed=0)

    def loss_and_gradient(delta: Tensor) -> tuple[float, Tensor]:
        moved = toys.moved(net, delta)
        loss, _ = toys.plain_loss(moved, data, mode)
        return loss.item(), torch.cat(
            [p.flatten() for p in torch.autograd.grad(loss, list(moved.parameters()))]
        )

    base, gradient = loss_and_gradient(torch.zeros_like(o.params))
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-10)
    assert found.loss == pytest.approx(base, rel=1e-12)
    rises = []
    for _ in range(num_steps):
        delta = RADIUS * gradient / gradient.norm()
        loss, gradient = loss_and_gradient(delta)
        rises.append(loss - base)
        if len(rises) > 1 and rises[-1] < rises[-2]:
            # The gradient holds the statistics constant, so that a step may fall: it is then taken back.
            assert mode == "recalibrated"
            break
    assert found.value >= max(rises) - 1e-12
    if rises == sorted(rises):
        assert found.value == pytest.approx(rises[-1], rel=1e-9)
        torch.testing.assert_close(found.perturbation, delta, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_perturbation_lies_in_the_ball_and_gives_the_value(toys, mode, dtype) -> None:
    o = Objective(toys.convnet(dtype=dtype), toys.images(), batch_norm=mode, batch_size=8, weight_decay=0.05)
    found = sam_sharpness(o, radius=0.3, num_steps=4, num_restarts=3, seed=0)
    assert found.perturbation.dtype == dtype
    assert float(found.perturbation.norm()) <= 0.3 * (1 + 1e-6)
    # The L2 term counts, as it does in the objective's value.
    rise = o.at(o.params + found.perturbation).value() - o.value()
    assert found.value == pytest.approx(rise, rel=1e-5 if dtype == torch.float32 else 1e-12)
    assert found.loss == pytest.approx(o.value(), rel=1e-14)
    without = sam_sharpness(
        Objective(toys.convnet(dtype=dtype), toys.images(), batch_norm=mode, batch_size=8),
        radius=0.3,
        num_steps=4,
        num_restarts=3,
        seed=0,
    )
    assert found.value > without.value
    assert found.value > 0


def test_the_l2_term_alone_has_a_closed_form(toys) -> None:
    at = torch.tensor([3.0, 4.0], dtype=torch.float64)
    o = toys.quadratic(torch.zeros(2).double(), torch.zeros(2, 2).double(), at=at, weight_decay=0.2)
    # 0.1 (|theta| + r)^2 - 0.1 |theta|^2 with |theta| = 5
    assert sam_sharpness(o, radius=0.5, num_steps=1, seed=0).value == pytest.approx(0.1 * (5.5**2 - 25))


@pytest.mark.parametrize("mode", MODES)
def test_the_micro_batch_changes_nothing(toys, mode) -> None:
    a, b = (
        sam_sharpness(
            Objective(toys.convnet(), toys.images(), batch_norm=mode, batch_size=8, micro_batch=m),
            num_steps=3,
            num_restarts=2,
            seed=0,
        )
        for m in (37, 3)
    )
    torch.testing.assert_close(a.restart_values, b.restart_values, rtol=1e-9, atol=0)


def test_the_seed_sets_the_restarts_alone(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    one, same, other = (sam_sharpness(o, num_restarts=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.restart_values, same.restart_values)
    assert torch.equal(one.perturbation, same.perturbation)
    assert one.restart_values[0] == other.restart_values[0]
    assert one.restart_values[1] != other.restart_values[1]


def test_at_a_stationary_point_it_starts_at_random_and_says_so(toys) -> None:
    spectrum = powers(-2, 1, 6)
    o = toys.quadratic(torch.zeros(6).double(), torch.diag(spectrum), num_examples=1)
    found = sam_sharpness(o, num_steps=40, seed=0)
    assert found.gradient_norm == 0
    assert found.provenance["first_start"].startswith("random")
    assert found.value == pytest.approx(RADIUS**2 * 10 / 2, rel=1e-9)
    at_minimum = sam_sharpness(toys.quadratic(torch.ones(6).double(), torch.diag(spectrum)), seed=0)
    assert at_minimum.provenance["first_start"] == "gradient"


def test_at_a_maximum_nothing_is_higher(toys) -> None:
    o = toys.quadratic(torch.zeros(4).double(), -torch.eye(4).double(), num_examples=1)
    found = sam_sharpness(o, num_steps=2, num_restarts=2, seed=0)
    assert found.value == 0
    assert (found.restart_values <= 0).all()
    assert not found.perturbation.any()


def test_a_constant_has_no_sharpness(toys) -> None:
    o = toys.quadratic(torch.zeros(4).double(), torch.zeros(4, 4).double(), num_examples=1)
    seen: list[tuple[int, int]] = []
    found = sam_sharpness(o, num_steps=3, num_restarts=2, seed=0, progress=lambda i, n: seen.append((i, n)))
    assert found.value == 0
    assert seen[-1][0] == seen[-1][1]


def test_gradients_whose_squares_underflow_still_have_a_direction(toys) -> None:
    g = torch.full((4,), 1e-25, dtype=torch.float32)
    o = Objective(
        toys.Theta(torch.zeros(4)),
        torch.ones(3, 4),
        loss=lambda model, batch: batch[0] @ (model.theta * 1e-25),
    )
    found = sam_sharpness(o, seed=0)
    assert found.gradient_norm == pytest.approx(float(g.double().norm()))
    torch.testing.assert_close(found.perturbation, torch.full((4,), RADIUS / 2))


def test_progress_counts_evaluations(toys) -> None:
    seen: list[tuple[int, int]] = []
    o = Objective(toys.convnet(), toys.images())
    sam_sharpness(o, num_steps=3, num_restarts=2, seed=0, progress=lambda i, n: seen.append((i, n)))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_a_record_comes_back(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    found = sam_sharpness(o, num_restarts=2, seed=0)
    assert found.provenance["arguments"] == {
        "radius": 0.05, "norm": "l2", "scaling": "none", "num_steps": 1, "num_restarts": 2, "seed": 0,
    }  # fmt: skip
    assert found.provenance["objective"] == o.describe()
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert isinstance(back, SamSharpness)
    assert torch.equal(back.restart_values, found.restart_values)
    # Exact as the rise that was found, and a lower bound on the maximum.
    assert repr(found).startswith("SamSharpness(at least 0.")
    assert "exact" not in repr(found)


def test_tuples_and_dictionaries_agree(toys) -> None:
    x, y = toys.images()
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    a, b = (sam_sharpness(Objective(net, d), seed=0) for d in ((x, y), {"input": x, "labels": y}))
    assert a.value == b.value


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_the_users_is_touched(toys, unchanged, mode) -> None:
    net = toys.convnet().train()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.conv.bias.requires_grad_(False)
    with unchanged(net):
        o = Objective(net, toys.images(), batch_norm=mode, batch_size=8)
        before = copy.deepcopy((o.params, o.buffers))
        sam_sharpness(o, num_steps=2, num_restarts=2, seed=0)
        assert torch.equal(before[0], o.params)
        assert all(torch.equal(v, o.buffers[k]) for k, v in before[1].items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"radius": 0.0}, "`radius` must be positive and finite, got 0.0"),
        ({"radius": -0.1}, "`radius` must be positive and finite, got -0.1"),
        ({"radius": math.nan}, "`radius` must be positive and finite, got nan"),
        ({"num_steps": 0}, "`num_steps` must be a whole number of at least 1"),
        ({"num_restarts": 0}, "`num_restarts` must be a whole number of at least 1"),
    ],
)
def test_bad_arguments_are_named(toys, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        sam_sharpness(Objective(toys.convnet(), toys.images()), **{"seed": 0, **arguments})


def test_a_seed_is_required_even_where_nothing_is_drawn(toys) -> None:
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        sam_sharpness(Objective(toys.convnet(), toys.images()), seed=None)


def test_a_loss_that_is_not_finite_is_an_error(toys) -> None:
    def log_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return -model.theta.log().sum() + batch[0]

    o = Objective(toys.Theta(torch.tensor([1.0]).double()), torch.arange(5.0), loss=log_loss)
    for steps in (1, 2):
        with pytest.raises(NonFiniteLossError, match="example 0"):
            sam_sharpness(o, radius=2.0, num_steps=steps, seed=0)
    cliff = Objective(
        toys.Theta(torch.zeros(1).double()),
        torch.arange(5.0),
        loss=lambda model, batch: model.theta.sum().sqrt() + batch[0],
    )
    with pytest.raises(NonFiniteLossError, match="the gradient is not finite although the loss is"):
        sam_sharpness(cliff, seed=0)
