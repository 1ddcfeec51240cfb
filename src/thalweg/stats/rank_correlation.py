"""Kendall's tau between a measure and the gap over a grid of runs, overall and axis by axis."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Correlation:
    """One coefficient: `value`, `standard_error`, its interval `low`, `high`, and a `p_value` against none."""

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class AxisCorrelation:
    """Along the axis `name`: mean of the taus of `num_groups` groups whose runs differ in nothing else."""

    name: str
    tau: Correlation
    num_groups: int
    num_pairs: int


@dataclass(frozen=True)
class RankCorrelation:
    """What `rank_correlation` finds; see there."""

    overall: Correlation
    granulated: Correlation
    axes: tuple[AxisCorrelation, ...]
    level: float
    num_runs: int
    num_cells: int
    num_fixed_cells: int
    smallest_p: float
    measurement_loss: float


def rank_correlation(
    measure: ArrayLike,
    gap: ArrayLike,
    hyperparameters: Mapping[str, Sequence[Hashable]],
    *,
    errors: ArrayLike | None = None,
    gap_errors: ArrayLike | None = None,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int,
) -> RankCorrelation:
    """Tau-b over all runs, and Psi of Jiang et al.; runs that agree in all hyperparameters are seeds."""
    raise NotImplementedError
