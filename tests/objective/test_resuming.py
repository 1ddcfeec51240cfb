"""How much is done between two visits to a store: by the operations of a pass, and nothing else."""

from __future__ import annotations

import pytest
import torch
from tests.networks import images, mlp, residual, vectors
from torch import nn

from thalweg.objective import resuming
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import RATE, SECONDS, arithmetic, points_at_risk, steps_at_risk


def dense(width: int, n: int = 256) -> Objective:
    """``2 n (width^2 + 3 width)`` operations of a pass."""
    model = nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh(), nn.Linear(width, 3, bias=False))
    return Objective(model, (torch.randn(n, width), torch.randint(3, (n,))), batch_size=32)


def test_a_minute_of_a_slow_machine() -> None:
    for width in (16, 512):
        objective = dense(width)
        flops = 2 * 256 * (width**2 + 3 * width)
        assert points_at_risk(objective) == int(SECONDS * RATE / flops)
        assert steps_at_risk(objective, 32) == int(SECONDS * RATE / (3 * flops * 32 / 256))
        assert steps_at_risk(objective, 1000) == int(SECONDS * RATE / (3 * flops))
    assert points_at_risk(dense(16)) > 1000 > points_at_risk(dense(1024, 2000))


def test_one_at_least(monkeypatch) -> None:
    monkeypatch.setattr(resuming, "SECONDS", 1e-9)
    assert points_at_risk(dense(8)) == steps_at_risk(dense(8), 4) == 1


def test_a_layer_whose_operations_nobody_counts_still_has_its_parameters() -> None:
    """A rule that saw only products would take it for free."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5000))

        def forward(self, x):
            return (x[:, :1] * self.scale).view(len(x), 5, 1000).sum(-1)

    objective = Objective(Scaled(), (torch.randn(30, 2), torch.randint(5, (30,))))
    assert points_at_risk(objective) == int(SECONDS * RATE / (2 * 30 * 5000))


def test_statistics_that_are_recalibrated_count() -> None:
    """Three norms: 1 + (3 + 1) / 2 passes, those over the calibration data."""
    data, calibration = images(20), images(60)
    plain = Objective(residual(), data, batch_norm="running")
    anew = Objective(residual(), data, batch_norm="recalibrated", calibration_data=calibration)
    flops = resuming._flops(plain)
    assert resuming._flops(anew) == flops, "whether they are known already makes no difference"
    anew.value()
    assert resuming._flops(anew) == flops
    assert points_at_risk(anew) == int(SECONDS * RATE / (flops * (1 + 2 * 60 / 20)))
    assert points_at_risk(anew.frozen()) == points_at_risk(plain)


def test_the_arithmetic_is_that_of_the_first_examples(unchanged) -> None:
    objective = Objective(mlp(), vectors(21))
    with unchanged([(objective.params, objective.buffers)]):
        first = arithmetic(objective)
    assert first == arithmetic(objective)
    assert first != arithmetic(objective.at(objective.params * (1 + 1e-15)))
    assert first != arithmetic(objective.to_dtype(torch.float32))


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_the_rule_calls_the_model_and_changes_nothing(mode, unchanged) -> None:
    model, data = residual(), images(21)
    objective = Objective(model, data, batch_norm=mode, batch_size=8)
    with unchanged(model, data):
        points_at_risk(objective)
        arithmetic(objective)
