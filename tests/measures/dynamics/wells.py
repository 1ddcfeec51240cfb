"""Losses with one flat and one sharp minimum of one height, as ordinary objectives."""

from __future__ import annotations

from typing import Any

import torch
from tests.measures.conftest import Theta
from torch import Tensor

from thalweg.objective.objective import Objective

# L' = (x^2 - 1)(x - s)(1 + c x + d x^2), s such that both minima, at -1 and 1, have the loss nought.
C, D = 1.4, 0.7
S = C / (5 + D)
CURVATURES = (2 * (1 + S) * (1 - C + D), 2 * (1 - S) * (1 + C + D))

# By how much faster the noise grows than a straight line: its variance, exp(2 K x), follows the curvature.
K = 0.459


def height(x: Any) -> Any:
    """L of one parameter, a tensor or a number."""

    def antiderivative(t: Any) -> Any:
        # (x^2 - 1)(-s + (1 - c s) x + (c - d s) x^2 + d x^3), term by term.
        a = (-S, 1 - C * S, C - D * S, D)
        total: Any = 0.0
        for n, coefficient in enumerate(a):
            total = total + coefficient * (t ** (n + 3) / (n + 3) - t ** (n + 1) / (n + 1))
        return total

    return antiderivative(x) - antiderivative(1.0)


def amplitudes(num_examples: int, seed: int = 0) -> Tensor:
    """``(N,)`` of mean nought and variance one."""
    rng = torch.Generator().manual_seed(seed)
    a = torch.randn(num_examples, generator=rng, dtype=torch.float64)
    a = a - a.mean()
    return a / a.std(correction=0)


def one_parameter(
    num_examples: int = 8,
    noise: float = 1.0,
    growth: float = K,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    **kwargs: object,
) -> Objective:
    """Examples add a_i noise exp(K x) / K: gradients of standard deviation noise exp(K x)."""

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        x = model.theta[0]
        return height(x) + noise * batch[0] * torch.exp(growth * x) / growth

    start = torch.zeros(1, dtype=dtype, device=device)
    return Objective(Theta(start), (amplitudes(num_examples),), loss=loss, **kwargs)  # type: ignore[arg-type]


def two_parameters(num_examples: int = 4, noise: float = 1.0, **kwargs: object) -> Objective:
    """A second parameter, along which the sharp well is sharp as well."""

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        x, y = model.theta[0], model.theta[1]
        return height(x) + torch.exp(x) * y**2 / 2 + noise * batch[0] * torch.exp(K * x) * (1 / K + y)

    start = torch.zeros(2, dtype=torch.float64)
    return Objective(Theta(start), (amplitudes(num_examples),), loss=loss, **kwargs)  # type: ignore[arg-type]


def three_wells(depth: float = 0.02) -> Objective:
    """Two deep ones, far from each other, and a shallow one in between."""

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        x = model.theta[0]
        return (x**2 * (x**2 - 1) ** 2) * 2 - depth * x**2 + depth * x**4 / 2 + 0 * batch[0]

    return Objective(
        Theta(torch.zeros(1, dtype=torch.float64)), (torch.ones(3, dtype=torch.float64),), loss=loss
    )


MINIMA_1 = ((-0.9,), (1.1,))
MINIMA_2 = ((-0.9, 0.1), (1.1, -0.1))
MINIMA_3 = ((-1.0,), (0.0,), (1.0,))
