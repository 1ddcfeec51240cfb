"""Standard error of a mean whose independent units are single examples or whole batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean_standard_error(values: ArrayLike, unit_size: int = 1) -> tuple[NDArray[np.float64], int]:
    r"""Standard error of the mean over the last axis, by the residuals of independent units.

    .. math:: s^2 = \frac{U}{U - 1} \sum_u \Bigl(\frac{n_u}{N} (\bar x_u - \bar x)\Bigr)^2

    With units of one example this is the textbook standard error. A short last unit weighs what its
    examples do.

    Parameters
    ----------
    values
        ``(..., N)``; consecutive runs of `unit_size` entries are one unit, the last may be shorter.
    unit_size
        Examples a unit.

    Returns
    -------
    standard_errors, dof
        ``(...)`` float64, NaN where a row holds NaN, and U - 1 degrees of freedom.

    Raises
    ------
    ValueError
        If there are fewer than two units.

    References
    ----------
    Cochran (1977), Sampling Techniques, section 9A.
    """
    x = np.asarray(values, dtype=np.float64)
    means, weights = unit_means(x - x.mean(-1, keepdims=True), unit_size)
    dof = len(weights) - 1
    return np.sqrt(len(weights) / dof * np.square(means * weights).sum(-1)), dof


def unit_means(values: ArrayLike, unit_size: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of each independent unit, and each unit's share of the examples.

    Parameters
    ----------
    values
        ``(..., N)``; consecutive runs of `unit_size` entries are one unit, the last may be shorter.
    unit_size
        Examples a unit.

    Returns
    -------
    means, weights
        ``(..., U)`` and ``(U,)``, float64; the weights sum to one.

    Raises
    ------
    ValueError
        If there are fewer than two units.
    """
    x = np.asarray(values, dtype=np.float64)
    num_examples = x.shape[-1]
    starts = np.arange(0, num_examples, unit_size)
    if len(starts) < 2:
        raise ValueError(
            f"`values` must hold at least two independent units, got {num_examples} examples in units of "
            f"{unit_size}: one unit shows no spread."
        )
    sizes = np.diff(np.append(starts, num_examples))
    return np.add.reduceat(x, starts, axis=-1) / sizes, sizes / num_examples
