"""Problems whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def planted_matrix(
    eigenvalues: Sequence[float] | Tensor, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Dense symmetric matrix with the given eigenvalues and random eigenvectors.

    Returns
    -------
    (Tensor, Tensor)
        The matrix ``(P, P)`` in `dtype`; its eigenvectors ``(P, P)`` in float64, one a column, in the order
        given.
    """
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    rng = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=rng, dtype=torch.float64))
    A = (Q * values) @ Q.T
    return ((A + A.T) / 2).to(dtype), Q
