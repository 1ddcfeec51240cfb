"""Excess kurtosis of samples, with a standard error that holds for heavy tails and for a Gaussian alike."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# What one sample less than this has no kurtosis of.
FEWEST = 5


def excess_kurtosis(samples: ArrayLike) -> tuple[Array, Array]:
    """Fisher's G2 of each column, nought in expectation for a Gaussian, and its standard error.

    The error is the larger of the jackknife's, which tells of heavy tails but falls short of few samples, and
    of what a Gaussian's G2 has for that many.

    Parameters
    ----------
    samples
        ``(n, ...)``.

    Returns
    -------
    kurtosis, standard_error
        ``(...)``; NaN of fewer than five samples, or of constant ones.

    References
    ----------
    Joanes and Gill (1998), The Statistician 47(1), 183-189: G2, and its variance for a Gaussian.
    """
    x = np.asarray(samples, dtype=np.float64)
    n = len(x)
    if n < FEWEST:
        nothing = np.full(x.shape[1:], math.nan)
        return nothing, nothing.copy()
    x = x - x.mean(0)
    sums = [np.power(x, k).sum(0) for k in range(1, 5)]
    value = _g2(n, *sums)
    without = _g2(n - 1, *(total - np.power(x, k + 1) for k, total in enumerate(sums)))
    jackknife = np.sqrt((n - 1) / n * np.square(without - without.mean(0)).sum(0))
    gaussian = math.sqrt(24 * n * (n - 1) ** 2 / ((n - 3) * (n - 2) * (n + 3) * (n + 5)))
    return value, np.maximum(jackknife, gaussian)


def _g2(n: int, s1: Array, s2: Array, s3: Array, s4: Array) -> Array:
    """G2 from sums of powers about any point near the mean."""
    m = s1 / n
    m2 = s2 / n - m**2
    m4 = s4 / n - 4 * m * s3 / n + 6 * m**2 * s2 / n - 3 * m**4
    with np.errstate(divide="ignore", invalid="ignore"):
        g2 = m4 / np.square(m2) - 3
    return (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * g2 + 6)
