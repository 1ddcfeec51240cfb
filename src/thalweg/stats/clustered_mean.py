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
    num_examples = x.shape[-1]
    starts = np.arange(0, num_examples, unit_size)
    if len(starts) < 2:
        raise ValueError(
            f"`values` must hold at least two independent units, got {num_examples} examples in units of "
            f"{unit_size}: one unit shows no spread."
        )
    residuals = np.add.reduceat(x - x.mean(-1, keepdims=True), starts, axis=-1) / num_examples
    dof = len(starts) - 1
    return np.sqrt(len(starts) / dof * np.square(residuals).sum(-1)), dof
