"""Standard error of a mean whose independent units are single examples or whole batches."""

from __future__ import annotations

from dataclasses import dataclass

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
    moments = UnitMoments.of(values, unit_size)
    return moments.standard_error(), moments.num_units - 1


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
    """
    x = np.asarray(values, dtype=np.float64)
    num_examples = x.shape[-1]
    starts = np.arange(0, num_examples, unit_size)
    sizes = np.diff(np.append(starts, num_examples))
    return np.add.reduceat(x, starts, axis=-1) / sizes, sizes / num_examples


@dataclass(frozen=True)
class UnitMoments:
    r"""What a mean and its standard error need of a part of the examples; parts are merged without the data.

    Attributes
    ----------
    num_examples, num_units
        Of the part.
    mean
        ``(...)``, over its examples.
    squares, sizes
        ``(...)``: :math:`\sum_u e_u^2` and :math:`\sum_u n_u e_u`; :math:`e_u = n_u (\bar x_u - \bar x)`.
    size_squares
        :math:`\sum_u n_u^2`.
    """

    num_examples: int
    num_units: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    sizes: NDArray[np.float64]
    size_squares: float

    @classmethod
    def of(cls, values: ArrayLike, unit_size: int = 1) -> UnitMoments:
        """Of values ``(..., N)``; see `mean_standard_error`."""
        x = np.asarray(values, dtype=np.float64)
        mean, N = x.mean(-1), x.shape[-1]
        means, weights = unit_means(x - mean[..., None], unit_size)
        sizes = N * weights
        residuals = means * sizes
        squares, crosses = np.square(residuals).sum(-1), (residuals * sizes).sum(-1)
        return cls(N, len(weights), mean, squares, crosses, float(np.square(sizes).sum()))

    def merge(self, other: UnitMoments) -> UnitMoments:
        """Of both parts together, without cancellation: each is moved to the common mean."""
        N = self.num_examples + other.num_examples
        mean = self.mean + other.num_examples / N * (other.mean - self.mean)
        squares, sizes = self._about(mean), self.sizes + other.sizes
        sizes = sizes + (self.mean - mean) * self.size_squares + (other.mean - mean) * other.size_squares
        return UnitMoments(
            N,
            self.num_units + other.num_units,
            mean,
            squares + other._about(mean),
            sizes,
            self.size_squares + other.size_squares,
        )

    def standard_error(self) -> NDArray[np.float64]:
        """``(...)``: of the mean, with ``num_units - 1`` degrees of freedom.

        Raises
        ------
        ValueError
            If there are fewer than two units.
        """
        if self.num_units < 2:
            raise ValueError(
                f"`values` must hold at least two independent units, got {self.num_examples} examples in "
                "one: one unit shows no spread."
            )
        return np.sqrt(self.num_units / (self.num_units - 1) * self.squares) / self.num_examples

    def _about(self, centre: NDArray[np.float64]) -> NDArray[np.float64]:
        shift = self.mean - centre
        moved = self.squares + 2 * shift * self.sizes + np.square(shift) * self.size_squares
        return np.maximum(moved, 0.0)
