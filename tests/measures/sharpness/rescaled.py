"""Networks that compute the same function with other weights, changed by hand; and their layers."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, CLASSES = 6, 3


def relu_mlp(seed: int = 0, inputs: int = 5, num_hidden: int = 2) -> nn.Sequential:
    """Hidden layers of ReLU with biases, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [
            part for i in range(num_hidden) for part in (nn.Linear(WIDTH if i else inputs, WIDTH), nn.ReLU())
        ]
        return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES)).double()


def normed(seed: int = 0, eps: float = 1e-3) -> nn.Sequential:
    """Convolutions with and without bias, batch norm and tanh after each, dense; statistics of nobody."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3),
            nn.BatchNorm2d(2, eps=eps),
            nn.Tanh(),
            nn.Conv2d(2, 3, 3, bias=False),
            nn.BatchNorm2d(3, eps=eps),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(12, CLASSES),
        ).double()
        for norm in (model[1], model[4]):
            with torch.no_grad():
                norm.weight.add_(0.3 * torch.randn(norm.weight.shape))
                norm.bias.add_(0.3 * torch.randn(norm.bias.shape))
                norm.running_mean.copy_(0.4 * torch.randn(norm.bias.shape))
                norm.running_var.copy_(0.3 + torch.rand(norm.bias.shape))
    return model


def factors(count: int, seed: int = 0) -> Tensor:
    """Positive numbers from a fifth to five, all different."""
    rng = torch.Generator().manual_seed(seed)
    return torch.exp(1.6 * (2 * torch.rand(count, generator=rng, dtype=torch.float64) - 1))


@torch.no_grad()
def rescale_relu(
    model: nn.Sequential, unit_by_unit: bool = True, first: Tensor | None = None
) -> nn.Sequential:
    """Each hidden unit's weights and bias times a factor, what reads it divided by that: same function.

    The first layer's units by `first`, if given.
    """
    model = copy.deepcopy(model)
    layers: list[Any] = [m for m in model if isinstance(m, nn.Linear)]
    for i, (layer, following) in enumerate(itertools.pairwise(layers)):
        a = factors(layer.out_features, i) if unit_by_unit else torch.full((WIDTH,), 3.0 - 2.6 * i).double()
        a = first if i == 0 and first is not None else a
        layer.weight *= a[:, None]
        layer.bias *= a
        following.weight /= a
    return model


@torch.no_grad()
def rescale_filters(model: Any, first: Tensor | None = None) -> Any:
    """Filters before batch norm times factors; with stored statistics that follow, the same function.

    Epsilon is made up for by the norm's own factor, to the last bit but rounding. The first layer's filters
    are multiplied by `first`, if given.
    """
    model = copy.deepcopy(model)
    layers = list(model.children())
    pairs = [(a, b) for a, b in itertools.pairwise(layers) if isinstance(b, nn.BatchNorm2d)]
    for seed, (conv, norm) in enumerate(pairs):
        a = factors(conv.out_channels, seed) if seed or first is None else first
        conv.weight *= a.view(-1, 1, 1, 1)
        if conv.bias is not None:
            conv.bias *= a
        old = norm.running_var.clone()
        norm.running_mean *= a
        norm.running_var *= a.square()
        norm.weight *= ((norm.running_var + norm.eps) / (old + norm.eps)).sqrt() / a
    return model


@torch.no_grad()
def permute_units(model: nn.Sequential) -> nn.Sequential:
    """The hidden units of the first layer in another order."""
    model = copy.deepcopy(model)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    first, second = model[0], model[2]
    first.weight.copy_(first.weight[order])
    first.bias.copy_(first.bias[order])
    second.weight.copy_(second.weight[:, order])
    return model


@torch.no_grad()
def fold(model: nn.Sequential) -> nn.Sequential:
    """The network without batch norm that computes the same with the stored statistics."""
    layers: list[nn.Module] = []
    for module in copy.deepcopy(model).eval():
        if not isinstance(module, nn.BatchNorm2d):
            layers.append(module)
            continue
        conv: Any = layers[-1]
        factor = module.weight / (module.running_var + module.eps).sqrt()  # type: ignore[operator]
        bias = torch.zeros_like(factor) if conv.bias is None else conv.bias
        conv.weight *= factor.view(-1, 1, 1, 1)
        conv.bias = nn.Parameter((bias - module.running_mean) * factor + module.bias)
    return nn.Sequential(*layers)


@torch.no_grad()
def turned(model: nn.Module, where: str) -> nn.Module:
    """Queries times a matrix and keys times its inverse, head by head; or values and what reads them."""
    model = copy.deepcopy(model)
    attention: Any = model.attention
    rng = torch.Generator().manual_seed(0)
    for head in range(2):
        M = torch.randn(2, 2, generator=rng, dtype=torch.float64) + 2 * torch.eye(2).double()
        q, k, v = (slice(4 * part + 2 * head, 4 * part + 2 * head + 2) for part in range(3))
        weight, bias, out = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight
        if where == "query_key":
            for rows, A in ((q, M), (k, M.inverse().T)):
                weight[rows], bias[rows] = A @ weight[rows], A @ bias[rows]
        else:
            weight[v], bias[v] = M @ weight[v], M @ bias[v]
            out[:, 2 * head : 2 * head + 2] = out[:, 2 * head : 2 * head + 2] @ M.inverse()
    return model


def batch(kind: str, n: int = 21) -> tuple[Tensor, Tensor]:
    """Vectors of five entries or images of 6 x 6, and classes."""
    rng = torch.Generator().manual_seed(7)
    shape = (5,) if kind == "vectors" else (1, 6, 6)
    x = torch.randn(n, *shape, generator=rng, dtype=torch.float64)
    return x, torch.randint(CLASSES, (n,), generator=rng)
