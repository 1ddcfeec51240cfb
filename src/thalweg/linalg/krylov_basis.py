"""Orthonormal vectors of length P in bounded memory: projection, orthonormalisation, rotation in place.

Vectors are rows here, because a basis grows by vectors. They are kept in the operator's dtype; every
coefficient is float64 on the CPU. Sums over P run in pieces: each piece in the working dtype, the pieces
added in float64, so that a float32 inner product over 1e8 entries is as good as one over 16,384.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Rows in one allocation: small enough not to grab the whole bound at once, large enough for matrix products.
SLAB_ROWS = 32


def _pieces(dim: int, device: torch.device) -> Iterator[slice]:
    # On a CPU a piece stays in cache; elsewhere the launch costs more than the cache saves.
    step = 1 << 14 if device.type == "cpu" else 1 << 20
    for start in range(0, dim, step):
        yield slice(start, min(start + step, dim))


def inner_products(X: Tensor, Y: Tensor) -> Tensor:
    """X Y^T of rows ``(a, P)`` and ``(b, P)``: ``(a, b)`` in float64 on the CPU."""
    total = torch.zeros(X.shape[0], Y.shape[0], dtype=torch.float64)
    for piece in _pieces(X.shape[1], X.device):
        total += (X[:, piece] @ Y[:, piece].T).cpu().double()
    return total


def orthonormalise(X: Tensor, drop: float) -> tuple[Tensor, Tensor, float]:
    """Factor rows ``(b, P)`` as X = S^T Y + dropped, Y orthonormal, by Gram-Schmidt in the given order.

    Parameters
    ----------
    X
        Rows; overwritten.
    drop
        A row whose part beyond the earlier ones is no longer than this is dropped.

    Returns
    -------
    (Tensor, Tensor, float)
        Y ``(r, P)``, a view of `X` where nothing was dropped; S ``(r, b)`` float64; the norm of all that was
        dropped.
    """
    num_rows = X.shape[0]
    S = torch.zeros(num_rows, num_rows, dtype=torch.float64)
    rank, lost = 0, 0.0
    for i in range(num_rows):
        row = X[i : i + 1]
        for _ in range(2):  # twice is enough (Giraud et al. 2005)
            if rank:
                h = inner_products(X[:rank], row)
                row.addmm_(h.T.to(row), X[:rank], alpha=-1)
                S[:rank, i] += h[:, 0]
        length = float(inner_products(row, row)) ** 0.5
        if length <= drop:
            lost += length**2
            continue
        S[rank, i] = length
        torch.div(row, length, out=X[rank : rank + 1])
        rank += 1
    return X[:rank], S[:rank], lost**0.5


class KrylovBasis:
    """A growing set of orthonormal vectors, at most `capacity` of them, allocated as they come.

    Parameters
    ----------
    dim
        P.
    capacity
        Most vectors ever held at once.
    dtype, device
        Of the vectors.
    """

    def __init__(self, dim: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.dim, self.capacity, self.dtype, self.device = dim, capacity, dtype, device
        self.size = 0
        self._slab_rows = min(SLAB_ROWS, capacity)
        self._slabs: list[Tensor] = []

    def append(self, rows: Tensor) -> None:
        """Add orthonormal rows ``(b, P)`` that are already orthogonal to the rest."""
        assert self.size + len(rows) <= self.capacity, "the caller restarts before the basis is full"
        for row in rows:
            slab, offset = divmod(self.size, self._slab_rows)
            if slab == len(self._slabs):
                num_rows = min(self._slab_rows, self.capacity - self.size)
                self._slabs.append(torch.empty(num_rows, self.dim, dtype=self.dtype, device=self.device))
            self._slabs[slab][offset] = row
            self.size += 1

    def rows(self, start: int, stop: int) -> Tensor:
        """Vectors `start` to `stop` as rows: a view if they lie in one slab, else a copy."""
        parts = [
            slab[max(start - lo, 0) : stop - lo] for lo, slab in self._located() if start < lo + len(slab)
        ]
        parts = [part for part in parts if len(part)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def project(self, X: Tensor) -> Tensor:
        """Coefficients of rows ``(b, P)`` on the basis: ``(size, b)``."""
        parts = [inner_products(slab, X) for _, slab in self._located()]
        return torch.cat(parts) if parts else torch.zeros(0, len(X), dtype=torch.float64)

    def subtract(self, X: Tensor, coefficients: Tensor) -> None:
        """Take the combination with `coefficients` ``(size, b)`` off rows ``(b, P)``, in place."""
        for lo, slab in self._located():
            X.addmm_(coefficients[lo : lo + len(slab)].T.to(X), slab, alpha=-1)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Combinations of the vectors, one for each column of ``(n, k)``, n <= size: rows ``(k, P)``."""
        n, k = coefficients.shape
        total = torch.zeros(k, self.dim, dtype=self.dtype, device=self.device)
        for lo, slab in self._located():
            part = coefficients[lo : min(lo + len(slab), n)]
            if len(part):
                total.addmm_(part.T.to(total), slab[: len(part)])
        return total

    def orthogonalise(self, X: Tensor, drop: float) -> tuple[Tensor, Tensor, Tensor, float]:
        """Split rows ``(b, P)`` as X = h^T Q + S^T Y + dropped, Y orthonormal and orthogonal to the basis Q.

        Block classical Gram-Schmidt, each pass followed by an orthonormalisation within the block, repeated
        until a pass changes next to nothing (Barlow and Smoktunowicz 2013).

        Returns
        -------
        (Tensor, Tensor, Tensor, float)
            Y ``(r, P)`` with r <= b, h ``(size, b)``, S ``(r, b)``, the norm of what was dropped.
        """
        h = self.project(X)
        self.subtract(X, h)
        Y, S, lost = orthonormalise(X, drop)
        for _ in range(4):
            more = self.project(Y)
            self.subtract(Y, more)
            h += more @ S
            # A unit row that keeps less than a hundredth was rounding noise along the basis: it belonged to
            # h.
            Y, change, _ = orthonormalise(Y, 0.01)
            S = change @ S
            if change.shape[0] == change.shape[1] and bool((change.diagonal() > 0.7).all()):
                break
        return Y, h, S, lost

    def rotate(self, coefficients: Tensor, pending: int) -> None:
        """Replace all but the last `pending` vectors by their combinations ``(n, l)``, l <= n, in place."""
        n, num_kept = coefficients.shape
        assert n + pending == self.size
        weights = coefficients.T.to(self.dtype).to(self.device)
        for piece in _pieces(self.dim, self.device):
            stack = torch.cat([slab[:, piece] for _, slab in self._located()])
            kept = torch.cat([weights @ stack[:n], stack[n:]])
            for lo, slab in self._located():
                part = kept[lo : lo + len(slab)]
                slab[: len(part), piece] = part
        self.size = num_kept + pending

    def turn_last(self, rotation: Tensor) -> None:
        """Replace the last b vectors by their combinations with the rows of an orthogonal ``(b, b)``."""
        start = self.size - len(rotation)
        rows = self.rows(start, self.size)
        turned = rotation.to(rows) @ rows
        self.size = start
        self.append(turned)

    def _located(self) -> Iterator[tuple[int, Tensor]]:
        """Each slab's filled rows with the index of the first."""
        for i, slab in enumerate(self._slabs):
            lo = i * self._slab_rows
            if lo < self.size:
                yield lo, slab[: self.size - lo]
