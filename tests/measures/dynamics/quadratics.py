"""Quadratics with known curvature and noise, for runs of SGD."""

from __future__ import annotations

import numpy as np
import torch
from tests.measures.conftest import Theta
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.measures.dynamics.constant_rate import ConstantRate, excess_loss, stationary_covariance
from thalweg.objective.objective import Objective

CURVATURES = (4.0, 2.0, 1.0, 0.5)
NOISES = (1.0, 0.4, 2.0, 0.2)


def hessian() -> Tensor:
    """H ``(4, 4)``, turned."""
    return planted_matrix(CURVATURES, seed=1)[0]


def rows(num_examples: int = 40, seed: int = 2) -> Tensor:
    """Gradients ``(N, 4)`` of mean nought, whose covariance, over N, is that of `covariance`."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(num_examples, len(NOISES), generator=rng, dtype=torch.float64)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / num_examples).T)
    return white @ torch.linalg.cholesky(covariance()).T


def covariance() -> Tensor:
    """C ``(4, 4)``, turned otherwise, so that it does not commute with H."""
    return planted_matrix(NOISES, seed=7)[0]


def objective(num_examples: int = 40, **kwargs: object) -> Objective:
    """Mean loss theta.H.theta / 2 at its minimum; the examples' gradients differ by `rows` everywhere."""
    H = hessian()

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return batch[0] @ model.theta + 0.5 * model.theta @ (H.to(model.theta.dtype) @ model.theta)

    start = torch.zeros(len(CURVATURES), dtype=torch.float64)
    return Objective(Theta(start), (rows(num_examples),), loss=loss, **kwargs)  # type: ignore[arg-type]


def oracle(rule: ConstantRate, noise: np.ndarray) -> tuple[np.ndarray, float]:
    """Temperatures along the top three eigenvectors and the excess loss, by the dense covariance."""
    H = hessian().numpy()
    Sigma = stationary_covariance(H, noise, rule)
    values, V = np.linalg.eigh(H)
    return (values * np.diag(V.T @ Sigma @ V))[::-1][:3], excess_loss(H, Sigma)
