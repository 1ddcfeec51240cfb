"""`keskar_sharpness`: the box's closed form, its convention, plain PyTorch in each mode, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from thalweg.measures.sharpness.keskar_sharpness import keskar_sharpness
from thalweg.objective.objective import Objective


@pytest.mark.parametrize("lowest", [0.5, -20.0])
def test_of_a_separable_quadratic_it_is_the_closed_form(toys, lowest) -> None:
    h = torch.linspace(lowest, 30, 12, dtype=torch.float64)
    rng = torch.Generator().manual_seed(3)
    at = torch.randn(12, generator=rng, dtype=torch.float64)
    at[0] = 0  # moves all the same: the box is |w| + 1
    g = torch.randn(12, generator=rng, dtype=torch.float64)

    def loss(model: torch.nn.Module, batch: tuple[Tensor]) -> Tensor:
        d = model.theta - at
        return 3 + g @ d + h @ d.square() / 2 + batch[0]

    o = Objective(toys.Theta(at), torch.arange(-3.0, 4.0).double(), loss=loss)
    r = 0.02 * (at.abs() + 1)
    d = torch.where(g.abs() + h * r > 0, r, g.abs() / h.abs())
    rise = float((g.abs() * d + h * d * d / 2).sum())
    found = keskar_sharpness(o, epsilon=0.02, num_steps=60, seed=0)
    assert found.loss == pytest.approx(3, rel=1e-14)
    truth = 100 * rise / (1 + 3)
    assert 0.995 * truth <= found.value <= truth * (1 + 1e-9)
    assert (found.perturbation.abs() <= r * (1 + 1e-12)).all()
    if lowest > 0:
        torch.testing.assert_close(found.perturbation, r * g.sign(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_one_step_is_what_plain_pytorch_finds(toys, mode) -> None:
    net, data = toys.convnet(), toys.images()
    o = Objective(net, data, batch_norm=mode, batch_size=8, micro_batch=5)
    found = keskar_sharpness(o, epsilon=1e-2, num_steps=1, seed=0)
    centre = toys.moved(net, torch.zeros_like(o.params))
    base, _ = toys.plain_loss(centre, data, mode)
    g = torch.cat([p.flatten() for p in torch.autograd.grad(base, list(centre.parameters()))])
    there, _ = toys.plain_loss(toys.moved(net, 1e-2 * (o.params.abs() + 1) * g.sign()), data, mode)
    rise = there.item() - base.item()
    assert found.value == pytest.approx(100 * rise / (1 + base.item()), rel=1e-9)
    assert float(found.restart_values[0]) == found.value


def test_steps_and_restarts_never_lower_it(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    values = [keskar_sharpness(o, epsilon=0.1, num_steps=k, num_restarts=k, seed=0).value for k in (1, 2, 5)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_bad_arguments_are_named(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    for epsilon in (0.0, -1.0, float("nan"), True):
        with pytest.raises(ValueError, match="`epsilon` must be positive and finite, got"):
            keskar_sharpness(o, epsilon=epsilon, seed=0)
    with pytest.raises(ValueError, match="`num_steps` must be a whole number of at least 1, got 0"):
        keskar_sharpness(o, num_steps=0, seed=0)

    def low(model: torch.nn.Module, batch: tuple[Tensor]) -> Tensor:
        return model.theta.sum() - 2 + 0 * batch[0]

    with pytest.raises(ValueError, match=r"must have a loss above -1 .* got -2; sam_sharpness"):
        keskar_sharpness(Objective(toys.Theta(torch.zeros(2)), torch.zeros(3), loss=low), seed=0)
