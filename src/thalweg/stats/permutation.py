r"""Relabelling: the studentised difference of two groups under every exchange of their labels.

.. math:: t = \frac{\bar a - \bar b}{\sqrt{s_a^2 / n_a + s_b^2 / n_b}}
   \qquad\text{paired:}\quad t = \frac{\bar d}{s_d / \sqrt n},\quad d_i = a_i - b_i

Where labels mean nothing, every relabelling is as likely as the one seen, so that the share of relabellings
that reach its |t| is a p-value that holds at any n and for any distribution. Divided by its own standard
error, the difference keeps the level for larger groups even where only the means agree and the spreads do
not; the bare difference of means does not, if the groups differ in size.

References
----------
Janssen (1997), Statistics and Probability Letters 36, 9-21; Chung and Romano (2013), Annals of Statistics
41(2), 484-507.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

# All relabellings are gone through up to this many, two groups of eight; beyond, so many are drawn.
MOST_RELABELLINGS = 20_000

# Relabellings that reach |t| up to rounding reach it.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Relabelled:
    """The statistic as seen, and under each relabelling.

    Parameters
    ----------
    observed
        ``(...)`` |t|; infinite where both groups have no spread and differ.
    null
        ``(B, ...)`` |t| of B relabellings, the one seen among them.
    smallest_p
        What no p-value can go below, whatever the values.
    is_exact
        Whether the B are all there are.
    """

    observed: NDArray[np.float64]
    null: NDArray[np.float64]
    smallest_p: float
    is_exact: bool

    def reached(self, null: NDArray[np.float64], observed: Any) -> Any:
        """Share of relabellings ``(B, ...)`` that reach `observed`: the p-value."""
        return (null >= observed * (1 - ROUNDING)).mean(0)

    def row(self, i: int) -> Relabelled:
        """Of row `i` alone."""
        return Relabelled(self.observed[i], self.null[:, i], self.smallest_p, self.is_exact)

    @property
    def p_values(self) -> NDArray[np.float64]:
        """``(...)`` two-sided p-values."""
        return np.asarray(self.reached(self.null, self.observed))


def relabelled(a: ArrayLike, b: ArrayLike, *, paired: bool = False, seed: int = 0) -> Relabelled:
    """|t| of groups `a` ``(..., n)`` and `b` ``(..., m)`` under relabelling, the same one along all rows.

    Parameters
    ----------
    a, b
        Values of the units. Rows are several quantities of the same units.
    paired
        Whether unit i of both belongs together: labels are then exchanged within pairs alone.
    seed
        Of the relabellings drawn, where there are more than 20,000.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # its own p-values, of infinite statistics
        result: Any = stats.permutation_test(
            (x, y),
            _paired_t if paired else _welch_t,
            permutation_type="samples" if paired else "independent",
            vectorized=True,
            axis=-1,
            n_resamples=MOST_RELABELLINGS,
            batch=1000,
            random_state=np.random.default_rng(seed),  # pyright: ignore[reportCallIssue] - `rng` from 1.15
        )
    observed = np.abs(np.asarray(result.statistic, dtype=np.float64))
    null = np.abs(np.asarray(result.null_distribution, dtype=np.float64))
    n, m = x.shape[-1], y.shape[-1]
    is_exact = _number(n, m, paired) <= MOST_RELABELLINGS
    if not is_exact:
        null = np.concatenate([observed[None], null])  # else a p-value of nought could come out
    return Relabelled(observed, null, smallest_p_value(n, m, paired=paired), is_exact)


def smallest_p_value(num_a: int, num_b: int, *, paired: bool = False) -> float:
    """What no two-sided p-value of groups of this size can go below, whatever the values.

    Examples
    --------
    >>> smallest_p_value(3, 3), smallest_p_value(5, 5, paired=True)
    (0.1, 0.0625)
    """
    number = _number(num_a, num_b, paired)
    if number > MOST_RELABELLINGS:
        return 1 / (MOST_RELABELLINGS + 1)  # those drawn, and the one seen
    # Exchanging the groups whole leaves |t| as it is, and is among the relabellings where they can be.
    return (2 if paired or num_a == num_b else 1) / number


def _number(num_a: int, num_b: int, paired: bool) -> float:
    """Of all relabellings."""
    return 2.0**num_a if paired else float(special.comb(num_a + num_b, num_a))


def _welch_t(a: NDArray[np.float64], b: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    variance = a.var(axis, ddof=1) / a.shape[axis] + b.var(axis, ddof=1) / b.shape[axis]
    return _ratio(a.mean(axis) - b.mean(axis), variance, np.maximum(_size(a, axis), _size(b, axis)))


def _paired_t(a: NDArray[np.float64], b: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    d = a - b
    variance = d.var(axis, ddof=1) / d.shape[axis]
    return _ratio(d.mean(axis), variance, np.maximum(_size(a, axis), _size(b, axis)))


def _size(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.abs(x).max(axis)


def _ratio(
    difference: NDArray[np.float64], variance: NDArray[np.float64], size: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Nought over nought is nought; what is left of equal numbers by rounding is nought, too."""
    error = np.sqrt(variance)
    error = np.where(error <= 1e-14 * size, 0.0, error)
    difference = np.where(np.abs(difference) <= 1e-14 * size, 0.0, difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / error)
