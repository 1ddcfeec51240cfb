r"""Which of two measures ranks runs by their gap better: the difference of their granulated taus.

.. math:: \Delta = \frac{1}{A} \sum_a \bigl( \psi_a^{(1)} - \psi_a^{(2)} \bigr)

over the axes along which both have one, :math:`\psi_a` as in `thalweg.stats.rank_correlation`. Both taus are
of the same runs and resampled together, seeds within cells: the interval is about other seeds on this grid.
It says nothing of other hyperparameters. Of these the p-value speaks: if neither measure ranks better, the
difference along an axis is as likely to have the other sign, axis by axis, so that all signs are exchanged.
Six axes have 64 exchanges, and no p-value below 2 / 64.

References
----------
Jiang, Neyshabur, Mobahi, Krishnan and Bengio (2020), Fantastic Generalization Measures and Where to Find
Them, ICLR; Fisher (1935), The Design of Experiments, section 21: exchange of signs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thalweg.core.arguments import check_count, check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.stats.cell_exchange import ordered_groups, two_sided
from thalweg.stats.cells import axis_groups, run_values
from thalweg.stats.rank_correlation import Grid, signs_of


@dataclass(frozen=True)
class RankDifference:
    """The first measure's granulated tau less the second's.

    Parameters
    ----------
    value, standard_error, low, high, dof
        By the seeds.
    p_value, smallest_p
        By the axes' signs, two-sided; and what that cannot go below.
    along
        Of each axis the difference.
    """

    value: float
    standard_error: float
    low: float
    high: float
    dof: float
    p_value: float
    smallest_p: float
    along: Mapping[str, float]


def rank_difference(
    first: ArrayLike,
    second: ArrayLike,
    gap: ArrayLike,
    hyperparameters: Mapping[str, Sequence[Hashable]],
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int,
) -> RankDifference:
    """How much better one measure ranks runs than another does.

    Parameters
    ----------
    first, second
        ``(n,)``, one value a run, with the sign by which each is claimed to go along with the gap.
    gap
        ``(n,)``.
    hyperparameters
        Of each name the ``n`` values; runs that agree in all are seeds of one cell.
    level
        Of the interval.
    num_resamples, seed
        Of the seeds.

    Raises
    ------
    ValueError
        If values are not finite or not one a run, no cell has two runs, or there is no axis along which both
        order anything.
    """
    check_fraction("level", level, "0.95 is customary")
    check_count("num_resamples", num_resamples, 100)
    g = run_values("gap", gap)
    n = len(g)
    cells, axes = axis_groups("hyperparameters", hyperparameters, n)
    if not cells.dof:
        raise ValueError("`hyperparameters` must leave two runs in one cell at least, got one in each.")
    signs_g, weights = signs_of(g), np.concatenate([np.ones((1, n)), cells.weights(num_resamples, seed)])
    taus = []
    for name, values in (("first", first), ("second", second)):
        signs = signs_of(run_values(name, values, n))
        grid = Grid(cells, ordered_groups(axes, signs, signs_g))
        taus.append(grid.coefficients(signs, signs_g, weights)[:, 2:])  # (1 + B, A)
    along = taus[0] - taus[1]
    there = np.flatnonzero(~np.isnan(along[0]))
    if not len(there):
        raise ValueError(
            "`hyperparameters` must have an axis along which both measures order runs, got none."
        )
    difference = along[:, there].mean(1)
    value, error = float(difference[0]), float(difference[1:].std(ddof=1))
    half = float(student_quantile(0.5 + level / 2, cells.dof)) * error
    flips = np.array(list(itertools.product((1.0, -1.0), repeat=len(there))))
    return RankDifference(
        value=value,
        standard_error=error,
        low=value - half,
        high=value + half,
        dof=float(cells.dof),
        p_value=float(two_sided(flips @ along[0, there] / len(there))),
        smallest_p=least_sign_p(len(there)),
        along={name: float(along[0, a]) for a, name in enumerate(axes) if not math.isnan(along[0, a])},
    )


def least_sign_p(num_axes: int) -> float:
    """What exchanging the signs of so many axes cannot go below, two-sided.

    >>> least_sign_p(6)
    0.03125
    """
    return min(1.0, 2 / 2**num_axes)
