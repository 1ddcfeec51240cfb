"""A classifier whose outputs curve in the parameters, so that its Hessian hangs on the labels: closed form.

Example i has the logits (b_i + sum_j c_ij theta_j^2 / 2, 0).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.objective.objective import Objective


class CurvedLogits(nn.Module):
    """One logit, and nought for the other class."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())

    def forward(self, b: Tensor, c: Tensor) -> Tensor:
        logit = b + c @ self.theta.square() / 2
        return torch.stack([logit, torch.zeros_like(logit)], 1)


def curved(b: Tensor, c: Tensor, y: Tensor) -> Objective:
    """At theta = (1, ..., 1)."""
    return Objective(CurvedLogits(torch.ones(c.shape[1], dtype=torch.float64)), (b, c, y))


def noisy_labels(num_examples: int, wrong: float, seed: int = 0, dim: int = 8) -> Objective:
    """Logits of some certainty, a part of the labels against them."""
    rng = torch.Generator().manual_seed(seed)
    b = 3 * torch.randn(num_examples, generator=rng, dtype=torch.float64)
    scale = 0.5 ** torch.arange(dim, dtype=torch.float64)
    c = scale * (2 + torch.randn(num_examples, dim, generator=rng, dtype=torch.float64))
    y = (b + c.sum(1) / 2 < 0).long()
    flipped = torch.rand(num_examples, generator=rng) < wrong
    return curved(b, c, torch.where(flipped, 1 - y, y))


def hessian(objective: Objective) -> Tensor:
    """``(P, P)``: the weighted mean of s (1 - s) (c theta) (c theta)' + (s - 1_0) diag(c)."""
    b, c, y = objective._examples.batch  # type: ignore[misc]
    weights = objective._examples.weights
    theta = objective.params
    s = torch.sigmoid(b + c @ theta.square() / 2)
    w = torch.ones_like(s) if weights is None else weights
    slope = c * theta
    inner = torch.einsum("n,ni,nj->ij", w * s * (1 - s), slope, slope)
    return (inner + torch.diag((w * (s - (y == 0).double())) @ c)) / len(s)
