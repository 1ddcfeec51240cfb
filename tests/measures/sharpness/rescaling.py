"""Networks that are one function: units rescaled or reordered, and weights before a batch norm, by hand."""

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


def reordered(net: nn.Sequential, order: Tensor) -> nn.Sequential:
    """Hidden unit i is what unit ``order[i]`` was."""
    net = copy.deepcopy(net)
    first, last = net[0], net[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(first.weight[order])
        first.bias.copy_(first.bias[order])
        last.weight.copy_(last.weight[:, order])
    return net


def scaled_before_norm(net: nn.Module, factors: Tensor) -> nn.Module:
    """Channels of `conv` times ``factors`` > 0; running statistics of `norm` make up for it, epsilon too."""
    net = copy.deepcopy(net)
    conv, norm = net.conv, net.norm
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        conv.weight *= factors[:, None, None, None]
        conv.bias *= factors
        norm.running_mean *= factors
        norm.running_var.copy_(factors**2 * (norm.running_var + norm.eps) - norm.eps)
    return net
