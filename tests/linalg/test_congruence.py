"""S'AS against dense matrices, map by map and in a row."""

from __future__ import annotations

import pytest
import torch
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.linalg.congruence import Columns, Congruence, Diagonal, LinearMap, Projection, RowFactor
from thalweg.linalg.linear_operator import DenseOperator

DIM = 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions() -> list[tuple[int, Tensor]]:
    """Two directions of three entries from 1, one of two from 8, and a row that is none."""
    three, two = normal(2, 3, seed=1), normal(2, 2, seed=2)
    two[1] = 0
    return [
        (1, three / three.norm(dim=1, keepdim=True)),
        (8, two / two.norm(dim=1, keepdim=True).clamp(1e-9)),
    ]


def dense_projection() -> Tensor:
    P = torch.eye(DIM, dtype=torch.float64)
    for start, rows in directions():
        for i, row in enumerate(rows):
            q = torch.zeros(DIM, dtype=torch.float64)
            q[start + i * len(row) : start + (i + 1) * len(row)] = row
            P -= torch.outer(q, q)
    return P


INDEX = torch.tensor([7, 2, 3, 11])
MAPS: dict[str, tuple[LinearMap, Tensor]] = {
    "diagonal": (Diagonal(normal(DIM, seed=3)), torch.diag(normal(DIM, seed=3))),
    "columns": (Columns(INDEX, DIM), torch.eye(DIM, dtype=torch.float64)[:, INDEX]),
    "projection": (Projection(DIM, directions()), dense_projection()),
    "row factor": (
        RowFactor(normal(3, 2, seed=4), 4),
        torch.kron(normal(3, 2, seed=4), torch.eye(4, dtype=torch.float64)),
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_each_map_is_its_matrix(name: str) -> None:
    S, dense = MAPS[name]
    assert (S.num_rows, S.num_columns) == dense.shape
    U, V = normal(S.num_columns, 3, seed=5), normal(S.num_rows, 3, seed=6)
    before = U.clone(), V.clone()
    torch.testing.assert_close(S.into(U), dense @ U)
    torch.testing.assert_close(S.back(V), dense.T @ V)
    assert torch.equal(U, before[0])
    assert torch.equal(V, before[1])
    A, _ = planted_matrix(torch.arange(1.0, DIM + 1))
    found = Congruence(DenseOperator(A), S) @ torch.eye(S.num_columns, dtype=torch.float64)
    torch.testing.assert_close(found, dense.T @ A @ dense)


def test_maps_in_a_row() -> None:
    A, _ = planted_matrix(torch.arange(1.0, DIM + 1))
    (D, d), (P, p), (C, e) = MAPS["diagonal"], MAPS["projection"], MAPS["columns"]
    operator, S = Congruence(DenseOperator(A), D, P, C), d @ p @ e
    U = normal(4, 2, seed=7).T.contiguous().T
    torch.testing.assert_close(operator @ U, S.T @ A @ S @ U)
    torch.testing.assert_close(operator.into(U), S @ U)
    c = normal(4, seed=8)
    torch.testing.assert_close(
        Congruence(DenseOperator(A), D, P, C, diagonal=c) @ U, S.T @ A @ S @ U + c[:, None] * U
    )
    torch.testing.assert_close(Congruence(DenseOperator(A)) @ normal(DIM), A @ normal(DIM))


def test_maps_that_do_not_fit_are_refused() -> None:
    A, _ = planted_matrix(torch.arange(1.0, DIM + 1))
    C = MAPS["columns"][0]
    with pytest.raises(ValueError, match=r"`maps` must fit: got one of 12 rows after 4 columns"):
        Congruence(DenseOperator(A), C, MAPS["diagonal"][0])
