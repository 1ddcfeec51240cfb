"""Products with vectors and blocks, and what is refused."""

from __future__ import annotations

import pytest
import torch
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.linalg.linear_operator import DenseOperator, LinearOperator


def test_vector_and_block_give_the_same_columns() -> None:
    A, _ = planted_matrix([3.0, 1.0, -2.0, 0.5])
    V = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    operator = DenseOperator(A)
    torch.testing.assert_close(operator @ V, A @ V)
    torch.testing.assert_close(operator @ V[:, 1], A @ V[:, 1])
    assert (operator @ V[:, :0]).shape == (4, 0)
    assert repr(operator) == "DenseOperator(P = 4, float64, cpu)"


@pytest.mark.parametrize(
    ("V", "error", "match"),
    [
        (torch.zeros(3), ValueError, r"`V` must have shape \(4,\) or \(4, K\), got \(3,\)"),
        (torch.zeros(2, 4), ValueError, r"got \(2, 4\); vectors are the columns"),
        (torch.zeros(4, 1, 1), ValueError, r"got \(4, 1, 1\)"),
        (
            torch.zeros(4, dtype=torch.float64),
            TypeError,
            r"`V` must be torch.float32 on cpu, got torch.float64",
        ),
        ([0.0] * 4, TypeError, "`V` must be a tensor, got list"),
    ],
)
def test_wrong_vectors_are_refused(V: Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        _ = DenseOperator(torch.eye(4)) @ V


def test_wrong_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`matrix` must be square, got shape \(2, 3\)"):
        DenseOperator(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"`matrix` must be symmetric, got entries that differ .* by 1"):
        DenseOperator(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(TypeError, match=r"`dtype` must be a floating dtype, got torch\.int64"):
        DenseOperator(torch.eye(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="`dim` must be at least 1, got 0"):
        DenseOperator(torch.zeros(0, 0))


def test_an_operator_that_returns_another_shape_is_our_own_bug() -> None:
    class Wrong(LinearOperator):
        def matmat(self, V: Tensor) -> Tensor:
            return V[:-1]

    with pytest.raises(AssertionError, match=r"\(2, 1\)"):
        _ = Wrong(3, torch.float32) @ torch.zeros(3)
