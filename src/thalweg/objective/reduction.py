"""Sums over micro-batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
            total = [_Joined(leaf.tensor) if isinstance(leaf, Rows) else leaf.clone() for leaf in leaves]
            structure = form
        else:
            for accumulated, leaf in zip(total, leaves, strict=True):
                if isinstance(leaf, Rows):
                    accumulated.append(leaf.tensor)
                else:
                    accumulated += leaf
    assert total is not None, "examples are never empty"
    assert structure is not None
    whole = [Rows(x.whole()) if isinstance(x, _Joined) else x for x in total]
    return pytree.tree_unflatten(whole, structure)


class _Joined:
    """Rows one after the other in one tensor that doubles when it is full.

    Kept apart, each part would lie behind the large tensors of its own micro-batch, whose place the next
    ones then do not fit: 220 MB more for 60,000 examples of the paper's network.
    """

    def __init__(self, first: Tensor) -> None:
        self.rows, self.length = first.clone(), len(first)

    def append(self, part: Tensor) -> None:
        if part.shape[1:] != self.rows.shape[1:]:
            raise ValueError(
                "`fn` must return rows of one shape for every micro-batch, got "
                f"{tuple(part.shape[1:])} after {tuple(self.rows.shape[1:])}."
            )
        start, self.length = self.length, self.length + len(part)
        if self.length > len(self.rows):
            roomier = self.rows.new_empty(2 * self.length, *self.rows.shape[1:])
            roomier[:start] = self.rows[:start]
            self.rows = roomier
        self.rows[start : self.length] = part

    def whole(self) -> Tensor:
        return self.rows[: self.length].clone()


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
