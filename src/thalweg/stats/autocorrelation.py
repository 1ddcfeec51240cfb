r"""The mean of a correlated series, its standard error, and whether the series has settled.

.. math:: \mathrm{Var}(\bar y) \approx \frac{\sigma^2 \tau}{n}, \qquad \tau = 1 + 2 \sum_{t \ge 1} \rho_t

:math:`\tau` is the integrated autocorrelation time, so that n correlated samples are worth n / tau
independent ones. It is summed up to the first window W that is at least `WINDOW` times as long as the memory
of the series, for noise beyond it would add more than signal (Sokal). Memory is the larger of tau so far and
of the same sum of :math:`\rho_t^2`, which is the shorter of the two where correlations decay, and where they
alternate, so that tau is short, still tells how long they do. Taking the mean off lowers every autocovariance
by :math:`\sigma^2 \tau / n`, which is put back, and the relative variance of the squared error,
:math:`2 (2 W + 1) / n`, gives it the degrees of freedom n / (2 W + 1) (Madras and Sokal, Wolff).

A series that swings to and fro has a tau below 1, and its mean is known better than that of independent
samples. How much better is a small difference of large numbers, which the window's end and chance exceed: its
intervals would hold the mean in as few as 64 % of the cases. It is taken as independent, which is safe.

References
----------
Madras and Sokal (1988), J. Statistical Physics 50, 109-186, appendix C. Wolff (2004), Computer Physics
Communications 156, 143-153: the bias. Heidelberger and Welch (1983), Operations Research 31, 1109-1144: the
test of drift. Anderson and Darling (1952), Ann. Math. Stat. 23, 193-212: the law of its statistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from thalweg.core.distributions import chi_squared_quantile

Array = NDArray[np.float64]

# Window over autocorrelation time: what an exponential has beyond is less than a hundredth of the sum.
WINDOW = 5.0

# Values that the unit of chance may have, in a test of drift.
NODES = 100

# What fewer samples say about their own correlation is nothing.
FEWEST = 8


@dataclass(frozen=True)
class CorrelatedMean:
    """The mean over a stationary series.

    Parameters
    ----------
    value
        ``(...)`` float64.
    standard_error
        ``(...)``; nought of a constant series, NaN of fewer than eight samples.
    time
        ``(...)``: tau, in samples; 1 where nothing is correlated, and where tau is shorter.
    effective_size
        ``(...)``: n / tau.
    dof
        ``(...)``: degrees of freedom of the standard error.
    """

    value: Array
    standard_error: Array
    time: Array
    effective_size: Array
    dof: Array


def correlated_mean(samples: ArrayLike) -> CorrelatedMean:
    """Mean of each column of samples ``(n, ...)``, in the order of time, with its standard error.

    >>> rng = np.random.default_rng(0)
    >>> found = correlated_mean(rng.standard_normal(4000))
    >>> bool(abs(found.time - 1) < 0.2), bool(abs(found.standard_error * 4000**0.5 - 1) < 0.1)
    (True, True)
    """
    y = np.asarray(samples, dtype=np.float64)
    return _of_residuals(y.mean(0), y - y.mean(0), 1)


def _of_residuals(mean: Array, residuals: Array, num_fitted: int) -> CorrelatedMean:
    """From what so many fitted functions of time, the mean among them, leave ``(n, ...)``."""
    n = len(residuals)
    if n < FEWEST:
        nothing = np.full(residuals.shape[1:], np.nan)
        return CorrelatedMean(mean, nothing, nothing.copy(), nothing.copy(), nothing.copy())
    covariances = _autocovariances(residuals)
    variance = covariances[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = np.where(variance > 0, covariances / variance, 0.0)
    times, squares = (2 * np.cumsum(rho, axis=0) - 1 for rho in (correlations, correlations**2))
    most = n // 4
    lags = np.arange(most + 1).reshape(-1, *[1] * (residuals.ndim - 1))
    wide = (lags >= WINDOW * np.maximum(times, squares)[: most + 1]) & (lags > 0)
    # A series that has not settled has no window: its correlation is what it is at the worst.
    window = np.where(wide.any(0), wide.argmax(0), times[: most + 1].argmax(0))
    width = (2 * np.where(wide.any(0), window, most) + 1) / n
    # What was fitted took the variance of a mean from every covariance, and so from each term of the sum.
    time = np.take_along_axis(times, window[None], 0)[0] * (1 + num_fitted * width)
    time = np.where(variance > 0, np.maximum(time, 1.0), 1.0)
    error = np.sqrt(variance * (1 + num_fitted * time / n) * time / n)
    return CorrelatedMean(mean, error, time, n / time, 1 / width)


@dataclass(frozen=True)
class Drift:
    """Whether the mean of a series is the same throughout.

    Parameters
    ----------
    statistic
        ``(...)``: Cramer and von Mises', of the sums of deviations in the unit of chance.
    dof
        ``(...)``: degrees of freedom of that unit.
    p_value
        ``(...)``: 1 where nothing varies.
    """

    statistic: Array
    dof: Array
    p_value: Array


def drift(samples: ArrayLike) -> Drift:
    r"""Test each column of samples ``(n, ...)`` for a trend, a step, or a beginning from somewhere else.

    Sums of deviations from the mean wander as a Brownian bridge does where there is none (Heidelberger and
    Welch). How far chance takes them is estimated on the second half, which what fades at the beginning does
    not reach, about its straight line: a half that climbs all the way would pass for correlated.
    """
    y = np.asarray(samples, dtype=np.float64)
    n, half = len(y), _about_line(y[len(y) // 2 :])
    unit = half.standard_error**2 * (n - n // 2)
    square = np.square(np.cumsum(y - y.mean(0), 0)).mean(0) / n
    rounding = np.square(np.finfo(float).eps * np.abs(y).max(0)) * n
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(square <= rounding, 0.0, square / unit)
    dof = np.where(unit > 0, half.dof, 1.0)
    # The unit is itself uncertain, as that of Student's: averaged over where it may lie.
    places = (np.arange(NODES) + 0.5) / NODES
    scales = chi_squared_quantile(places.reshape(-1, *[1] * statistic.ndim), dof) / dof
    p_value = np.where(np.isinf(statistic), 0.0, _beyond_bridge(statistic * scales).mean(0))
    return Drift(statistic, dof, p_value)


def _beyond_bridge(x: Array) -> Array:
    """How often the integral of a squared Brownian bridge exceeds x, by its series (Anderson and Darling)."""
    x = np.clip(x, 1e-3, 10.0)[..., None]  # below and above it is 1 and 0, to rounding
    k = np.arange(20.0)
    q = (4 * k + 1) ** 2 / (16 * x)
    weights = np.exp(scipy.special.gammaln(k + 0.5) - scipy.special.gammaln(k + 1)) * np.sqrt(4 * k + 1)
    # kve is the Bessel function times exp(q).
    terms = weights * np.exp(-2 * q) * scipy.special.kve(0.25, q)
    return np.clip(1 - terms.sum(-1) / (np.pi**1.5 * np.sqrt(x[..., 0])), 0.0, 1.0)


def _about_line(y: Array) -> CorrelatedMean:
    """The mean of each column, with the error that the scatter about its straight line makes."""
    t = np.linspace(-1.0, 1.0, len(y)).reshape(-1, *[1] * (y.ndim - 1))
    mean = y.mean(0)
    slope = (t * y).sum(0) / np.square(t).sum()
    return _of_residuals(mean, y - mean - slope * t, 2)


def _autocovariances(y: Array) -> Array:
    """``(n, ...)`` by lag, of centred columns, each lag's sum over n: by a padded Fourier transform."""
    n = len(y)
    size = scipy.fft.next_fast_len(2 * n, real=True)
    spectrum = np.fft.rfft(y, size, axis=0)
    return np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size, axis=0)[:n] / n
