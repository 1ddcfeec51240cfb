r"""A split along a subspace: the part of A that is known exactly, and what is left for random probes.

With Q orthonormal ``(P, s)``, W = A Q, :math:`T = Q^\top W`, :math:`\Pi = Q Q^\top` and :math:`C = I - \Pi`,

.. math:: A = \Pi A + C A \Pi + C A C.

Of the first two, diagonal, trace tr(T) and squared Frobenius norm :math:`2 \|W\|^2 - \|T\|^2` are known; a
probe v sees the third as :math:`v \circ C A C v`, whose mean is its diagonal if v has independent signs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.linalg.sum_operator import column_products


class Deflation:
    """What Q and A Q know.

    Parameters
    ----------
    Q
        ``(P, s)`` orthonormal columns.
    W
        A Q.
    forms
        ``(F, s)``: forms of each summand at the columns of Q.
    """

    def __init__(self, Q: Tensor, W: Tensor, forms: Tensor) -> None:
        self.Q, self.W = Q, W
        self.T = symmetric(Q.T @ W)
        self.traces = forms.sum(1, keepdim=True)  # (F, 1)
        self.diagonal = 2 * (Q * W).sum(1) - ((Q @ self.T) * Q).sum(1)
        self.square = float(2 * column_products(W, W).sum() - self.T.double().square().sum())

    def project(self, V: Tensor) -> Tensor:
        """C V of a block ``(P, K)``."""
        return without(self.Q, V)


def without(Q: Tensor, V: Tensor) -> Tensor:
    """A block ``(P, K)`` less its part in the span of Q; twice, so that what is left of that is rounding."""
    for _ in range(2):
        V = V - Q @ (Q.T @ V)
    return V


def orthonormal_basis(Y: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal Q ``(P, s)`` and R ``(s, s)`` with Y = Q R."""
    factors = torch.linalg.qr(Y)
    return factors.Q, factors.R


def extended_basis(Q: Tensor, R: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of [Q R, Y] for a block ``(P, k)`` more; the first columns of Q stay."""
    fresh = Y
    for _ in range(3):  # of a block that lies in Q, the first pass leaves rounding
        fresh = torch.linalg.qr(fresh - Q @ (Q.T @ fresh)).Q
    corner = torch.zeros(Y.shape[1], len(R), dtype=R.dtype, device=R.device)
    above, below = torch.cat([R, Q.T @ Y], 1), torch.cat([corner, torch.triu(fresh.T @ Y)], 1)
    return torch.cat([Q, fresh], 1), torch.cat([above, below])


def symmetric(T: Tensor) -> Tensor:
    """The symmetric part; the rest is rounding."""
    return (T + T.T) / 2
