"""Correlation of a measure with the gap at equal training loss, or whatever else is held equal."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PartialCorrelation:
    """`value` with its interval given the covariates; `plain` without them."""

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float
    plain: float
    method: str
    level: float
    num_runs: int
    num_covariates: int


def partial_correlation(
    measure: ArrayLike,
    gap: ArrayLike,
    covariates: ArrayLike,
    *,
    cells: Sequence[Hashable] | None = None,
    method: str = "rank",
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int,
) -> PartialCorrelation:
    """Of ranks or values; covariates ``(n,)`` or ``(n, k)``; with `cells` by resampling seeds within them."""
    raise NotImplementedError
