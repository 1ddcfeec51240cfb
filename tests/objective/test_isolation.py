"""The state around an evaluation neither shows in its numbers nor is changed by it."""

import pytest
import torch
from tests.networks import cnn, images, mlp, vectors

from thalweg.objective.isolation import isolated
from thalweg.objective.objective import Objective

CPU = torch.device("cpu")


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_ambient_autocast_changes_nothing(mode, unchanged):
    def numbers():
        model, (x, y) = cnn(dtype=torch.float32), images(21)
        objective = Objective(model, (x.float(), y), batch_norm=mode, batch_size=8, micro_batch=5)
        there = objective.at(objective.params * 1.1)
        return objective.value(), there.value(), objective.gradient(), there.gradient()

    plain = numbers()
    with torch.autocast("cpu", dtype=torch.bfloat16), unchanged():
        under = numbers()
    assert under[:2] == plain[:2]
    assert torch.equal(under[2], plain[2])
    assert torch.equal(under[3], plain[3])


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_neither_does_a_mode_without_gradients(switch):
    model, data = cnn(), images(21)
    plain = Objective(model, data, micro_batch=5)
    gradient = plain.gradient()
    with switch():
        assert torch.equal(plain.gradient(), gradient)
        inside = Objective(model, data, micro_batch=5)
        assert torch.equal(inside.gradient(), gradient)
        assert inside.at(plain.params).value() == plain.value()
    assert torch.equal(inside.gradient(), gradient)


class OwnAutocast(torch.nn.Module):
    """A model that asks for low precision itself: that is part of the function."""

    def __init__(self):
        super().__init__()
        self.inner = mlp(dtype=torch.float32)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


def test_a_models_own_autocast_stays_on():
    x, y = vectors(21)
    own = Objective(OwnAutocast(), (x.float(), y)).value()
    plain = Objective(mlp(dtype=torch.float32), (x.float(), y)).value()
    assert own != plain
    assert own == pytest.approx(plain, rel=1e-2)


def test_the_state_comes_back_after_an_error(unchanged):
    def fail():
        with isolated(CPU):
            torch.rand(3)
            raise KeyboardInterrupt("stop")

    with torch.autocast("cpu"), unchanged(), pytest.raises(KeyboardInterrupt, match="stop"):
        fail()
    with torch.inference_mode():
        with isolated(CPU):
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()
