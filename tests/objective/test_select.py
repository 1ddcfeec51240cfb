"""`Objective.select`: the examples asked for, in their order, cut into the batches asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.objective.objective import Objective


def make(mode: str = "running") -> tuple[Objective, nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, y = torch.randn(21, 4, dtype=torch.float64), torch.arange(21) % 3
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    return Objective(net, (x, y), batch_norm=mode, batch_size=8), net, (x, y)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["running", "recalibrated"])
def test_it_is_the_mean_over_the_chosen_examples(mode: str) -> None:
    o, _, _ = make(mode)
    index = torch.tensor([20, 3, 3, 11])
    examples = o.evaluate_points([(o.params, o.buffers)]).example_losses[0]
    # Recalibrated statistics stay those of all the data.
    assert o.select(index).value() == pytest.approx(float(examples[index].mean()), rel=1e-12)
    assert o.select(index).num_examples == 4


def test_batch_mode_cuts_the_chosen_examples_anew() -> None:
    o, net, (x, y) = make("batch")
    index = torch.randperm(21, generator=torch.Generator().manual_seed(1))[:12]
    for size in (None, 5):
        anew = Objective(net, (x[index], y[index]), batch_norm="batch", batch_size=size or 8)
        assert o.select(index, size).value() == pytest.approx(anew.value(), rel=1e-12)
    with pytest.raises(ValueError, match="no batch of one in 'batch' mode"):
        o.select(index, 11)
    with pytest.raises(ValueError, match="no batch of one in 'batch' mode"):
        o.select(torch.arange(9))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 21]), "`index` must name examples from 0 to 20, got 0 to 21"),
        (torch.tensor([-1]), "`index` must name examples from 0 to 20, got -1 to -1"),
        (torch.tensor([0.0]), "`index` must be whole numbers"),
        (torch.tensor([True]), "`index` must be whole numbers"),
        (torch.tensor([], dtype=torch.int64), "`index` must be whole numbers"),
        (torch.tensor([[0]]), "`index` must be whole numbers"),
    ],
)
def test_bad_indices_are_named(index: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()[0].select(index)
