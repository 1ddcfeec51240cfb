r"""How heavy a tail is: the alpha of :math:`P(X > x) \sim x^{-\alpha}`, by Hill's estimator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thalweg.core.arguments import check_count
from thalweg.core.distributions import chi_squared_quantile


@dataclass(frozen=True)
class TailIndex:
    """An estimate of alpha: moments of order alpha and above do not exist.

    Parameters
    ----------
    value
        Hill's, NaN where fewer than `num_tail` + 1 samples are above nought.
    low, high
        Its interval.
    num_tail
        How many of the largest samples it is from.
    """

    value: float
    low: float
    high: float
    num_tail: int


def hill_tail_index(samples: ArrayLike, num_tail: int | None = None, level: float = 0.95) -> TailIndex:
    r"""Hill's estimate from the m largest of n positive samples.

    .. math:: \hat\alpha = \Bigl( \frac1m \sum_{i=1}^m \log \frac{x_{(i)}}{x_{(m+1)}} \Bigr)^{-1}

    Where the tail beyond :math:`x_{(m+1)}` is a power law, :math:`2 m \alpha / \hat\alpha` is chi-squared
    with 2 m degrees of freedom, which is the interval; where it is one only further out, as of a stable or a
    Student distribution, the estimate is biased upwards, the less the smaller m / n. A tail that is no power
    law, a Gaussian's say, gives a number that grows with n / m.

    Parameters
    ----------
    samples
        ``(n,)``, not negative.
    num_tail
        m, less than n. Default: the square root of n.
    level
        Of the interval.

    References
    ----------
    Hill (1975), Annals of Statistics 3(5), 1163-1174.
    """
    x = np.sort(np.asarray(samples, dtype=np.float64))[::-1]
    m = max(1, min(len(x) - 1, round(math.sqrt(len(x))))) if num_tail is None else num_tail
    check_count("num_tail", m)
    if m >= len(x):
        raise ValueError(f"`num_tail` must be less than the {len(x)} samples there are, got {m}.")
    if not x[m] > 0:
        return TailIndex(math.nan, math.nan, math.nan, m)
    mean = float(np.log(x[:m] / x[m]).mean())
    if mean == 0:  # the largest are all equal: no tail at all
        return TailIndex(math.inf, math.inf, math.inf, m)
    low, high = (float(chi_squared_quantile(p, 2 * m)) / (2 * m) for p in ((1 - level) / 2, (1 + level) / 2))
    return TailIndex(1 / mean, low / mean, high / mean, m)
