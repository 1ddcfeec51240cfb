"""Where training settles, as a `Monitor` sees it: 2 / lr, heavy ball, batch sharpness; a real catapult."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import thalweg as tw
from thalweg.data import fashion_mnist

Data = tuple[Tensor, Tensor]


def random_labels(n: int = 150, width: int = 10) -> Data:
    """Signs at random: fitting them sharpens a network progressively."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=rng, dtype=torch.float64)
    return x, torch.randint(2, (n, 1), generator=rng).double() * 2 - 1


def tanh_mlp(*widths: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [nn.Linear(before, after), *([nn.Tanh()] if i < len(widths) - 2 else [])]
    return nn.Sequential(*layers).to(dtype)


def train(
    model: nn.Module,
    data: Data,
    lr: float,
    num_steps: int,
    *,
    momentum: float = 0.0,
    batch_size: int | None = None,
    **settings: Any,
) -> tw.Monitor:
    """Squared loss, all the data a step or shuffled batches, watched without a limit."""
    optimizer = SGD(model.parameters(), lr=lr, momentum=momentum)
    monitor = tw.Monitor(
        model, optimizer, data, loss="mse", batch_size=batch_size, max_overhead=math.inf, seed=0, **settings
    )
    rng, done = torch.Generator().manual_seed(1), 0
    size = batch_size or len(data[0])
    while done < num_steps:
        order = torch.randperm(len(data[0]), generator=rng)
        for index in order.split(size) if batch_size else [torch.arange(size)]:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(data[0][index]), data[1][index]).backward()
            optimizer.step()
            monitor.step()
            done += 1
    assert not monitor.failures
    return monitor


def settled(monitor: tw.Monitor, name: str = "preconditioned_sharpness", limit: str = "threshold") -> float:
    """The mean over the last quarter of the readings, over the threshold."""
    ratios = [n[name] / n[limit] for n in monitor.history]
    last = ratios[-len(ratios) // 4 :]
    return sum(last) / len(last)


EIGENVALUE = {"measures": ["top_eigenvalues", "preconditioned_sharpness"]}


@pytest.mark.parametrize(
    ("lr", "momentum"),
    [
        (0.2, 0.0),
        (0.15, 0.5),
        pytest.param(0.1, 0.0, marks=pytest.mark.slow),
        pytest.param(0.13, 0.3, marks=pytest.mark.slow),
    ],
)
def test_full_batch_training_settles_at_its_threshold(lr: float, momentum: float) -> None:
    model, data = tanh_mlp(10, 30, 30, 1), random_labels()
    monitor = train(model, data, lr, 2000, momentum=momentum, every=25, **EIGENVALUE)
    first = monitor.history[0]
    assert first["threshold"] == pytest.approx((2 + 2 * momentum) / lr)
    assert first["preconditioned_sharpness"] < 0.7 * first["threshold"], "it had to climb"
    assert settled(monitor) == pytest.approx(1, abs=0.1)


def images(n: int = 5000) -> Data:
    """Fashion-MNIST, centred, with classes as corners."""
    x, y = fashion_mnist.load("train")
    return (x[:n].flatten(1) - x[:n].mean()) / x[:n].std(), nn.functional.one_hot(y[:n], 10).float()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("lr", "momentum"), [(0.2, 0.0), (0.3, 0.0), (0.4, 0.0), (0.2, 0.5)])
def test_with_five_thousand_examples(lr: float, momentum: float) -> None:
    model = tanh_mlp(784, 50, 50, 10, dtype=torch.float32)
    monitor = train(model, images(), lr, 2000, momentum=momentum, every=50, **EIGENVALUE)
    assert settled(monitor) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("lr", "batch_size", "num_steps"),
    [(0.1, 15, 4000), pytest.param(0.05, 5, 20_000, marks=pytest.mark.slow)],
)
def test_batch_sharpness_settles_at_its_own_threshold(lr: float, batch_size: int, num_steps: int) -> None:
    """And the largest eigenvalue stays below."""
    model, data = tanh_mlp(10, 30, 30, 1), random_labels()
    asked = ["batch_sharpness", "top_eigenvalues"]
    monitor = train(model, data, lr, num_steps, batch_size=batch_size, every=100, measures=asked)
    assert settled(monitor, "batch_sharpness", "batch_sharpness_threshold") == pytest.approx(1, abs=0.15)
    assert settled(monitor, "lambda_max", "batch_sharpness_threshold") < 0.8


# -- a catapult ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "number"), [(1.0, 0), (3.0, 1)])
def test_a_catapult_of_a_linear_network(times: float, number: int) -> None:
    """Two linear layers, one example: between 2 / lr and 4 / lr they catapult (Lewkowycz et al. 2020)."""
    model = nn.Sequential(nn.Linear(1, 200, bias=False), nn.Linear(200, 1, bias=False)).double()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model:
            drawn = torch.randn(layer.weight.shape, generator=rng, dtype=torch.float64)
            layer.weight.copy_(drawn / 200**0.25)
    data = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    objective = tw.Objective(model, data, loss="mse")
    sharpness = tw.top_eigenvalues(objective, seed=0).value
    monitor = train(model, data, times / sharpness, 60, every=1, measures=["top_eigenvalues"])
    assert sum(n["catapult"] for n in monitor.history) == number
    assert monitor.history[-1]["loss"] < 1e-3
    if number:
        assert max(n["loss"] for n in monitor.history) > 5 * objective.value()
        assert monitor.history[-1]["lambda_max"] < 2 / (times / sharpness)
