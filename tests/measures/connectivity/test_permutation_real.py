"""Alignment of trained networks on Fashion-MNIST: the barrier sinks, more so with statistics of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.data import fashion_mnist

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        )


@pytest.fixture(scope="module")
def trained() -> tuple[list[nn.Sequential], Any]:
    x, y = fashion_mnist.load("train")
    x, y = nn.functional.avg_pool2d(x[:6000], 2), y[:6000]
    nets = [network(seed) for seed in (0, 1)]
    for seed, net in enumerate(nets):
        tw.train(net, (x, y), None, tw.TrainConfig(seed=seed, epochs=4, lr=0.05))
        net.eval()
    return nets, (x[:2000], y[:2000])


def barriers(nets: list[nn.Sequential], data: Any, method: str, mode: Any) -> tuple[float, float, Any]:
    a, b = (tw.Objective(net, data, batch_norm=mode) for net in nets)
    found = tw.align_permutation(a, b, method=method, seed=0)  # type: ignore[arg-type]
    assert found.largest_change < 2e-10
    assert found.objective.value() == pytest.approx(b.value(), rel=1e-5)
    return tw.linear_path(a, b).barrier, tw.linear_path(a, found.objective).barrier, found


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_the_barrier_sinks_with_alignment_and_recalibration(trained, method):
    nets, data = trained
    naive, _, _ = barriers(nets, data, method, "running")
    _, aligned, found = barriers(nets, data, method, "recalibrated")
    own, _, _ = barriers(nets, data, method, "recalibrated")
    assert aligned < 0.5 * own
    assert aligned < 0.5 * naive
    assert found.value < found.distance_before
    assert bool((found.similarities > found.start_similarities).all())
