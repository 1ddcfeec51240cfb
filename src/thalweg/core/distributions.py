"""Quantiles and tails of Student's, Fisher's and the chi-squared distribution.

From SciPy's special functions, as those of `scipy.stats` are, which takes a third of a second to load.
Normal ones are `scipy.special.ndtri` and `scipy.special.ndtr` themselves.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def student_quantile(p: ArrayLike, dof: ArrayLike) -> Array:
    """What Student's t stays below with probability p; NaN unless p is in [0, 1] and `dof` above nought.

    >>> round(float(student_quantile(0.975, 5)), 4), round(float(student_quantile(0.975, np.inf)), 4)
    (2.5706, 1.96)
    """
    # SciPy's is plus infinity at p = 0, and wherever it is too far out for a float.
    return np.copysign(scipy.special.stdtrit(dof, p), np.asarray(p) - 0.5)


def student_tail(x: ArrayLike, dof: ArrayLike) -> Array:
    """Probability that Student's t lies above x; NaN unless `dof` is above nought."""
    return scipy.special.stdtr(dof, np.negative(x))


def f_tail(x: ArrayLike, numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """Probability that F lies above x, with so many degrees of freedom, finite; NaN unless both are > 0."""
    # Below nought SciPy's is NaN, and a ratio of squares may round to there.
    return scipy.special.fdtrc(numerator, denominator, np.maximum(x, 0.0))


def chi_squared_quantile(p: ArrayLike, dof: ArrayLike) -> Array:
    """What a chi-squared number stays below with probability p in [0, 1]; `dof` is above nought."""
    return 2 * scipy.special.gammaincinv(np.asarray(dof) / 2, p)
