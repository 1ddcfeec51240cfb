"""Two networks that are one function: a ReLU network whose hidden units are rescaled by hand."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def relu_mlp(seed: int = 0) -> nn.Sequential:
    """4 in, 6 hidden ReLU units, 3 classes, biases throughout, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


def rescaled(net: nn.Sequential, factors: Tensor) -> nn.Sequential:
    """Hidden unit i multiplied by ``factors[i]`` > 0, bias and all, and what reads it divided."""
    net = copy.deepcopy(net)
    first, last = net[0], net[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        first.weight *= factors[:, None]
        first.bias *= factors
        last.weight /= factors
    return net
