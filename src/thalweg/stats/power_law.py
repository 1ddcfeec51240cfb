r"""A power law through values whose standard errors are known: :math:`y = a x^b`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

# Below this the values do not lie on a power law within their errors.
FIT_LEVEL = 0.01


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law.

    Parameters
    ----------
    exponent, standard_error, dof
        b, its standard error and that one's degrees of freedom.
    log_factor
        log a.
    p_value
        How often values on a power law scatter by more about the fitted one; NaN of two values.
    fits
        Whether they lie on one, at a level of 1 %. Where they do not, the standard error is that of the
        scatter about the line, of which the exponent is then merely the slope.
    """

    exponent: float
    standard_error: float
    dof: float
    log_factor: float
    p_value: float
    fits: bool


def fit_power_law(x: ArrayLike, y: ArrayLike, errors: ArrayLike, dofs: ArrayLike) -> PowerLaw:
    """Least squares of log y against log x, in proportion to the inverse squares of relative errors.

    Parameters
    ----------
    x, y
        ``(m,)``, above nought, x of at least two different values.
    errors, dofs
        ``(m,)``: standard errors of y, independent and above nought, and their degrees of freedom.

    Examples
    --------
    >>> law = fit_power_law([1, 2, 4], [3, 6, 12], [0.1, 0.1, 0.1], [50, 50, 50])
    >>> round(law.exponent, 6), round(math.exp(law.log_factor), 6), law.fits
    (1.0, 3.0, True)
    """
    u, v = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    s, nu = np.asarray(errors, dtype=np.float64) / np.asarray(y, dtype=np.float64), np.asarray(dofs, float)
    weights = 1 / s**2
    centred = u - np.average(u, weights=weights)
    information = float(weights @ centred**2)
    exponent = float(weights @ (centred * v)) / information
    level = float(np.average(v - exponent * u, weights=weights))
    residuals = (v - level - exponent * u) / s
    square, spare = float(residuals @ residuals), len(u) - 2
    p_value = _scatter_p_value(square, spare, nu) if spare > 0 else math.nan
    fits = not p_value < FIT_LEVEL
    # Satterthwaite's, from each value's part in the variance of the exponent.
    parts = weights * centred**2 / information
    dof = 1 / float(np.sum(parts**2 / nu))
    scatter = 1.0 if fits else math.sqrt(square / spare)
    return PowerLaw(
        exponent=exponent,
        standard_error=scatter / math.sqrt(information),
        dof=dof if fits else min(dof, float(spare)),
        log_factor=level,
        p_value=p_value,
        fits=fits,
    )


def _scatter_p_value(square: float, spare: int, dofs: np.ndarray) -> float:
    """Of a sum of squares over squares of estimated errors; each term is on average as large as F says."""
    return float(stats.f.sf(square / spare, spare, len(dofs) / float(np.sum(1 / dofs))))
