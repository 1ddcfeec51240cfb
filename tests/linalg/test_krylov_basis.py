"""Orthonormality where it is hard: float32, many vectors, columns that nearly depend on one another."""

from __future__ import annotations

import pytest
import torch

from thalweg.core.precision import full_precision
from thalweg.linalg.krylov_basis import KrylovBasis, inner_products, orthonormalise


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_float32_inner_products_over_many_entries() -> None:
    # A plain float32 sum of a million squares of about 1/3 is off by 1e-5 or more in its worst orders.
    X = torch.rand(2, 1_000_000, generator=rng())
    exact = X.double() @ X.double().T
    assert float(((inner_products(X, X) - exact) / exact).abs().max()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearly_dependent_rows_come_out_orthonormal(dtype: torch.dtype) -> None:
    base = torch.randn(1, 2000, dtype=torch.float64, generator=rng())
    X = (base + 1e-4 * torch.randn(4, 2000, dtype=torch.float64, generator=rng(1))).to(dtype)
    before = X.double().clone()
    Y, S, lost = orthonormalise(X, drop=0.0)
    eps = torch.finfo(dtype).eps
    assert lost == 0
    assert float((Y.double() @ Y.double().T - torch.eye(4)).abs().max()) < 100 * eps
    assert float((S.T @ Y.double() - before).norm() / before.norm()) < 100 * eps


def test_dependent_rows_are_dropped_and_counted() -> None:
    a, b = torch.randn(2, 50, dtype=torch.float64, generator=rng())
    Y, S, lost = orthonormalise(torch.stack([a, 2 * a, b, torch.zeros(50, dtype=torch.float64)]), drop=1e-10)
    assert Y.shape == (2, 50)
    assert S.shape == (2, 4)
    assert lost < 1e-10
    torch.testing.assert_close(S.T @ Y, torch.stack([a, 2 * a, b, 0 * a]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_growing_across_slabs_stays_orthonormal(dtype: torch.dtype) -> None:
    basis = KrylovBasis(300, 100, dtype, torch.device("cpu"))
    for step in range(25):
        X = torch.randn(3, 300, generator=rng(step)).to(dtype)
        if basis.size:  # mostly inside the span already, which is what makes one pass of Gram-Schmidt fail
            X = 1e-3 * X + torch.randn(3, basis.size, generator=rng(99)).to(dtype) @ basis.rows(0, basis.size)
        before = X.double().clone()
        Y, h, S, _ = basis.orthogonalise(X, drop=0.0)
        Q = basis.rows(0, basis.size).double() if basis.size else torch.zeros(0, 300, dtype=torch.float64)
        assert (
            float((h.T @ Q + S.T @ Y.double() - before).norm() / before.norm()) < 30 * torch.finfo(dtype).eps
        )
        basis.append(Y)
    Q = basis.rows(0, 75).double()
    assert float((Q @ Q.T - torch.eye(75)).abs().max()) < 30 * torch.finfo(dtype).eps


def test_rotation_in_place_keeps_span_and_pending_block() -> None:
    basis = KrylovBasis(90, 70, torch.float64, torch.device("cpu"))
    Y, *_ = basis.orthogonalise(torch.randn(66, 90, dtype=torch.float64, generator=rng()), 0.0)
    basis.append(Y)
    before = basis.rows(0, 66).clone()
    kept = torch.linalg.qr(torch.randn(64, 40, dtype=torch.float64, generator=rng(1)))[0]
    basis.rotate(kept, pending=2)
    assert basis.size == 42
    torch.testing.assert_close(basis.rows(0, 40), kept.T @ before[:64])
    torch.testing.assert_close(basis.rows(40, 42), before[64:])
    torch.testing.assert_close(basis.combine(torch.eye(42, 1, dtype=torch.float64)), kept.T[:1] @ before[:64])


def test_reduced_matmul_precision_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
