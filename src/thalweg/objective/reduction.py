"""Sums over micro-batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Rows:
    """What a function says of each example or batch, ``(n, ...)``: put one after the other, not summed.

    Parameters
    ----------
    tensor
        In the order of the data.
    """

    tensor: Tensor


def summed(parts: Iterable[Any]) -> Any:
    """Sum of at least one part, each a tensor or the same tuple, list or dictionary of tensors.

    `Rows` in place of a tensor are concatenated, and stay `Rows`.

    Raises
    ------
    TypeError, ValueError
        If a part holds anything else, or has another structure than the first.
    """
    total: list[Any] | None = None
    structure = None
    for part in parts:
        leaves, form = pytree.tree_flatten(part)
        _check(leaves, total is None or form == structure)
        if total is None:
            total, structure = [[leaf] if isinstance(leaf, Rows) else leaf.clone() for leaf in leaves], form
        else:
            for accumulated, leaf in zip(total, leaves, strict=True):
                if isinstance(leaf, Rows):
                    accumulated.append(leaf)
                else:
                    accumulated += leaf
    assert total is not None, "examples are never empty"
    assert structure is not None
    joined = [Rows(torch.cat([r.tensor for r in x])) if isinstance(x, list) else x for x in total]
    return pytree.tree_unflatten(joined, structure)


def without_marks(result: Any) -> Any:
    """The same structure with the tensors of its `Rows` in their place."""
    return pytree.tree_map(lambda leaf: leaf.tensor if isinstance(leaf, Rows) else leaf, result)


def _check(leaves: list[Any], same_structure: bool) -> None:
    if not all(isinstance(leaf, Tensor | Rows) for leaf in leaves):
        odd = next(type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor | Rows))
        raise TypeError(
            f"`fn` must return a tensor, or a tuple, list or dictionary of tensors, got {odd}; "
            "wrap numbers in torch.tensor."
        )
    if not same_structure:
        raise ValueError("`fn` must return the same structure for every micro-batch, got another one.")
