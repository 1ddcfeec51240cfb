r"""A symmetric operator in other coordinates: :math:`S^\top A S`.

With x = S u a function of x with Hessian A has the Hessian S'AS in u. S need not be square, nor have full
rank: directions that it leaves out are curvature of nought.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.linalg.linear_operator import LinearOperator


class LinearMap(ABC):
    """S, P x Q, by its products and those of its transpose.

    Parameters
    ----------
    num_rows, num_columns
        P and Q.
    """

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self.num_rows, self.num_columns = num_rows, num_columns

    @abstractmethod
    def into(self, U: Tensor) -> Tensor:
        """S U, ``(Q, K) -> (P, K)``."""

    @abstractmethod
    def back(self, V: Tensor) -> Tensor:
        """S' V, ``(P, K) -> (Q, K)``."""


class Diagonal(LinearMap):
    """Multiplies entry by entry.

    Parameters
    ----------
    scale
        ``(P,)``; noughts take their coordinates out.
    """

    def __init__(self, scale: Tensor) -> None:
        super().__init__(len(scale), len(scale))
        self.scale = scale

    def into(self, U: Tensor) -> Tensor:
        return self.scale[:, None] * U

    def back(self, V: Tensor) -> Tensor:
        return self.into(V)


class Columns(LinearMap):
    """Columns of the identity: the other entries are held at nought.

    Parameters
    ----------
    index
        ``(Q,)`` int64, all different, below `num_rows`.
    num_rows
        P.
    """

    def __init__(self, index: Tensor, num_rows: int) -> None:
        super().__init__(num_rows, len(index))
        self.index = index

    def into(self, U: Tensor) -> Tensor:
        padded = U.new_zeros(self.num_rows, U.shape[1])
        padded[self.index] = U
        return padded

    def back(self, V: Tensor) -> Tensor:
        return V[self.index]


class Projection(LinearMap):
    r""":math:`I - Q Q^\top`: what is orthogonal to some directions, each within entries of its own.

    Parameters
    ----------
    dim
        P.
    blocks
        Pairs of a first entry and unit directions ``(F, E)``: the first has entries `start` to `start` + E,
        the second the next E. A row of noughts is no direction.
    """

    def __init__(self, dim: int, blocks: Sequence[tuple[int, Tensor]]) -> None:
        super().__init__(dim, dim)
        self.blocks = tuple(blocks)

    def into(self, U: Tensor) -> Tensor:
        result = U.clone()
        for start, rows in self.blocks:
            part = result[start : start + rows.numel()].view(*rows.shape, -1)
            part -= rows[..., None] * torch.einsum("fe,fek->fk", rows, part)[:, None]
        return result

    def back(self, V: Tensor) -> Tensor:
        return self.into(V)


class RowFactor(LinearMap):
    r""":math:`L \otimes I`: mixes the rows of a matrix that is laid out row by row.

    Parameters
    ----------
    factor
        L, ``(d, r)``.
    width
        Entries of a row.
    """

    def __init__(self, factor: Tensor, width: int) -> None:
        super().__init__(factor.shape[0] * width, factor.shape[1] * width)
        self.factor = factor

    def into(self, U: Tensor) -> Tensor:
        return (self.factor @ U.reshape(self.factor.shape[1], -1)).view(self.num_rows, -1)

    def back(self, V: Tensor) -> Tensor:
        return (self.factor.T @ V.reshape(self.factor.shape[0], -1)).view(self.num_columns, -1)


class Congruence(LinearOperator):
    r""":math:`S^\top A S + \mathrm{diag}(c)` for a product :math:`S = S_1 S_2 \cdots`.

    Parameters
    ----------
    operator
        A, P x P.
    *maps
        S_1, P x Q, and so on: each has as many rows as the one before it has columns.
    diagonal
        c, as long as the last map has columns. Default: nought.

    >>> from thalweg.linalg.linear_operator import DenseOperator
    >>> A = DenseOperator(torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
    >>> Congruence(A, Diagonal(torch.tensor([1.0, 10.0]))) @ torch.tensor([1.0, 0.0])
    tensor([ 2., 10.])
    """

    def __init__(self, operator: LinearOperator, *maps: LinearMap, diagonal: Tensor | None = None) -> None:
        dim = operator.dim
        for S in maps:
            if S.num_rows != dim:
                raise ValueError(
                    f"`maps` must fit: got one of {S.num_rows} rows after {dim} columns; the first takes the "
                    "operator's own."
                )
            dim = S.num_columns
        super().__init__(dim, operator.dtype, operator.device)
        assert diagonal is None or len(diagonal) == dim
        self.operator, self.maps, self.diagonal = operator, maps, diagonal

    def into(self, U: Tensor) -> Tensor:
        """S U, ``(Q, K) -> (P, K)``: what vectors in the new coordinates are in the old."""
        for S in reversed(self.maps):
            U = S.into(U)
        return U

    def matmat(self, V: Tensor) -> Tensor:
        product = self.operator @ self.into(V)
        for S in self.maps:
            product = S.back(product)
        return product if self.diagonal is None else product + self.diagonal[:, None] * V
