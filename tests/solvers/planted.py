"""Objectives whose Hessian over any set of examples is known: a parameter vector under quadratic losses."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.objective.objective import Objective


class Vector(nn.Module):
    """Nothing but P numbers."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())


@cache
def orthogonal(dim: int, seed: int = 0) -> Tensor:
    """Random eigenvectors, one a column ``(P, P)``."""
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.float64)).Q


def planted(
    curvatures: Tensor, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any
) -> Objective:
    """Example i has the Hessian ``Q diag(curvatures[i]) Q^T``, so that their mean has the mean eigenvalues.

    Parameters
    ----------
    curvatures
        ``(N, P)``.
    """
    Q = orthogonal(curvatures.shape[1], seed).to(dtype)

    def loss(model: Vector, batch: tuple[Tensor]) -> Tensor:
        return 0.5 * batch[0] @ (model.theta @ Q).square()

    rng = torch.Generator().manual_seed(seed)
    theta = torch.randn(curvatures.shape[1], generator=rng, dtype=torch.float64)
    return Objective(Vector(theta.to(dtype)), (curvatures.to(dtype),), loss=loss, **options)


def scattered(eigenvalues: Tensor, num_examples: int = 61, spread: float = 0.5, seed: int = 0) -> Tensor:
    """Curvatures ``(N, P)`` that differ from example to example and whose mean is `eigenvalues`."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_examples, len(eigenvalues), generator=rng, dtype=torch.float64)
    return eigenvalues + spread * (noise - noise.mean(0))


def chosen(objective: Objective, n: int, seed: int) -> set[int]:
    """Which examples `subset` takes, told by their first curvature (make them all different)."""
    every, some = ([float(v) for v in firsts(o)] for o in (objective, objective.subset(n, seed=seed)))
    return {every.index(v) for v in some}


def firsts(objective: Objective) -> Tensor:
    """First curvature of each example, in order."""
    found: list[Tensor] = []

    def note(micro: Any) -> Tensor:
        found.append(micro.batch[0][:, 0].clone())
        return torch.zeros(())

    objective.reduce(note)
    return torch.cat(found)
