"""The networks of `docs/derivatives.md`, and the model as a user would hand it to another tool."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests import networks
from tests.operators import oracle
from torch import Tensor, nn

Data = tuple[Tensor, Tensor]


def network(norm: Callable[[], nn.Module], first: Callable[[], nn.Module], width: int) -> nn.Module:
    """A weight layer, a normalisation, a smooth nonlinearity, a weight layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [first(), norm(), nn.Tanh(), nn.Flatten(), nn.Linear(width, 3)]
        return networks.built(nn.Sequential(*layers))


LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "layer norm": (lambda: network(lambda: nn.LayerNorm(6), lambda: nn.Linear(5, 6), 6), "running"),
    "instance norm": (
        lambda: network(lambda: nn.InstanceNorm2d(3, affine=True), lambda: nn.Conv2d(1, 3, 3), 48),
        "running",
    ),
    "batch norm, batch statistics": (
        lambda: network(lambda: nn.BatchNorm1d(6), lambda: nn.Linear(5, 6), 6),
        "batch",
    ),
    "batch norm, running statistics": (
        lambda: network(lambda: nn.BatchNorm1d(6), lambda: nn.Linear(5, 6), 6),
        "running",
    ),
}


def problem(layer: str) -> tuple[nn.Module, Data, str]:
    """Model, data and batch-norm mode."""
    build, mode = LAYERS[layer]
    return build(), networks.images() if layer == "instance norm" else networks.vectors(), mode


def ready(model: nn.Module, data: Data, mode: str) -> nn.Module:
    """In the mode, and free of what transforms refuse: statistics written in place."""
    model = oracle.prepared(model, data, "cross_entropy", mode)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and mode == "batch":
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return model
