"""Where the loss along rays from a point first rises by a given amount: a scan, then root finding.

All rays are searched together, so that each round of the search is one evaluation of many points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.core.errors import ConvergenceError

# Rays and distances of n points to their rises (n,): a number that is not finite counts as risen.
RisesAlong = Callable[[list[tuple[int, float]]], Tensor]

# How far inwards of the first distance the scan looks before the rise is taken to begin at the centre itself.
MOST_INWARD = 2.0**40

# Stands for a rise that is not finite, in units of the level: far enough for the root to be sought elsewhere.
WALL = 1e6


@dataclass(frozen=True)
class Crossings:
    """For each of R rays, float64.

    Parameters
    ----------
    distances
        ``(R,)``: a distance visited, within `bounds` of a crossing; infinite where the scan's end is reached
        below the level.
    bounds
        ``(R,)``: width of the bracket around it; nought where there is none.
    lower, upper
        ``(R,)``: that bracket. Below the level, or at it, and above.
    """

    distances: Tensor
    bounds: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def reached(self) -> Tensor:
        """``(R,)``, whether there is a crossing within the scan."""
        return self.distances.isfinite()


def first_crossings(
    rises: RisesAlong,
    num_rays: int,
    *,
    level: float,
    first: float,
    growth: float,
    limit: float,
    rtol: float,
) -> Crossings:
    r"""The distance t at which each ray's rise first exceeds `level`.

    The scan visits ``first * growth**j``: outwards until the rise exceeds the level or `limit` is reached, or
    inwards where it does so at the first distance already. Between the last two distances the crossing is
    found to `rtol` (Chandrupatla 1997, by SciPy) as the root of
    :math:`(L(\theta + t u) - L(\theta) - l) / t`, which for the level nought is a straight line on a
    quadratic. An excursion above the level and back that lies between two distances of the scan, or inside of
    the first, is not seen; a smaller `growth` looks closer.

    Parameters
    ----------
    rises
        Evaluates points ``(ray, distance)``.
    num_rays
        R.
    level
        l, at least nought.
    first, growth, limit
        Of the scan: positive, above one, and at least the first distance.
    rtol
        Width of the bracket over the distance.

    Raises
    ------
    ConvergenceError
        If a ray is above the level however near the centre.
    """
    known: dict[tuple[int, float], float] = {}

    def heights(rays: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Rise less level over distance, a wall where it is not finite; each point evaluated once."""
        points = [(int(r), float(t)) for r, t in zip(rays.ravel(), distances.ravel(), strict=True)]
        new = [point for point in dict.fromkeys(points) if point not in known]
        if new:
            found = rises(new)
            found = torch.where(found.isfinite(), found - level, WALL * max(level, 1.0))
            known.update((point, float(f) / point[1]) for point, f in zip(new, found.tolist(), strict=True))
        return np.array([known[point] for point in points]).reshape(np.shape(distances))

    lower, upper = np.zeros(num_rays), np.full(num_rays, np.inf)
    here = np.full(num_rays, min(first, limit))
    active = np.arange(num_rays)
    for _ in range(_steps(first / MOST_INWARD, growth, limit)):
        above = heights(active, here[active]) > 0
        upper[active[above]] = here[active[above]]
        lower[active[~above]] = here[active[~above]]
        here[active] = np.where(above, here[active] / growth, np.minimum(here[active] * growth, limit))
        # A bracket from both sides, or the end of the scan, ends the search.
        bracketed = (lower[active] > 0) & np.isfinite(upper[active])
        active = active[~bracketed & (lower[active] < limit)]
        if not len(active):
            break
    if len(active):
        raise ConvergenceError(
            f"the loss has risen by more than {level:.3g} at a distance of {upper[active[0]]:.2g} already, "
            "and at every larger one visited: it jumps at the point itself, or leads up in this direction."
        )
    distances, crossed = np.full(num_rays, np.inf), np.flatnonzero(np.isfinite(upper))
    if len(crossed):
        from scipy.optimize import elementwise

        solved = elementwise.find_root(
            lambda t, ray: heights(ray, t),
            (lower[crossed], upper[crossed]),
            args=(crossed,),
            tolerances={"xatol": 0.0, "xrtol": rtol, "fatol": 0.0, "frtol": 0.0},
        )
        distances[crossed] = solved.x
        lower[crossed], upper[crossed] = solved.bracket
    widths = np.where(np.isfinite(upper), upper - lower, 0.0)
    # A root that was hit ends the search with the bracket as it was.
    widths[[known.get((r, float(t))) == 0 for r, t in enumerate(distances)]] = 0.0
    return Crossings(*(torch.from_numpy(a) for a in (distances, widths, lower, upper)))


def _steps(first: float, growth: float, limit: float) -> int:
    """Distances of a scan from the first to the limit, and one to end it."""
    return 2 + max(0, int(np.ceil(np.log(limit / first) / np.log(growth))))
