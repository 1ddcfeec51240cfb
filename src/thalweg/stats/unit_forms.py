r"""Quadratic forms of the covariance between independent units, and the jackknife of what is made of them.

Of units u of :math:`n_u` examples with deviations :math:`e_u` from the common mean g of N examples, and a
matrix M,

.. math:: S_M = \frac{1}{U - 1} \sum_u n_u\, e_u^\top M e_u

is unbiased for :math:`\mathrm{tr}(M \Sigma)`, :math:`\Sigma / n` being the covariance of a unit of n
examples: Cochran's mean square between units. Of T units in all, of which these are a sample, the covariance
over T is the :math:`1 - 1/T` th part of it; and :math:`g^\top M g` exceeds that of the mean over all T by
:math:`(1 / N - 1 / N_T)\, S_M` in expectation. With all taken, U = T, what is left are sums over the finite
set. For a distribution T is infinite.

Only numbers for each unit enter, since leaving one out changes sums and mean by what that unit has in them.

References
----------
Cochran (1977), Sampling Techniques, chapters 2 and 9A. Efron and Stein (1981), Annals of Statistics 9(3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Gradients of a run that has diverged may have no square: what comes of them is infinite or NaN, and says so.
BLOWN_UP = np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class LeftOut:
    """A statistic, and what it is with each of the units left out.

    Parameters
    ----------
    value
        ``(...)`` float64.
    without
        ``(U, ...)``; NaN where too few would be left.
    share
        U / T, the part of all the units that was taken.
    """

    value: Array
    without: Array
    share: float

    @BLOWN_UP
    def standard_error(self) -> Array:
        """``(...)`` by the jackknife, for the finite number of all units: nought where all were taken.

        Of a square of a mean that is lost in noise it is up to the root of two too large (Efron and Stein).
        """
        if self.share == 1:
            return np.zeros_like(self.value)
        U = len(self.without)
        squares = np.square(self.without - self.without.mean(0)).sum(0)
        return np.sqrt((U - 1) / U * squares * (1 - self.share))

    def of(self, function: Callable[..., Array], *others: LeftOut) -> LeftOut:
        """A function of this and other statistics of the same units."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = function(self.value, *(o.value for o in others))
            without = function(self.without, *(o.without for o in others))
        return LeftOut(np.asarray(value), np.asarray(without), self.share)


@dataclass(frozen=True)
class UnitForms:
    """The units of a sample, and how many there are in all.

    Parameters
    ----------
    sizes
        ``(U,)``: examples in each, U >= 2.
    num_units
        T, of which these are U; infinite for a distribution.
    num_examples
        In all T units.
    """

    sizes: Array
    num_units: float = math.inf
    num_examples: float = math.inf

    @BLOWN_UP
    def covariance(self, products: ArrayLike) -> LeftOut:
        r""":math:`\mathrm{tr}(M C)`, C over all units, from :math:`e_u^\top M e_u` ``(U, ...)``."""
        return self._between(products).of(lambda s: (1 - 1 / self.num_units) * s)

    @BLOWN_UP
    def of_mean(self, value: ArrayLike, crosses: ArrayLike, products: ArrayLike) -> LeftOut:
        r""":math:`\bar g^\top M \bar g` of the mean over all units, without bias.

        Parameters
        ----------
        value, crosses, products
            :math:`g^\top M g` ``(...)``, :math:`e_u^\top M g` ``(U, ...)`` and :math:`e_u^\top M e_u` of the
            sample.
        """
        whole, b, a = (np.asarray(x, dtype=np.float64) for x in (value, crosses, products))
        between, N = self._between(a), self.sizes.sum()
        moved = self._like(self.sizes / (N - self.sizes), a)  # g moves by this times -e_u
        squares = whole - 2 * moved * b + np.square(moved) * a
        excess = 1 / N - 1 / self.num_examples
        excesses = self._like(1 / (N - self.sizes), a) - 1 / self.num_examples
        return LeftOut(
            np.asarray(whole - excess * between.value), squares - excesses * between.without, self.share
        )

    @property
    def share(self) -> float:
        """U / T."""
        return len(self.sizes) / self.num_units

    @property
    def divisor(self) -> float:
        """What the mean over the units taken is to be multiplied by for the covariance over all."""
        U = len(self.sizes)
        return U / (U - 1) * (1 - 1 / self.num_units) if self.share < 1 else 1.0

    def _between(self, products: ArrayLike) -> LeftOut:
        """S_M, whole and with each unit left out."""
        a = np.asarray(products, dtype=np.float64)
        U, N = len(self.sizes), self.sizes.sum()
        squares = self._like(self.sizes, a) * a
        total = squares.sum(0)
        without = (total - squares * self._like(N / (N - self.sizes), a)) / (U - 2 if U > 2 else math.nan)
        return LeftOut(np.asarray(total / (U - 1)), without, self.share)

    @staticmethod
    def _like(weights: Array, values: Array) -> Array:
        """Weights ``(U,)`` beside values ``(U, ...)``."""
        return weights.reshape(-1, *[1] * (values.ndim - 1))
