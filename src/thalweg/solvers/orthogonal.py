"""Directions made orthogonal without undoing their normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy
import torch
from torch import Tensor

# Cosine up to which the rotated direction counts as orthogonal; what is left is taken off by projection.
ROTATED = 1e-6

# Singular values below this part of the largest are rounding.
SPANNED = 1e-12


Rows = Callable[[Tensor], list[Tensor]]


def mutually_orthogonal(
    columns: Sequence[Tensor],
    rows: Sequence[Rows],
    free: Sequence[Tensor],
    kept: Sequence[bool],
    names: Sequence[str],
    precision: torch.dtype,
) -> list[Tensor]:
    """Each column turned away from those before it, and from all that are kept as they are.

    Parameters
    ----------
    columns
        D directions ``(P,)`` in float64.
    rows
        How each is cut into rows that keep their norms; see `orthogonalized`.
    free
        ``(P,)`` each, True where it may move: elsewhere it stays nought, whatever it is turned away from.
    kept
        Whether it stays as it is.
    names
        For errors.
    precision
        In which the columns were known before.

    Raises
    ------
    ValueError
        If one lies in the span of the others.
    """
    turned = list(columns)
    basis = columns[0].new_empty(len(columns[0]), 0)
    order = sorted(range(len(columns)), key=lambda j: not kept[j])
    for place, j in enumerate(order):
        # Orthogonal to what the others are where this one moves is orthogonal to all of them.
        seen = basis if kept[j] else _orthonormal(basis, free[j])
        if not is_independent(columns[j], seen, precision):
            others = ", ".join(names[i] for i in order[:place])
            raise ValueError(
                f"`directions[{j}]` ({names[j]}) must not lie in the span of the other directions "
                f"({others}), for the surface along them would have fewer dimensions than axes; leave it out."
            )
        if not kept[j]:
            turned[j] = orthogonalized(columns[j], seen, rows[j])
        rest = remainder(turned[j], basis)
        basis = torch.cat([basis, (rest / rest.norm())[:, None]], dim=1)
    return turned


def remainder(direction: Tensor, basis: Tensor) -> Tensor:
    """What of `direction` (P,) lies outside the span of orthonormal columns `basis` (P, m), float64.

    Projected twice: once leaves an error of the rounding of what was taken off, which may be most of it.
    """
    for _ in range(2):
        direction = direction - basis @ (basis.T @ direction)
    return direction


def is_independent(direction: Tensor, basis: Tensor, precision: torch.dtype) -> bool:
    """Whether `direction` (P,) leaves the span of orthonormal columns `basis` (P, m) by more than rounding.

    The part outside must exceed the square root of the precision it came in: of less, few digits are right.
    """
    least = math.sqrt(torch.finfo(precision).eps)
    return float(remainder(direction, basis).norm()) > least * float(direction.norm())


def _orthonormal(columns: Tensor, free: Tensor) -> Tensor:
    """Orthonormal columns that span what `columns` are where `free`; fewer where some depend on others."""
    if not columns.numel():
        return columns
    masked = columns * free[:, None]
    # Once more, for a factorisation does not keep noughts to the bit.
    return torch.from_numpy(scipy.linalg.orth(masked.numpy(), rcond=SPANNED)) * free[:, None]


def orthogonalized(direction: Tensor, basis: Tensor, rows_of: Rows) -> Tensor:
    r"""Turn `direction` away from the orthonormal columns of `basis`, within each of its rows.

    Plain Gram-Schmidt on a filter-normalised direction leaves filters of other norms; normalised again, it
    is orthogonal no longer. Instead each row x_r, a filter say, is turned and keeps its norm:

    .. math:: x_r = \lVert d_r\rVert \frac{d_r - Q_r t}{\lVert d_r - Q_r t\rVert},
              \qquad t = \arg\min_t \sum_r \lVert d_r\rVert\,\lVert d_r - Q_r t\rVert

    The sum is convex, and its gradient in t is :math:`-Q^\top x`: at the minimum x is orthogonal to Q. With a
    single row that is Gram-Schmidt, the length kept. A row of a single entry can only change its sign; where
    such rows leave no minimum at which the gradient vanishes, the result is that of Gram-Schmidt over the
    whole vector: orthogonal and of the same length, each row's norm kept only nearly.

    Parameters
    ----------
    direction
        ``(P,)`` float64, independent of `basis`.
    basis
        ``(P, m)`` float64, orthonormal columns.
    rows_of
        Cuts a vector ``(P,)`` into views ``(rows, entries)``.

    Returns
    -------
    Tensor
        ``(P,)`` float64, orthogonal to `basis` to rounding, as long as `direction`.
    """
    m, length = basis.shape[1], direction.norm()
    if not m:
        return direction
    parts = rows_of(direction)
    targets = [part.norm(dim=1) for part in parts]
    columns = [rows_of(q.contiguous()) for q in basis.T]
    bases = [torch.stack(group, dim=2) for group in zip(*columns, strict=True)]  # (rows, entries, m) each

    def turned(t: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        rests = [d - q @ t for d, q in zip(parts, bases, strict=True)]
        norms = [rest.norm(dim=1) for rest in rests]
        units = [torch.nan_to_num(r / n[:, None]) for r, n in zip(rests, norms, strict=True)]
        return units, norms

    def overlap(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Q^T x over the length of x, and its derivative in t."""
        units, norms = turned(torch.from_numpy(t))
        value, slope = torch.zeros(m, dtype=torch.float64), torch.zeros(m, m, dtype=torch.float64)
        for q, unit, norm, target in zip(bases, units, norms, targets, strict=True):
            along = torch.einsum("rem,re->rm", q, unit)
            weights = torch.where(norm > 0, target / norm, 0)
            value += target @ along
            slope -= torch.einsum("rem,ren,r->mn", q, q, weights) - (along * weights[:, None]).T @ along
        return (value / length).numpy(), (slope / length).numpy()

    start = (basis.T @ direction).numpy()
    found = scipy.optimize.root(overlap, start, jac=True, method="hybr", tol=1e-15)
    result = torch.empty_like(direction)
    units, _ = turned(torch.from_numpy(found.x))
    for row, unit, target in zip(rows_of(result), units, targets, strict=True):
        row.copy_(unit * target[:, None])
    if not float((basis.T @ result).abs().max()) <= ROTATED * float(length):
        result = direction
    result = remainder(result, basis)
    return result * (length / result.norm())
