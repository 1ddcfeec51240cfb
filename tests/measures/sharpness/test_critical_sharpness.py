"""`critical_sharpness`: Rayleigh quotients of quadratics, directions, rounding, what is no descent."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.sharpness.critical_sharpness import critical_sharpness
from thalweg.objective.objective import Objective


def problem(toys, **kwargs) -> tuple[Objective, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    A = torch.randn(8, 8, generator=rng, dtype=torch.float64)
    H = A @ A.T
    at = torch.randn(8, generator=rng, dtype=torch.float64)
    g = torch.randn(8, generator=rng, dtype=torch.float64)
    return toys.quadratic(g - H @ at, H, at=at, **kwargs), g, H


def test_along_the_gradient_of_a_quadratic_it_is_the_rayleigh_quotient(toys) -> None:
    o, g, H = problem(toys)
    found = critical_sharpness(o)
    rayleigh = float(g @ H @ g / (g @ g))
    assert found.value == pytest.approx(rayleigh, rel=1e-9)
    assert found.value == 2 / found.critical_step
    assert found.slope == pytest.approx(-float(g @ g))
    assert found.error.solver is not None
    assert found.error.solver <= 0.011 * found.value
    assert found.num_evaluations <= 8
    # With the L2 term, whose Hessian is the identity.
    decayed, _, _ = problem(toys, weight_decay=3.0)
    g = decayed.gradient()
    expected = float(g @ H @ g / (g @ g)) + 3
    assert critical_sharpness(decayed).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("first_step", [None, 1e-4, 10.0])
def test_along_any_direction_of_descent(toys, scale, first_step) -> None:
    o, g, H = problem(toys)
    u = scale * -torch.sign(g)
    first = None if first_step is None else first_step / scale
    found = critical_sharpness(o, direction=u, first_step=first)
    assert found.value == pytest.approx(float(u @ H @ u) / abs(float(g @ u)), rel=1e-9)
    assert (found.steps.diff() > 0).all()
    below = found.steps < found.critical_step * (1 - 1e-9)
    assert (found.rises[below] <= 0).all()
    assert (found.rises[found.steps > found.critical_step * (1 + 1e-9)] > 0).all()


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_critical_step_the_loss_is_back(toys, mode, dtype) -> None:
    o = Objective(toys.convnet(dtype=dtype), toys.images(), batch_norm=mode, batch_size=8, micro_batch=5)
    found = critical_sharpness(o, rtol=1e-3)
    u = -o.gradient()

    def rise(part: float) -> float:
        return o.at(o.params + part * found.critical_step * u).value() - o.value()

    assert rise(0.99) < 0 < rise(1.01)


def test_a_direction_that_is_none_of_descent_is_refused(toys) -> None:
    o, g, _ = problem(toys)
    for u in (g, torch.zeros(8).double()):
        with pytest.raises(ValueError, match=r"`direction` must be one of descent, gradient . direction < 0"):
            critical_sharpness(o, direction=u)
    with pytest.raises(
        ValueError, match=r"`direction` must be finite and of shape \(8,\), .* got shape \(7,\)"
    ):
        critical_sharpness(o, direction=-g[:7])
    with pytest.raises(ValueError, match="with entries that are not finite"):
        critical_sharpness(o, direction=torch.full((8,), math.nan))


class Contrary(nn.Module):
    """Its loss rises where autodiff says that it falls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * (2 * self.weight.detach() - self.weight)


def test_a_negative_gradient_that_leads_up_is_not_blamed_on_a_direction() -> None:
    data = (torch.ones(4, 1).double(), torch.zeros(4, 1).double())
    o = Objective(Contrary(), data, loss="mse")
    with pytest.raises(ValueError, match=r"^`objective` must have a loss that falls along its negative grad"):
        critical_sharpness(o)
    with pytest.raises(ValueError, match=r"^`direction` must be one of descent, but along it"):
        critical_sharpness(o, direction=torch.ones(1).double())


def test_at_a_stationary_point_no_direction_leads_down(toys) -> None:
    o = toys.quadratic(torch.zeros(3).double(), torch.eye(3).double(), num_examples=1)
    with pytest.raises(ValueError, match="`objective` must have a gradient that is not zero"):
        critical_sharpness(o)


def test_a_loss_that_only_falls_says_so(toys) -> None:
    o = toys.quadratic(torch.ones(3).double(), torch.zeros(3, 3).double())
    with pytest.raises(
        ConvergenceError, match=r"does not rise up to a step of 50 .* raise `max_step`"
    ) as caught:
        critical_sharpness(o, first_step=1.0, max_step=50.0)
    assert caught.value.partial.value == 2 / 50
    assert caught.value.partial.provenance["converged"] is False
    with pytest.raises(ConvergenceError, match="does not rise up to a step"):
        critical_sharpness(o)


def test_a_rise_within_rounding_says_so() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.tensor([1e-5, 1e-5]))

    def loss(model: Flat, batch: tuple[Tensor]) -> Tensor:
        return 100 + model.theta.square().sum() + batch[0]

    o = Objective(Flat(), torch.zeros(3), loss=loss)
    with pytest.raises(ConvergenceError, match="within its rounding"):
        critical_sharpness(o, first_step=1.0)
    exact = critical_sharpness(o.to_dtype(torch.float64), first_step=1.0)
    assert exact.value == pytest.approx(2, rel=0.01)
    assert exact.error.solver is not None
    assert abs(exact.value - 2) <= exact.error.solver


def test_a_loss_that_is_not_finite_further_on_counts_as_risen(toys) -> None:
    def log_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        return (model.theta - 0.5 * model.theta.log()).sum() + batch[0]

    o = Objective(toys.Theta(torch.tensor([1.0]).double()), torch.zeros(3).double(), loss=log_loss)
    found = critical_sharpness(o, first_step=100.0)  # the logarithm ends at a step of 2
    moved = 1 - 0.5 * found.critical_step
    assert moved - 0.5 * math.log(moved) == pytest.approx(1, abs=0.02)
    assert found.rises.isnan().any()
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert back == found
    bad = o.at(torch.tensor([-1.0]))
    with pytest.raises(NonFiniteLossError, match="example 0"):
        critical_sharpness(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_step": 0}, "`first_step` must be positive and finite, got 0"),
        ({"max_step": math.inf}, "`max_step` must be positive and finite, got inf"),
        ({"rtol": 2}, r"`rtol` must lie in \(0, 1\)"),
    ],
)
def test_bad_arguments_are_named(toys, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        critical_sharpness(Objective(toys.convnet(), toys.images()), **arguments)
