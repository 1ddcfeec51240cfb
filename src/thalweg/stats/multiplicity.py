"""Several questions to one set of units: p-values that allow for how many were asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.stats.permutation import Relabelled


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values ``(R,)``: below the level are at most that often any false ones.

    Whatever the dependence. Few units cannot pass it for many questions: five against five reach 0.0079 at
    best, which seven questions make 0.056.

    References
    ----------
    Holm (1979), Scandinavian Journal of Statistics 6(2), 65-70.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"`p_values` must lie in [0, 1], got {p.tolist()}.")
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


def joint_p_values(labels: Relabelled) -> NDArray[np.float64]:
    """Adjusted p-values ``(R,)`` of R quantities of the same units, by relabelling all of them at once.

    Each |t| is compared with the largest of its own and all smaller ones under each relabelling: quantities
    that say the same thing count as one, so that, other than by Holm's rule, few units can still decide many
    questions. The chance of any false answer stays below the level, by the argument of the single test.

    Parameters
    ----------
    labels
        Of values ``(R, n)`` and ``(R, m)``, row r of both one quantity; see
        `thalweg.stats.permutation.relabelled`.

    References
    ----------
    Westfall and Young (1993), Resampling-Based Multiple Testing, algorithm 2.8 with |t|.
    """
    order = np.argsort(-labels.observed, kind="stable")
    # Running maxima from the smallest |t| up.
    largest = np.maximum.accumulate(labels.null[:, order[::-1]], axis=1)[:, ::-1]
    shares = labels.reached(largest, labels.observed[order])
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(shares)
    return adjusted
