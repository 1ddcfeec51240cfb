r"""A weighted sum of symmetric operators, whose products are also seen summand by summand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.linalg.linear_operator import LinearOperator


class SumOperator(LinearOperator):
    r""":math:`A = \sum_f w_f (A_f + c I)`, with weights that sum to one.

    Parameters
    ----------
    summands
        The operators, F >= 1, of one size, dtype and device.
    weights
        One each; they sum to 1.
    shift
        c, a multiple of the identity that is added to each (negative: taken off).

    >>> from thalweg.linalg.linear_operator import DenseOperator
    >>> A = SumOperator([DenseOperator(torch.eye(2)), DenseOperator(3 * torch.eye(2))], [0.5, 0.5], shift=-1)
    >>> A @ torch.ones(2)
    tensor([1., 1.])
    """

    def __init__(
        self, summands: Sequence[LinearOperator], weights: Sequence[float], shift: float = 0.0
    ) -> None:
        first = summands[0]
        super().__init__(first.dim, first.dtype, first.device)
        assert len(weights) == len(summands)
        assert all((s.dim, s.dtype) == (first.dim, first.dtype) for s in summands)
        assert abs(sum(weights) - 1) < 1e-9
        self.summands, self.shift = tuple(summands), shift
        self.weights = torch.tensor(list(weights), dtype=torch.float64)

    @property
    def least_eigenvalue(self) -> float:
        least = [
            weight * s.least_eigenvalue
            for s, weight in zip(self.summands, self.weights.tolist(), strict=True)
        ]
        return sum(least) + self.shift

    def matmat(self, V: Tensor) -> Tensor:
        return self.with_forms(V)[0]

    def with_forms(self, V: Tensor) -> tuple[Tensor, Tensor]:
        r"""The product ``(P, K)`` and each summand's forms :math:`v_k^\top (A_f + c I) v_k`, ``(F, K)``."""
        total = self.shift * V
        forms = []
        for summand, weight in zip(self.summands, self.weights.tolist(), strict=True):
            product = summand @ V
            forms.append(column_products(V, product) + self.shift * column_products(V, V))
            total = total.add(product, alpha=weight)
        return total, torch.stack(forms)


def column_products(X: Tensor, Y: Tensor) -> Tensor:
    """Inner products of the columns of two blocks ``(P, K)``: ``(K,)`` float64 on the CPU."""
    return (X * Y).sum(0, dtype=torch.float64).cpu()
