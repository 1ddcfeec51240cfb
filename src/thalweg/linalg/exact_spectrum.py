"""All eigenvalues of an operator, by its products with the identity: where probes would cost as much."""

from __future__ import annotations

import torch

from thalweg.core.errors import NonFiniteLossError
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.probing import blocks
from thalweg.linalg.quadrature import SpectralQuadrature

# Columns multiplied together, so that an operator over data does not hold P tangents at once.
COLUMNS = 64

# Matrices (P, P) of float64 held at the peak: the products, what is symmetric of them, and the solver's own.
MATRICES = 3


def exact_spectrum(operator: LinearOperator, *, max_memory_bytes: int = 2 << 30) -> SpectralQuadrature:
    """Quadrature without an error: every eigenvalue a node, with the weight 1 / P.

    `SpectralQuadrature.resolution` is what each may be off by, from the skewness of the products, which their
    rounding makes, and the solver's.

    Raises
    ------
    NonFiniteLossError
        A product is not finite.
    ValueError
        The memory does not hold the matrix.

    >>> from thalweg.linalg.linear_operator import DenseOperator
    >>> A = DenseOperator(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64))
    >>> [round(float(node), 9) for node in exact_spectrum(A).nodes]
    [3.0, 1.0]
    """
    P = operator.dim
    needed = MATRICES * P * P * 8
    if needed > max_memory_bytes:
        raise ValueError(
            f"`max_memory_bytes` must hold the whole matrix of {P:,} rows, got {max_memory_bytes:,}: all its "
            f"eigenvalues take {needed:,} bytes. Take fewer products than rows, or raise it."
        )
    A = torch.empty(P, P, dtype=torch.float64)
    done = 0
    for count in blocks(P, COLUMNS):
        V = torch.zeros(P, count, dtype=operator.dtype, device=operator.device)
        V[torch.arange(done, done + count), torch.arange(count)] = 1
        A[:, done : done + count] = (operator @ V).cpu()
        done += count
    if not bool(A.isfinite().all()):
        raise NonFiniteLossError("a product of the operator is not finite, so it has no eigenvalues.")
    values = torch.linalg.eigvalsh((A + A.T) / 2).flip(0)
    skew = float(torch.linalg.matrix_norm(A - A.T)) / 2
    weights, exact = torch.full((1, P), 1 / P, dtype=torch.float64), torch.zeros_like(values)
    return SpectralQuadrature(
        dim=P,
        nodes=values,
        residuals=exact,
        weights=weights,
        raw_weights=weights,
        coarse_nodes=values,
        coarse_weights=weights,
        resolution=skew + torch.finfo(operator.dtype).eps * float(values.abs().max()),
        num_counted=P,
        num_matvecs=P,
    )
