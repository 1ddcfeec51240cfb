r"""A power law through values whose standard errors are known: :math:`y = a \prod_j x_j^{b_j}`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.core.distributions import f_tail

Array = NDArray[np.float64]

# Below this the values do not lie on a power law within their errors.
FIT_LEVEL = 0.01


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law.

    Parameters
    ----------
    exponents, standard_errors, dofs
        ``(q,)``: b, the standard errors and their degrees of freedom.
    log_factor
        log a.
    p_value
        How often values on a power law scatter by more about the fitted one; NaN of as many values as there
        are numbers to fit.
    fits
        Whether they lie on one, at a level of 1 %. Where they do not, the standard errors are those of the
        scatter about the law, whose exponents are then merely slopes.
    """

    exponents: Array
    standard_errors: Array
    dofs: Array
    log_factor: float
    p_value: float
    fits: bool


def fit_power_law(x: ArrayLike, y: ArrayLike, errors: ArrayLike, dofs: ArrayLike) -> PowerLaw:
    """Least squares of log y against log x, in proportion to the inverse squares of relative errors.

    Parameters
    ----------
    x
        ``(m, q)``, above nought; the logarithms of the columns, and one, linearly independent.
    y
        ``(m,)``, above nought.
    errors, dofs
        ``(m,)``: standard errors of y, independent and above nought, and their degrees of freedom.

    Examples
    --------
    >>> law = fit_power_law([[1], [2], [4]], [3, 6, 12], [0.1, 0.1, 0.1], [50, 50, 50])
    >>> round(float(law.exponents[0]), 6), round(math.exp(law.log_factor), 6), law.fits
    (1.0, 3.0, True)
    """
    u, v = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    s, nu = np.asarray(errors, dtype=np.float64) / np.asarray(y, dtype=np.float64), np.asarray(dofs, float)
    design = np.column_stack([np.ones(len(u)), u]) / s[:, None]
    inverse = np.linalg.pinv(design)  # of numbers whose standard error is one
    fitted = inverse @ (v / s)
    square, spare = float(np.square(v / s - design @ fitted).sum()), len(v) - len(fitted)
    p_value = _scatter_p_value(square, spare, nu) if spare > 0 else math.nan
    fits = not p_value < FIT_LEVEL
    # Satterthwaite's, from each value's part in the variance of an exponent.
    parts = np.square(inverse[1:])
    variances = parts.sum(1)
    dof = variances**2 / np.sum(parts**2 / nu, 1)
    scatter = 1.0 if fits else math.sqrt(square / spare)
    return PowerLaw(
        exponents=fitted[1:],
        standard_errors=scatter * np.sqrt(variances),
        dofs=dof if fits else np.minimum(dof, float(spare)),
        log_factor=float(fitted[0]),
        p_value=p_value,
        fits=fits,
    )


def _scatter_p_value(square: float, spare: int, dofs: Array) -> float:
    """Of a sum of squares over squares of estimated errors; each term is on average as large as F says."""
    return float(f_tail(square / spare, spare, len(dofs) / float(np.sum(1 / dofs))))
