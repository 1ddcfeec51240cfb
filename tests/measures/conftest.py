"""Objectives whose geometry is known, small networks, and their losses by plain PyTorch."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.objective.objective import Objective


class Theta(nn.Module):
    """Nothing but a parameter vector, for losses `(model, batch) -> (B,)`."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())


def quadratic(
    g: Tensor, H: Tensor, at: Tensor | None = None, num_examples: int = 7, **kwargs: Any
) -> Objective:
    """Mean loss exactly ``g.theta + theta.H.theta / 2``; examples have gradients of their own, of mean g."""
    rows = torch.randn(num_examples, len(g), generator=torch.Generator().manual_seed(5), dtype=g.dtype)
    rows = rows - rows.mean(0) + g

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return batch[0] @ model.theta + 0.5 * model.theta @ (H @ model.theta)

    return Objective(Theta(torch.zeros_like(g) if at is None else at), (rows,), loss=loss, **kwargs)


class ConvNet(nn.Module):
    """Convolution, batch norm, ReLU, dense: 1 x 6 x 6 in, 3 classes out."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(p + 0.3 * torch.randn(p.shape, generator=rng))
            # Statistics that are nobody's: 'running' must be seen to use them.
            self.norm.running_mean.copy_(0.5 * torch.randn(4, generator=rng))  # type: ignore[union-attr]
            self.norm.running_var.copy_(0.5 + torch.rand(4, generator=rng))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def convnet(seed: int = 0, dtype: torch.dtype = torch.float64) -> ConvNet:
    """Weights that depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(seed).to(dtype).eval()


def images(n: int = 37, seed: int = 1) -> tuple[Tensor, Tensor]:
    """N examples; 37 in batches of 8 leaves a last batch of 5."""
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, 1, 6, 6, generator=rng, dtype=torch.float64),
        torch.randint(0, 3, (n,), generator=rng),
    )


def plain_loss(
    model: nn.Module, data: tuple[Tensor, Tensor], mode: str, batch_size: int = 8
) -> tuple[Tensor, float]:
    """Mean loss, differentiable in the model's parameters, and accuracy, by `train()` and `eval()` alone.

    Works on `model` itself and leaves its statistics changed. Recalibration takes the data's own statistics
    and holds them constant, as ``"recalibrated"`` does.
    """
    x, y = data
    if mode == "batch":
        outputs = torch.cat([model.train()(part) for part in x.split(batch_size)])
    elif mode == "recalibrated":
        inputs = model.conv(x).detach()
        model.norm.running_mean = inputs.mean((0, 2, 3))
        model.norm.running_var = inputs.var((0, 2, 3), correction=0)
        outputs = model.eval()(x)
    else:
        outputs = model.eval()(x)
    return nn.functional.cross_entropy(outputs, y), float((outputs.argmax(1) == y).double().mean())


def batch_totals(model: nn.Module, data: tuple[Tensor, Tensor], batch_size: int) -> np.ndarray:
    """Summed loss of each batch with its own statistics."""
    batches = zip(*(t.split(batch_size) for t in data), strict=True)
    model = copy.deepcopy(model)
    return np.array([len(y) * plain_loss(model, (x, y), "batch", batch_size)[0].item() for x, y in batches])


def moved(model: nn.Module, vector: Tensor) -> nn.Module:
    """A copy of `model` with ``vector`` added to its parameters, in the order of `parameters()`."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p, part in zip(
            model.parameters(), vector.split([p.numel() for p in model.parameters()]), strict=True
        ):
            p += part.view_as(p).to(p)
    return model


@pytest.fixture
def toys() -> SimpleNamespace:
    """Everything above by name."""
    return SimpleNamespace(**{k: v for k, v in globals().items() if callable(v)})
