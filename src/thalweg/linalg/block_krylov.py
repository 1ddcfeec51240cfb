r"""The block Krylov process: an orthonormal basis grown by products, and all that the products say about A.

After each step, for the n basis vectors Q that have been multiplied and the next block :math:`Q_+` that has
not,

.. math:: A Q = [Q, Q_+] H + E, \qquad H = [Q, Q_+]^\top A Q \quad (n + b, n),

where H holds every inner product as it was computed, not the three terms that exact arithmetic would leave,
and E is rounding. What the products lack in symmetry therefore shows in H, and in the residuals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.precision import full_precision
from thalweg.core.rng import normal
from thalweg.linalg.krylov_basis import KrylovBasis
from thalweg.linalg.linear_operator import LinearOperator


class BlockKrylov:
    """Basis, projected matrix and bookkeeping of one process.

    Parameters
    ----------
    operator
        What is multiplied.
    start
        Rows ``(W, P)`` of finite warm vectors, W >= 0; dependent ones are dropped.
    num_random
        Random vectors with columns of their own, behind the warm ones. None, and each warm vector shares its
        column with a random one: column j is w_j + r_j, both of about the same length.
    capacity
        Most basis vectors held at once, the next block included.
    rng
        Where the random vectors come from.
    negligible
        A column of the next block no longer than this part of ||A|| is dropped, and counted in `slack`; at
        least 16 eps, below which it would be rounding.

    Attributes
    ----------
    num_warm
        Columns of the first block that span the warm vectors alone.
    directions : Tensor
        ``(size of the first block, R)``: the random vectors, projections off nothing, in the first block's
        basis; where they share columns, the sums w_j + r_j.
    random_shares : Tensor
        ``(R,)``: length of r_j over that of its column, 1 where it has one of its own.
    norm
        Largest absolute Ritz value so far: a lower bound on ||A||.
    num_matvecs, num_steps, num_restarts
        Columns multiplied, block products made, restarts.
    whole_blocks
        Whether every product so far took all of its block: what the certificate's recurrences follow.
    """

    def __init__(
        self,
        operator: LinearOperator,
        start: Tensor,
        num_random: int,
        capacity: int,
        rng: torch.Generator,
        negligible: float = 0.0,
    ) -> None:
        self.operator, self.rng = operator, rng
        self.eps = torch.finfo(operator.dtype).eps
        self._negligible = max(negligible, 16 * self.eps)
        self.basis = KrylovBasis(operator.dim, capacity, operator.dtype, operator.device)
        self.num_multiplied = 0
        self.num_matvecs = self.num_steps = self.num_restarts = 0
        self.norm = 0.0
        self.whole_blocks = True
        self._H = torch.zeros(0, 0, dtype=torch.float64)
        # Norm of what the relation above has lost: dropped columns, and skew parts cut off by restarts. They
        # lie in different directions, so they add in quadrature.
        self._lost = 0.0
        # Warm vectors that agree to sqrt(eps) are one vector and noise; noise would cost a column in every
        # step.
        drop = math.sqrt(self.eps)
        with full_precision():
            lengths = torch.linalg.vector_norm(start, dim=1, keepdim=True)
            warm, *_ = self.basis.orthogonalise((start / lengths)[lengths[:, 0] > 0], drop)
            random = self._random_rows(num_random or max(1, len(warm)))
            columns = random
            if num_random:
                self.basis.append(warm)
            elif len(warm):
                columns = random + warm
            self.num_warm = self.basis.size
            # Before the columns are orthogonalised, which overwrites them.
            self.random_shares = _lengths(random) / _lengths(columns)
            block, h, S, _ = self.basis.orthogonalise(columns, drop)
            self.basis.append(block)
        self.directions = torch.cat([h, S])

    @property
    def num_pending(self) -> int:
        """Vectors of the next block, which have not been multiplied."""
        return self.basis.size - self.num_multiplied

    @property
    def H(self) -> Tensor:
        """The projected matrix ``(n + b, n)``."""
        return self._H

    @property
    def exhausted(self) -> bool:
        """The basis spans an invariant subspace to rounding: nothing is left to multiply."""
        return self.num_pending == 0

    @property
    def complete(self) -> bool:
        """The basis spans the whole space."""
        return self.num_multiplied == self.operator.dim

    @property
    def slack(self) -> float:
        """Bound on what `H` does not show of a Ritz pair's residual: rounding, and what was cut off."""
        return self._lost + 4 * self.eps * self.norm * math.sqrt(1 + self.num_restarts)

    @property
    def noise(self) -> float:
        """Size of a product's error in one direction: three times the rms skewness seen, and rounding."""
        n = self.num_multiplied
        skew = self._H[:n] - self._H[:n].T
        rms = float(skew.square().sum()) ** 0.5 / max(1, n * (n - 1)) ** 0.5
        return 3 * rms + self.eps * self.norm + self._lost

    def turn_pending(self, vectors: Tensor) -> None:
        """Turn the next block within its span, so that its first columns hold most of some residuals.

        Parameters
        ----------
        vectors
            ``(n, r)``: the Ritz vectors, in the basis, whose residuals these are.
        """
        n = self.num_multiplied
        W, _, _ = torch.linalg.svd(self._H[n:] @ vectors, full_matrices=True)
        with full_precision():
            self.basis.turn_last(W.T)
        self._H[n:] = W.T @ self._H[n:]

    def step(self, count: int | None = None) -> None:
        """Multiply the next block and orthogonalise the product: the one place that calls the operator.

        Parameters
        ----------
        count
            Multiply its first so many columns, and leave the others for later. Default: all.

        Raises
        ------
        NonFiniteLossError
            If the product holds a NaN or an infinity.
        """
        n, b = self.num_multiplied, self.num_pending if count is None else count
        self.whole_blocks &= b == self.num_pending
        product = self.operator @ self.basis.rows(n, n + b).T
        self.num_matvecs += b
        self.num_steps += 1
        if not bool(torch.isfinite(product).all()):
            raise NonFiniteLossError(
                f"product {self.num_steps} of {self.operator} is not finite; "
                "evaluate the loss and its gradient at this point to find the cause."
            )
        # A copy in any case: rows are overwritten below, and an operator may hand out what it keeps.
        rows = product.T.clone(memory_format=torch.contiguous_format)
        del product
        with full_precision():
            # No column of A Q is longer than ||A||, so the longest gives a scale before there are Ritz
            # values.
            scale = max(self.norm, float(torch.linalg.vector_norm(rows, dim=1).max()))
            block, h, S, lost = self.basis.orthogonalise(rows, self._negligible * scale)
        self._lost = math.hypot(self._lost, lost)
        size, new = self.basis.size, len(block)
        H = torch.zeros(size + new, n + b, dtype=torch.float64)
        H[: len(self._H), :n] = self._H
        H[:size, n:] = h
        H[size:, n:] = S
        self.basis.append(block)
        self._H = H
        self.num_multiplied = n + b

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, descending ``(n,)``; their vectors in the basis ``(n, n)``; residuals ``(n,)``.

        Each residual is that of the whole column of H, its skew part included, plus `slack`: no
        underestimate.
        """
        n = self.num_multiplied
        values, vectors = torch.linalg.eigh((self._H[:n] + self._H[:n].T) / 2)
        values, vectors = values.flip(0), vectors.flip(1)
        self.norm = max(self.norm, float(values.abs().max()))
        remainder = self._H @ vectors
        remainder[:n] -= vectors * values
        return values, vectors, torch.linalg.vector_norm(remainder, dim=0) + self.slack

    def add_random(self, count: int) -> None:
        """Go on from an invariant subspace with up to `count` random vectors orthogonal to it."""
        assert self.exhausted
        n = self.num_multiplied
        count = min(count, self.operator.dim - n)
        with full_precision():
            block, *_ = self.basis.orthogonalise(self._random_rows(count), math.sqrt(self.eps))
        self.basis.append(block)
        self._H = torch.cat([self._H, torch.zeros(len(block), n, dtype=torch.float64)])

    def restart(self, vectors: Tensor) -> None:
        """Keep the span of columns ``(n, l)`` and the next block: thick restart, Wu and Simon (2000)."""
        n = self.num_multiplied
        image = self._H[:n] @ vectors
        kept = vectors.T @ image
        self._lost = math.hypot(self._lost, float(torch.linalg.matrix_norm(image - vectors @ kept, 2)))
        with full_precision():
            self.basis.rotate(vectors, self.num_pending)
        self._H = torch.cat([kept, self._H[n:] @ vectors])
        self.num_multiplied = vectors.shape[1]
        self.num_restarts += 1

    def _random_rows(self, count: int) -> Tensor:
        like = torch.empty(0, dtype=self.operator.dtype, device=self.operator.device)
        return normal(self.rng, count, self.operator.dim, like=like) / math.sqrt(self.operator.dim)


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).double()
