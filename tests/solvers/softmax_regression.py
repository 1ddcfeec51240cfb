"""A linear classifier, whose Hessian over any weighted examples is known in closed form and quickly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.objective.objective import Objective

NUM_CLASSES = 3


def examples(num_examples: int, width: int = 4, wrong: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clusters that overlap a little, classes in no order; a part of the labels is wrong."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(NUM_CLASSES, (num_examples,), generator=rng)
    centres = 2 * torch.randn(NUM_CLASSES, width, generator=rng, dtype=torch.float64)
    x = centres[y] + torch.randn(num_examples, width, generator=rng, dtype=torch.float64)
    flipped = torch.rand(num_examples, generator=rng) < wrong
    return x, torch.where(flipped, (y + 1) % NUM_CLASSES, y)


def regression(x: Tensor, y: Tensor, seed: int = 0) -> Objective:
    """Weights that are certain of most examples: half a least-squares fit, sharpened."""
    rng = torch.Generator().manual_seed(seed)
    model = nn.Linear(x.shape[1], NUM_CLASSES, bias=False).double()
    targets = nn.functional.one_hot(y, NUM_CLASSES).double()
    fit = torch.linalg.lstsq(x, targets - 1 / NUM_CLASSES).solution.T
    with torch.no_grad():
        model.weight.copy_(6 * fit + 0.1 * torch.randn(fit.shape, generator=rng, dtype=torch.float64))
    return Objective(model, (x, y))


def hessian(objective: Objective) -> Tensor:
    """``(P, P)``: mean of w (diag p - p p') x x', the columns in the order of the weight's rows."""
    x, _ = objective._examples.batch  # type: ignore[misc]
    weights = objective._examples.weights
    W = objective.params.view(NUM_CLASSES, -1)
    p = (x @ W.T).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    A = torch.einsum("n,nab,ni,nj->aibj", w / len(x), inner, x, x)
    return A.reshape(objective.space.dim, -1)
