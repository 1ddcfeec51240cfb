r"""The mean over all pairs of units, and what each unit has to say of it.

What is measured between two units, a barrier between networks, is not measured anew by every pair: pairs
that share a unit hang together. Of n units only n // 2 disjoint pairs are independent, and three pairs
against three decide nothing. The mean over all pairs :math:`\bar B` is one U-statistic of the units, which
are independent, and its jackknife has a value for each,

.. math:: J_i = n \bar B - (n - 1) \bar B_{-i} = \bar B + \frac{2 (n - 1)}{n - 2} (\bar B_i - \bar B),

:math:`\bar B_i` being the mean of the pairs of unit i and :math:`\bar B_{-i}` that of the pairs without it.
The mean of the J is :math:`\bar B`, and their spread over :math:`\sqrt n` its standard error: right where
units make the differences, too large by :math:`\sqrt{2 (n - 1) / (n - 2)}` where each pair goes its own way
(Efron and Stein: the jackknife errs upwards). Two groups of J are contrasted as two groups of values.

That is approximate. No test is exact: under labels that mean nothing, units cannot be relabelled, for nothing
was measured between units of different groups, or what was is of another kind; only whole groups can, which
makes two relabellings, and disjoint pairs. How often it errs is counted in ``docs/statistics.md``.

References
----------
Arvesen (1969), Annals of Mathematical Statistics 40(6), 2076-2100; Efron and Stein (1981), Annals of
Statistics 9(3), 586-596.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Below, no pairs are left without a unit.
FEWEST_UNITS = 3


def jackknifed_pairs(values: ArrayLike) -> NDArray[np.float64]:
    """The jackknife's value of each unit, whose mean is that over all pairs.

    Parameters
    ----------
    values
        ``(..., n, n)``, symmetric, of at least three units; the diagonal is not looked at.

    Returns
    -------
    numpy.ndarray
        ``(..., n)``, in the unit of the values.

    Raises
    ------
    ValueError
        If there are fewer than three units, or a pair has no finite value.

    Examples
    --------
    >>> jackknifed_pairs([[0, 1, 3], [1, 0, 2], [3, 2, 0]]).tolist()
    [2.0, 0.0, 4.0]
    """
    matrix = np.array(values, dtype=np.float64)
    n = matrix.shape[-1]
    if matrix.ndim < 2 or matrix.shape[-2] != n or n < FEWEST_UNITS:
        raise ValueError(
            f"`values` must be a square of at least {FEWEST_UNITS} units, got shape {matrix.shape}."
        )
    matrix[..., range(n), range(n)] = 0.0
    if not np.isfinite(matrix).all() or not np.array_equal(matrix, np.swapaxes(matrix, -1, -2)):
        raise ValueError("`values` must be finite and the same both ways; leave out units without a value.")
    of_unit = matrix.sum(-1) / (n - 1)
    mean = of_unit.mean(-1, keepdims=True)
    return mean + 2 * (n - 1) / (n - 2) * (of_unit - mean)
