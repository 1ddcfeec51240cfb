"""A measure's value where training first reached a given loss, between checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from numpy.typing import ArrayLike


@dataclass(frozen=True)
class MatchedValue:
    """`value` NaN and a `reason` where the run never got there; else between `before` and `after`."""

    value: float
    standard_error: float
    position: float
    before: float
    after: float
    num_crossings: int
    reason: str


def at_matched_loss(
    losses: ArrayLike,
    values: ArrayLike,
    target: float,
    *,
    loss_errors: ArrayLike | None = None,
    value_errors: ArrayLike | None = None,
    log: bool = False,
) -> MatchedValue:
    """Of one run's checkpoints ``(T,)`` in the order of training."""
    raise NotImplementedError


def common_losses(curves: Iterable[ArrayLike]) -> tuple[float, float]:
    """Lowest and highest loss that every one of the runs crosses."""
    raise NotImplementedError
