"""A symmetric matrix known only by its products with vectors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class LinearOperator(ABC):
    """Base of all symmetric real operators; a sub-class implements `matmat` and nothing else.

    ``A @ V`` takes ``(P,)`` or ``(P, K)`` and checks both sides; a block costs an operator over data less
    than K single vectors. Products are not counted here: whoever asks for them counts them.

    Parameters
    ----------
    dim
        P, the number of rows and columns.
    dtype
        Floating dtype of what goes in and comes out.
    device
        Where both live.
    """

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        if dim < 1:
            raise ValueError(f"`dim` must be at least 1, got {dim}: there is nothing to multiply.")
        if not dtype.is_floating_point:
            raise TypeError(f"`dtype` must be a floating dtype, got {dtype}.")
        self.dim = dim
        self.dtype = dtype
        self.device = torch.device(device)

    @property
    def bytes_per_vector(self) -> int:
        """Of one vector of length P."""
        return self.dim * torch.finfo(self.dtype).bits // 8

    @property
    def least_eigenvalue(self) -> float:
        """What no eigenvalue lies below by the matrix's form, to rounding: -inf where nothing says so."""
        return -math.inf

    @abstractmethod
    def matmat(self, V: Tensor) -> Tensor:
        """Product with a block ``(P, K)``, K >= 1: a new tensor ``(P, K)``. `V` need not be contiguous."""

    def __matmul__(self, V: Tensor) -> Tensor:
        """Product with ``(P,)`` or ``(P, K)``, in the same shape."""
        if not isinstance(V, Tensor):
            raise TypeError(f"`V` must be a tensor, got {type(V).__name__}.")
        if V.ndim not in (1, 2) or V.shape[0] != self.dim:
            raise ValueError(
                f"`V` must have shape ({self.dim},) or ({self.dim}, K), got {tuple(V.shape)}; "
                "vectors are the columns of a block."
            )
        if V.dtype != self.dtype or V.device.type != self.device.type:
            raise TypeError(
                f"`V` must be {self.dtype} on {self.device}, got {V.dtype} on {V.device}; "
                "convert it with `V.to(operator.device, operator.dtype)`."
            )
        if V.ndim == 2 and V.shape[1] == 0:
            return torch.empty_like(V)
        product = self.matmat(V if V.ndim == 2 else V[:, None])
        assert product.shape == (self.dim, V.shape[1] if V.ndim == 2 else 1), tuple(product.shape)
        return product if V.ndim == 2 else product[:, 0]

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{type(self).__name__}(P = {self.dim:,}, {dtype}, {self.device})"


class DenseOperator(LinearOperator):
    """A symmetric matrix in memory, ``(P, P)``: the test double of every other operator.

    >>> DenseOperator(torch.tensor([[2.0, 1.0], [1.0, 3.0]])) @ torch.tensor([1.0, 0.0])
    tensor([2., 1.])
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"`matrix` must be square, got shape {tuple(matrix.shape)}.")
        super().__init__(matrix.shape[0], matrix.dtype, matrix.device)
        # Rounding of a product such as B.T @ B leaves a few units in the last place; more is another matrix.
        skew = float((matrix - matrix.T).abs().max())
        if skew > 64 * torch.finfo(matrix.dtype).eps * float(matrix.abs().max()):
            raise ValueError(
                f"`matrix` must be symmetric, got entries that differ from their mirror image by {skew:.3g}; "
                "pass (matrix + matrix.T) / 2 if that is what you mean."
            )
        self.matrix = matrix

    def matmat(self, V: Tensor) -> Tensor:
        return self.matrix @ V
