r"""A measure's value where training first reached a given loss, between checkpoints.

Between the last checkpoint above the target :math:`L^*` and the next, which is not,

.. math:: \lambda = \frac{\log L_0 - \log L^*}{\log L_0 - \log L_1}, \qquad
          v = (1 - \lambda)\, v_0 + \lambda\, v_1

for losses fall about exponentially between checkpoints, so that their logarithm goes about evenly with
whatever else moves. With errors :math:`e` of the values, independent of each other,

.. math:: \mathrm{se}^2 = (1 - \lambda)^2 e_0^2 + \lambda^2 e_1^2

Losses count as exact: they are what they are on the examples they were evaluated on. How far these speak for
others is one error of all runs together, which moves the target of all and no run by itself. That v is no
straight line between the two checkpoints is in no error: `before` and `after` bound what a monotone one can
be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_flag, check_positive
from thalweg.stats.cells import run_errors


@dataclass(frozen=True)
class MatchedValue:
    """The value of one run at the target.

    Parameters
    ----------
    value, standard_error
        NaN where there is none.
    position
        Where on the checkpoints it is: 3.25 is a quarter of the way from the fourth to the fifth. Without a
        value the checkpoint beside the target that has none, else NaN.
    before, after
        The values at the checkpoints on both sides, the same one twice where one is at the target.
    num_crossings
        How often the loss goes through the target, up or down; beyond one the first is taken, and the run is
        not all on one side thereafter.
    reason
        Why there is no value; else empty.
    """

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
    value_errors: ArrayLike | None = None,
    log: bool = False,
) -> MatchedValue:
    """What a measure is of one run when its loss first reaches the target.

    Parameters
    ----------
    losses
        ``(T,)``, positive, of the checkpoints in the order of training. What is not finite, after a
        divergence or where nothing was evaluated, is not crossed to.
    values
        ``(T,)``; NaN where it was not measured.
    target
        The loss, positive.
    value_errors
        ``(T,)`` standard errors.
    log
        Interpolate the logarithm of the values, as ratios are compared.

    Returns
    -------
    MatchedValue
        Missing, with its reason, where the run starts below the target, never reaches it, or was not
        measured on both sides.

    Raises
    ------
    ValueError
        If lengths differ, a loss is not positive, an error is negative, or the target is none.

    Examples
    --------
    >>> found = at_matched_loss([1.0, 0.25, 0.125], [10.0, 20.0, 40.0], 0.5)
    >>> round(found.value, 12), round(found.position, 12)
    (15.0, 0.5)
    """
    check_positive("target", target, "a loss that the runs pass through")
    check_flag("log", log)
    x = _losses("losses", losses)
    v = np.asarray(values, dtype=np.float64)
    if v.shape != x.shape:
        raise ValueError(f"`values` must hold one for each of the {len(x)} losses, got shape {v.shape}.")
    errors = _errors("value_errors", value_errors, v)
    if log and (v <= 0).any():
        raise ValueError(
            f"`values` must be positive for their logarithms, got {float(np.nanmin(v))}; see log=False."
        )

    is_below = x <= target  # false where the loss is not finite
    crossings = int((np.diff(is_below[np.isfinite(x)].astype(int)) != 0).sum())
    if not is_below.any():
        return _missing(_why_never(x, target), crossings)
    after = int(np.argmax(is_below))
    if x[after] == target:
        if not math.isfinite(v[after]):
            return _missing(f"it was not measured at checkpoint {after}", crossings, after)
        return _between(v, errors, after, after, 1.0, log, crossings)
    if after == 0:
        return _missing(f"the loss is below {target:.4g} at the first checkpoint already", crossings)
    before = after - 1
    for i in (before, after):
        if not math.isfinite(x[i]):
            return _missing(f"the loss is {x[i]} at checkpoint {i}, before the target is reached", crossings)
        if not math.isfinite(v[i]):
            return _missing(f"it was not measured at checkpoint {i}, beside the target", crossings, i)
    share = math.log(x[before] / target) / math.log(x[before] / x[after])
    return _between(v, errors, before, after, share, log, crossings)


def _between(
    v: NDArray[np.float64],
    errors: NDArray[np.float64],
    before: int,
    after: int,
    share: float,
    log: bool,
    crossings: int,
) -> MatchedValue:
    """At a share of the way."""
    ends, e = v[[before, after]], errors[[before, after]]
    scaled, e = (np.log(ends), e / ends) if log else (ends, e)
    value = float((1 - share) * scaled[0] + share * scaled[1])
    error = math.hypot((1 - share) * e[0], share * e[1])
    if log:
        value = math.exp(value)
        error *= value
    position = before + share * (after - before)
    return MatchedValue(value, error, position, float(ends[0]), float(ends[1]), crossings, "")


def _missing(reason: str, crossings: int, position: float = math.nan) -> MatchedValue:
    return MatchedValue(math.nan, math.nan, position, math.nan, math.nan, crossings, reason)


def _why_never(x: NDArray[np.float64], target: float) -> str:
    # No number of the run's own: of many runs those that share a reason are counted together.
    return (
        f"the loss never reaches {target:.4g}" if np.isfinite(x).any() else "no checkpoint has a finite loss"
    )


def _losses(name: str, losses: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(losses, dtype=np.float64)
    if x.ndim != 1 or not len(x) or (x <= 0).any():
        raise ValueError(f"`{name}` must hold one positive loss a checkpoint, got {x.tolist()}.")
    return x


def _errors(name: str, errors: ArrayLike | None, of: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard errors beside values; whatever stands beside what is not finite is not looked at."""
    if errors is None:
        return np.zeros_like(of)
    e = np.asarray(errors, dtype=np.float64)
    if e.shape != of.shape:
        raise ValueError(
            f"`{name}` must hold one for each of the {len(of)} checkpoints, got shape {e.shape}."
        )
    return run_errors(name, np.where(np.isfinite(of), e, 0.0), len(of))
