"""The gap between test and training loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import thalweg as tw


def objective(num: int, seed: int, model: nn.Module, **more: object) -> tw.Objective:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 4, generator=rng, dtype=torch.float64)
    y = (x[:, 0] > 0).long()
    return tw.Objective(model, (x, y), **more)  # type: ignore[arg-type]


def network(batch_norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(6) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 6), middle, nn.Tanh(), nn.Linear(6, 2)).double().eval()


def test_it_is_what_two_evaluations_say_with_welchs_error() -> None:
    model = network()
    train, test = objective(50, 1, model), objective(30, 2, model)
    found = tw.generalization_gap(train, test)
    assert found.value == pytest.approx(test.evaluate().loss - train.evaluate().loss)
    assert found.train_accuracy == pytest.approx(train.evaluate().accuracy)
    errors = []
    for o in (train, test):
        x, y = o._examples.batch
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
        errors.append(float(losses.detach().std() / math.sqrt(len(y))))
        p = o.evaluate().accuracy
        assert p is not None
    assert found.error.data is not None
    assert found.error.data.value == pytest.approx(math.hypot(*errors))
    assert (found.train_loss_error, found.test_loss_error) == pytest.approx(tuple(errors))
    p = found.test_accuracy
    assert found.test_accuracy_error == pytest.approx(math.sqrt(p * (1 - p) / 29))


def test_its_interval_covers_the_gap_on_new_data() -> None:
    """For a fixed network neither set is special: the gap in the population is nought."""
    model = network()
    num, covered = 400, 0
    for seed in range(num):
        low, high = tw.generalization_gap(
            objective(40, 2 * seed, model), objective(60, 2 * seed + 1, model)
        ).interval(0.95)
        covered += low <= 0 <= high
    assert abs(covered / num - 0.95) < 3 * math.sqrt(0.95 * 0.05 / num)


def test_batches_are_the_units_where_they_share_statistics() -> None:
    model = network(batch_norm=True)
    train = objective(48, 1, model, batch_norm="batch", batch_size=8)
    test = objective(32, 2, model, batch_norm="batch", batch_size=8)
    found = tw.generalization_gap(train, test)
    assert found.error.data is not None
    assert found.error.data.dof == 3


def test_other_networks_and_modes_are_refused() -> None:
    first, other = network(), network()
    with torch.no_grad():
        other[0].weight.mul_(2)
    with pytest.raises(ValueError, match="must be one network with one loss in one mode, but their params"):
        tw.generalization_gap(objective(20, 1, first), objective(20, 2, other))
    model = network(batch_norm=True)
    with pytest.raises(ValueError, match="batch_norm"):
        tw.generalization_gap(objective(20, 1, model), objective(20, 2, model, batch_norm="recalibrated"))
    with pytest.raises(TypeError, match="`train`"):
        tw.generalization_gap(model, objective(20, 2, model))  # type: ignore[arg-type]
