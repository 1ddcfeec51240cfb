"""All eigenvalues by products with the identity, and what they may be off by."""

from __future__ import annotations

import math

import pytest
import torch
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.linalg.exact_spectrum import exact_spectrum
from thalweg.linalg.linear_operator import DenseOperator, LinearOperator

VALUES = [100.0, *torch.linspace(3.0, -1.0, 129).tolist()]


class Rounded(LinearOperator):
    """Products that are off by noise of a size, in both directions differently."""

    def __init__(self, matrix: Tensor, size: float) -> None:
        super().__init__(len(matrix), matrix.dtype)
        rng = torch.Generator().manual_seed(0)
        self.matrix = matrix + size * torch.randn(matrix.shape, generator=rng, dtype=matrix.dtype)

    def matmat(self, V: Tensor) -> Tensor:
        return self.matrix @ V


def test_a_planted_spectrum_in_blocks_of_uneven_size() -> None:
    A = planted_matrix(VALUES, seed=4)[0]
    found = exact_spectrum(DenseOperator(A))
    truth = torch.tensor(VALUES, dtype=torch.float64).sort(descending=True).values
    torch.testing.assert_close(found.nodes, truth, rtol=0, atol=1e-12 * 100)
    assert found.num_matvecs == found.num_counted == found.dim == 130
    trace = found.mean(lambda nodes: 130 * nodes)
    assert float(trace) == pytest.approx(sum(VALUES))
    assert float(trace.solver) == 0
    assert float(found.share(-math.inf, -1e-9)) == pytest.approx(sum(v < -1e-9 for v in VALUES) / 130)


def test_what_rounding_moves_eigenvalues_by_is_bounded() -> None:
    A = planted_matrix(VALUES, seed=4)[0]
    truth = torch.tensor(VALUES, dtype=torch.float64).sort(descending=True).values
    found = exact_spectrum(Rounded(A, 1e-3))
    off = float((found.nodes - truth).abs().max())
    assert 1e-4 < off <= found.resolution < 0.2


def test_what_is_refused() -> None:
    with pytest.raises(NonFiniteLossError, match="a product of the operator is not finite"):
        exact_spectrum(Rounded(torch.full((3, 3), math.nan), 0.0))
    with pytest.raises(ValueError, match=r"`max_memory_bytes` must hold the whole matrix of 130 rows"):
        exact_spectrum(DenseOperator(planted_matrix(VALUES, seed=4)[0]), max_memory_bytes=10_000)
