r"""What each summand of an operator says along a block Krylov process of their sum.

The process multiplies its basis Q by :math:`A = \sum_f w_f A_f`. From the same products follow all
:math:`T_f = Q^\top A_f Q`: inner products with the basis as it stands at each give the upper triangles, and
each :math:`A_f` is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thalweg.core.precision import full_precision
from thalweg.linalg.krylov_basis import KrylovBasis
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.quadrature import ProbeProcess
from thalweg.linalg.sum_operator import SumOperator


class FoldForms(SumOperator):
    """A sum for one process, which is never restarted, that keeps what each summand's products say.

    Attributes
    ----------
    basis
        That of the process; to be set before the first product, of which each must be of all vectors that
        have not been multiplied.
    """

    basis: KrylovBasis

    def __init__(self, summands: Sequence[LinearOperator], weights: Sequence[float]) -> None:
        super().__init__(summands, weights)
        self._columns: list[list[Tensor]] = [[] for _ in summands]

    def matmat(self, V: Tensor) -> Tensor:
        total = torch.zeros_like(V)
        for summand, weight, columns in zip(self.summands, self.weights.tolist(), self._columns, strict=True):
            product = summand @ V
            with full_precision():
                columns.append(self.basis.project(product.T))
            total = total.add_(product, alpha=weight)
        return total

    def forms(self, X: Tensor, Y: Tensor) -> Tensor:
        r""":math:`x_k^\top A_f y_k` ``(F, K)`` of combinations ``(n, K)`` of the vectors multiplied."""
        return torch.stack([(X * (_symmetric(columns) @ Y)).sum(0) for columns in self._columns])

    def traces(self, process: ProbeProcess) -> Tensor:
        """``(F, R)``: what each probe says of each summand's trace; alike in all where all is counted.

        Eigenvectors of the sum that are counted for it are counted for each summand, too: whatever
        orthonormal vectors are taken out, the probes beside them are uniform on what is left.
        """
        values, vectors, y = process.counted_and_beside()
        known = self.forms(vectors, vectors).sum(1, keepdim=True)
        return known + (self.dim - len(values)) * self.forms(y, y)


def _symmetric(columns: list[Tensor]) -> Tensor:
    """T_f ``(n, n)`` from its columns, each block as far down as the basis was long."""
    n = sum(block.shape[1] for block in columns)
    T = torch.cat([nn.functional.pad(block, (0, 0, 0, n - len(block))) for block in columns], 1)
    return T.triu() + T.triu(1).T
