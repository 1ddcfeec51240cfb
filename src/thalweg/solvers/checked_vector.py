"""Vectors that a caller gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def checked_vector(vector: Any, argument: str, shape: Sequence[int]) -> Tensor:
    """`vector` in float64 on the CPU, where long sums belong.

    Raises
    ------
    TypeError, ValueError
        If it is no tensor, of another shape, or not finite.
    """
    if not isinstance(vector, Tensor):
        raise TypeError(f"`{argument}` must be a tensor, got {type(vector).__name__}.")
    if tuple(vector.shape) != tuple(shape):
        raise ValueError(
            f"`{argument}` must have shape {tuple(shape)}, one entry a trainable parameter, got "
            f"{tuple(vector.shape)}."
        )
    if not bool(vector.isfinite().all()):
        raise ValueError(f"`{argument}` must be finite, got NaN or infinity in it.")
    return vector.detach().cpu().double()
