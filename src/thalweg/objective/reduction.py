"""Sums over micro-batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def summed(parts: Iterable[Any]) -> Any:
    """Sum of at least one part, each a tensor or the same tuple, list or dictionary of tensors.

    Raises
    ------
    TypeError, ValueError
        If a part holds anything else, or has another structure than the first.
    """
    total: list[Tensor] | None = None
    structure = None
    for part in parts:
        leaves, form = pytree.tree_flatten(part)
        _check(leaves, total is None or form == structure)
        if total is None:
            total, structure = [leaf.clone() for leaf in leaves], form
        else:
            for accumulated, leaf in zip(total, leaves, strict=True):
                accumulated += leaf
    assert total is not None, "examples are never empty"
    assert structure is not None
    return pytree.tree_unflatten(total, structure)


def _check(leaves: list[Any], same_structure: bool) -> None:
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        odd = next(type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor))
        raise TypeError(
            f"`fn` must return a tensor, or a tuple, list or dictionary of tensors, got {odd}; "
            "wrap numbers in torch.tensor."
        )
    if not same_structure:
        raise ValueError("`fn` must return the same structure for every micro-batch, got another one.")
