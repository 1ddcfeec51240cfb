"""What a run of SGD has settled to, and whether it has settled at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_fraction, is_number
from thalweg.stats.autocorrelation import CorrelatedMean, correlated_mean, drift

Array = NDArray[np.float64]

STATIONARY, DRIFTING, TOO_SHORT, DIVERGED = "stationary", "not stationary", "too short", "diverged"

# How often a run that is stationary is to be taken for one that is not, over all of a verdict's tests. So
# far out in their tails these find twice as many: 1.9 to 2.1 % of 2,000 runs.
DRIFT_LEVEL = 0.01

# Independent samples that a mean must be worth: of fewer an interval at 95 % covers less than 93.
MIN_EFFECTIVE_SIZE = 100.0


@dataclass(frozen=True)
class Criteria:
    """When a run counts as settled.

    Parameters
    ----------
    drift_level
        In (0, 1): how often one that is may be taken for one that is not, by chance; at 0.01 some 2 % are.
    min_effective_size
        Independent samples that every mean must be worth, at least 1.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    drift_level: float = DRIFT_LEVEL
    min_effective_size: float = MIN_EFFECTIVE_SIZE

    def __post_init__(self) -> None:
        check_fraction("drift_level", self.drift_level, "0.01 calls one stationary run in a hundred drifting")
        if not is_number(self.min_effective_size) or not 1 <= self.min_effective_size < math.inf:
            raise ValueError(
                f"`min_effective_size` must be finite and at least 1, got {self.min_effective_size!r}; of "
                "fewer than 100 independent samples intervals hold less often than they say."
            )

    def verdict(self, p_values: ArrayLike, effective_sizes: ArrayLike) -> str:
        """By whether means drift and by the number of independent samples, of one series or more."""
        p, sizes = np.atleast_1d(p_values), np.atleast_1d(effective_sizes)
        if np.min(p) < self.drift_level / len(p):
            return DRIFTING
        return STATIONARY if np.min(sizes) >= self.min_effective_size else TOO_SHORT


@dataclass(frozen=True)
class Settled:
    """Temperatures along k directions from positions along them.

    Parameters
    ----------
    temperatures
        ``(k,)`` each, direction by direction.
    mean
        Of the mean over the directions, as one series, so that its error minds how they move together.
    position_drift, spread_drift
        ``(k,)``: p-values of one mean position and one variance throughout the run.
    outcome
        ``"stationary"``, ``"not stationary"`` or ``"too short"``.
    """

    temperatures: CorrelatedMean
    mean: CorrelatedMean
    position_drift: Array
    spread_drift: Array
    outcome: str


def settled(positions: ArrayLike, eigenvalues: ArrayLike, criteria: Criteria) -> Settled:
    r"""Measure :math:`T_i = h_i \mathrm{Var}(x_i)`, the variance about the run's own mean.

    The mean is off the minimum by :math:`\mathrm{Var}(\bar x)`, which the variance falls short by: a part
    :math:`\tau / n` of it, which is put back.

    Parameters
    ----------
    positions
        ``(n, k)``, in the order of the steps, without the burn-in.
    eigenvalues
        ``(k,)``: h.
    criteria
        Of the outcome.
    """
    x = np.asarray(positions, dtype=np.float64)
    centred = x - x.mean(0)
    sizes = correlated_mean(centred).effective_size
    # Of less than two independent positions there is no variance; the verdict says so.
    short = 1 - 1 / np.maximum(sizes, 2.0)
    heat = np.asarray(eigenvalues, dtype=np.float64) * centred**2 / short
    temperatures, mean = correlated_mean(heat), correlated_mean(heat.mean(1))
    position_drift, spread_drift = drift(x).p_value, drift(heat).p_value
    return Settled(
        temperatures,
        mean,
        position_drift,
        spread_drift,
        criteria.verdict(np.concatenate([position_drift, spread_drift]), temperatures.effective_size),
    )


def noise_during(positions: ArrayLike, slopes: ArrayLike) -> CorrelatedMean:
    """Variance ``(k,)`` of a step's gradient during a run: what a straight line in the position leaves.

    Parameters
    ----------
    positions
        ``(n, k)``: before each step.
    slopes
        ``(n, k)``: the gradient that it was made of, along the same directions.
    """
    x, g = np.asarray(positions, dtype=np.float64), np.asarray(slopes, dtype=np.float64)
    x, g = x - x.mean(0), g - g.mean(0)
    square = np.square(x).sum(0)
    curvature = np.where(square > 0, (x * g).sum(0) / np.where(square > 0, square, 1.0), 0.0)
    return correlated_mean(np.square(g - curvature * x) * (len(x) / (len(x) - 2)))


@dataclass(frozen=True)
class SettledExcess:
    """By how much the loss of a run exceeds that of the minimum it moves about.

    Parameters
    ----------
    mean
        The excess; its error is that of the mean loss, beside which that of the minimum is small.
    center
        The minimum.
    drift
        p-value of one mean loss throughout the run.
    outcome
        As of `Settled`.
    """

    mean: CorrelatedMean
    center: float
    drift: float
    outcome: str


def settled_excess(
    losses: ArrayLike, at_mean: float, at_halves: Sequence[float], criteria: Criteria
) -> SettledExcess:
    """Measure it from the loss during the run, and at the mean positions of the run and its halves.

    On a quadratic the mean position of a run lies above the minimum by some excess, that of half a run by
    twice as much, which tells the minimum.

    Parameters
    ----------
    losses
        ``(n,)``, in the order of the steps, without the burn-in.
    at_mean, at_halves
        The loss there.
    criteria
        Of the outcome.
    """
    center = 2 * at_mean - sum(at_halves) / len(at_halves)
    mean = correlated_mean(np.asarray(losses, dtype=np.float64) - center)
    p_value = float(drift(losses).p_value)
    return SettledExcess(mean, center, p_value, criteria.verdict(p_value, mean.effective_size))
