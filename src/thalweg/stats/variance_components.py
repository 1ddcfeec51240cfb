"""How much of the variance of a measure is the architecture's, the hyperparameters', the seed's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Component:
    """One source: its variance (below nought by chance possible) and its share of the total, with intervals."""

    name: str
    variance: float
    low: float
    high: float
    share: float
    share_low: float
    share_high: float
    dof: int


@dataclass(frozen=True)
class VarianceComponents:
    """In the order of the factors, then "interactions" (if any), "seed" and "measurement" (if errors given)."""

    components: tuple[Component, ...]
    total: float
    level: float
    num_runs: int
    num_cells: int


def variance_components(
    values: ArrayLike,
    factors: Mapping[str, Sequence[Hashable]],
    *,
    errors: ArrayLike | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int,
) -> VarianceComponents:
    """By moments; factors in order, each ``(n,)`` labels; runs that agree in all of them are seeds."""
    raise NotImplementedError
