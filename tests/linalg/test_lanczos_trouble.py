"""What the eigensolver does in trouble: too little memory or budget, bad products, bad arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.lanczos import lanczos_eigenpairs
from thalweg.linalg.linear_operator import DenseOperator, LinearOperator

P = 120
NETWORK = torch.cat([torch.tensor([90.0, 60, 45, 28, 20]), 5 * torch.linspace(1, -0.5, P - 5)])
INDEFINITE = torch.linspace(-2, 1, P) ** 3


def solve(operator: LinearOperator, k: int = 1, **options: Any) -> EigenSolution:
    return lanczos_eigenpairs(operator, k, rng=torch.Generator().manual_seed(0), **options)


def test_memory_bound_is_kept_or_refused() -> None:
    A, _ = planted_matrix(NETWORK, dtype=torch.float32)
    # k = 1, a block of 1: four vectors of basis and three beside it, of 480 bytes each.
    assert solve(DenseOperator(A), max_memory_bytes=7 * 480).converged
    with pytest.raises(
        ValueError, match=r"`max_memory_bytes` must hold the smallest basis, got 3,359: .* 3,360 bytes"
    ):
        solve(DenseOperator(A), max_memory_bytes=7 * 480 - 1)
    with pytest.raises(ValueError, match=r"`max_basis` must be at least 4 for 1 eigenpairs .* got 3"):
        solve(DenseOperator(A), max_basis=3)


def test_a_spent_budget_carries_the_partial_result() -> None:
    A, _ = planted_matrix(INDEFINITE)
    with pytest.raises(
        ConvergenceError, match="12 products were spent before 2 eigenpairs converged"
    ) as caught:
        solve(DenseOperator(A), 2, rtol=1e-9, max_matvecs=12)
    partial = caught.value.partial
    with pytest.raises(ConvergenceError, match=r"^1 product was spent before the eigenpair converged"):
        solve(DenseOperator(A), rtol=1e-9, max_matvecs=1)
    assert isinstance(partial, EigenSolution)
    assert not partial.converged
    assert partial.num_matvecs == 12
    assert partial.lower_bound <= 1 <= partial.upper_bound
    true = torch.linalg.vector_norm(
        A @ partial.eigenvectors - partial.eigenvectors * partial.eigenvalues, dim=0
    )
    assert bool((true <= partial.residuals * (1 + 1e-9)).all())
    with pytest.raises(ConvergenceError, match="the basis holds only 1") as caught:
        solve(DenseOperator(A), 2, max_matvecs=1)
    assert len(caught.value.partial.eigenvalues) == 1


def test_asymmetric_products_never_converge_falsely() -> None:
    A, _ = planted_matrix(NETWORK)
    skew = torch.triu(torch.ones(P, P, dtype=torch.float64), 1)

    class Asymmetric(DenseOperator):
        def matmat(self, V: Tensor) -> Tensor:
            return (A + 0.05 * (skew - skew.T)) @ V

    with pytest.raises(ConvergenceError, match="Products are symmetric only to"):
        solve(Asymmetric(A), rtol=1e-6, max_matvecs=60)


def test_non_finite_products_are_reported() -> None:
    class Broken(DenseOperator):
        def matmat(self, V: Tensor) -> Tensor:
            return V / 0.0

    with pytest.raises(NonFiniteLossError, match=r"product 1 of Broken\(P = 3, .*\) is not finite"):
        solve(Broken(torch.eye(3)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k": 0}, "`k` must be at least 1, got 0"),
        ({"k": 5}, "`k` = 5 asks for 5 eigenpairs of a matrix that has 4"),
        ({"k": 3, "which": "both"}, "`k` = 3 at both ends asks for 6 eigenpairs of a matrix that has 4"),
        ({"which": "largest"}, '`which` must be "top", "bottom" or "both", got \'largest\''),
        ({"rtol": 0.0}, r"`rtol` must lie in \[1.4e-14, 1\) for torch.float64, got 0.0"),
        ({"rtol": 1.0}, r"`rtol` must lie in .*, got 1.0"),
        ({"num_random": -1}, "`num_random` must be at least 0, got -1"),
        ({"min_steps": 0}, "`min_steps` must be at least 1, got 0"),
        ({"confidence": 1.0}, r"`confidence` must lie in \(0, 1\), got 1.0"),
        ({"max_matvecs": 0}, "`max_matvecs` must allow the first block of 1 columns, got 0"),
        ({"start": torch.zeros(3, 1)}, r"`start` must have shape \(4, W\), .* got \(3, 1\)"),
        ({"start": torch.full((4, 1), torch.nan)}, "`start` must be finite"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        solve(DenseOperator(torch.eye(4, dtype=torch.float64)), **options)


def test_coarse_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"`operator` must be float32 or float64, got torch\.bfloat16"):
        solve(DenseOperator(torch.eye(4, dtype=torch.bfloat16)))
