r"""Relabelling: the studentised difference of two groups under every exchange of their labels.

.. math:: t = \frac{\bar a - \bar b}{\sqrt{s_a^2 / n_a + s_b^2 / n_b}}
   \qquad\text{paired:}\quad t = \frac{\bar d}{s_d / \sqrt n},\quad d_i = a_i - b_i

Where labels mean nothing, every relabelling is as likely as the one seen, so that the share of relabellings
that reach its |t| is a p-value that holds at any n and for any distribution. Divided by its own standard
error, the difference keeps the level for larger groups even where only the means agree and the spreads do
not; the bare difference of means does not, if the groups differ in size.

**How.** Relabellings are the rows of a matrix of noughts and ones, the values z of both groups about their
common mean the columns of another. Their product holds the sums S of the first group's values, and with the
squares of the values the sums Q of its squares; what is left of the total U is the second group's, so that

.. math:: s_a^2 / n + s_b^2 / m = \frac{Q - S^2 / n}{n (n - 1)} + \frac{U - Q - S^2 / m}{m (m - 1)}.

Groups of one size need no Q, nor do pairs, where signs take the labels' place. That difference of large
numbers loses its digits where nearly all of U lies between the groups: there, which a relabelling or two of a
row can be, each variance is taken about its own mean.

References
----------
Janssen (1997), Statistics and Probability Letters 36, 9-21; Chung and Romano (2013), Annals of Statistics
41(2), 484-507.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# All relabellings are gone through up to this many, two groups of eight; beyond, so many are drawn.
MOST_RELABELLINGS = 20_000

# Relabellings that reach |t| up to rounding reach it.
ROUNDING = 1e-9

# Of the largest value: a difference or a standard error below it is what rounding left of equal numbers.
NOUGHT = 1e-14

# Share of the total sum of squares below which that within the groups is taken about their means: above it,
# rounding changes |t| by less than ROUNDING.
LOST = 1e-5

# Numbers of a block of relabellings by rows, which then stays in a processor's cache.
BLOCK = 250_000


@dataclass(frozen=True)
class Relabelled:
    """The statistic as seen, and under each relabelling.

    Parameters
    ----------
    observed
        ``(...)`` |t|; infinite where both groups have no spread and differ.
    null
        ``(B, ...)`` |t| of B relabellings, the one seen first.
    smallest_p
        What no p-value can go below, whatever the values.
    is_exact
        Whether the B are all there are.
    """

    observed: Array
    null: Array
    smallest_p: float
    is_exact: bool

    def reached(self, null: Array, observed: Any) -> Any:
        """Share of relabellings ``(B, ...)`` that reach `observed`: the p-value."""
        return _reaches(null, observed).mean(0)

    @property
    def p_values(self) -> Array:
        """``(...)`` two-sided p-values."""
        return np.asarray(self.reached(self.null, self.observed))


def relabelled(a: ArrayLike, b: ArrayLike, *, paired: bool = False, seed: int = 0) -> Relabelled:
    """|t| of groups `a` ``(..., n)`` and `b` ``(..., m)`` under relabelling, the same one along all rows.

    Parameters
    ----------
    a, b
        Values of the units, two at least. Rows are several quantities of the same units.
    paired
        Whether unit i of both belongs together: labels are then exchanged within pairs alone.
    seed
        Of the relabellings drawn, where there are more than 20,000.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    null = np.concatenate(list(_statistics(x, y, paired, seed)))
    n, m = x.shape[-1], y.shape[-1]
    smallest_p = smallest_p_value(n, m, paired=paired)
    return Relabelled(null[0], null, smallest_p, is_exact(n, m, paired=paired))


def relabelling_p_values(a: ArrayLike, b: ArrayLike, *, paired: bool = False, seed: int = 0) -> Array:
    """``(...)`` p-values of `relabelled` alone, in memory that does not grow with the relabellings."""
    blocks = _statistics(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), paired, seed)
    first = next(blocks)
    observed, number = first[0], len(first)
    count = _reaches(first, observed).sum(0)
    for block in blocks:
        count += _reaches(block, observed).sum(0)
        number += len(block)
    return count / number


def smallest_p_value(num_a: int, num_b: int, *, paired: bool = False) -> float:
    """What no two-sided p-value of groups of this size can go below, whatever the values.

    Examples
    --------
    >>> smallest_p_value(3, 3), smallest_p_value(5, 5, paired=True)
    (0.1, 0.0625)
    """
    if not is_exact(num_a, num_b, paired=paired):
        return 1 / (MOST_RELABELLINGS + 1)  # those drawn, and the one seen
    # Exchanging the groups whole leaves |t| as it is, and is among the relabellings where they can be.
    return (2 if paired or num_a == num_b else 1) / _number(num_a, num_b, paired)


def is_exact(num_a: int, num_b: int, *, paired: bool = False) -> bool:
    """Whether all relabellings of groups of this size are gone through."""
    return _number(num_a, num_b, paired) <= MOST_RELABELLINGS


def _number(num_a: int, num_b: int, paired: bool) -> int:
    """Of all relabellings."""
    return 2**num_a if paired else math.comb(num_a + num_b, num_a)


def _reaches(null: Array, observed: Any) -> Any:
    return null >= observed * (1 - ROUNDING)


@functools.lru_cache(maxsize=2)  # a study asks for the same ones, hundreds of rows at a time
def _labels(n: int, m: int, paired: bool, seed: int) -> NDArray[np.int8]:
    """``(B, n + m)`` of noughts and ones, the ones of the first group; of pairs ``(B, n)`` signs.

    The first are those seen.
    """
    if is_exact(n, m, paired=paired):
        if paired:
            return np.array(list(itertools.product([1, -1], repeat=n)), dtype=np.int8)
        chosen = np.array(list(itertools.combinations(range(n + m), n)))
        labels = np.zeros((len(chosen), n + m), dtype=np.int8)
        np.put_along_axis(labels, chosen, 1, axis=1)
        return labels
    rng, seen = np.random.default_rng(seed), np.zeros(n if paired else n + m, dtype=np.int8)
    seen[:n] = 1
    if paired:
        drawn = 1 - 2 * rng.integers(0, 2, (MOST_RELABELLINGS, n), dtype=np.int8)
    else:
        drawn = rng.permuted(np.tile(seen, (MOST_RELABELLINGS, 1)), axis=1)
    return np.concatenate([seen[None], drawn])  # without the one seen a p-value of nought could come out


def _statistics(x: Array, y: Array, paired: bool, seed: int) -> Iterator[Array]:
    """Blocks ``(b, ...)`` of |t|, the one seen first."""
    n, m = x.shape[-1], y.shape[-1]
    labels, shape = _labels(n, m, paired, seed), x.shape[:-1]
    x, y = x.reshape(-1, n), y.reshape(-1, m)
    size = np.maximum(np.abs(x).max(1), np.abs(y).max(1))
    if paired:
        z = x - y
    else:
        z = np.concatenate([x, y], axis=1)
        z = z - z.mean(1, keepdims=True)
        # Once more: what rounding leaves of the mean of large numbers is large beside their differences.
        z = np.where(np.ptp(z, axis=1, keepdims=True) <= NOUGHT * size[:, None], 0.0, z)
        z = z - z.mean(1, keepdims=True)
    block = max(1, BLOCK // max(1, len(z)))
    for start in range(0, len(labels), block):
        t = _absolute_t(labels[start : start + block].astype(np.float64), z, size, n, m, paired)
        yield t.reshape(len(t), *shape)


def _absolute_t(labels: Array, z: Array, size: Array, n: int, m: int, paired: bool) -> Array:
    """``(b, R)`` of relabellings ``(b, k)`` and rows ``(R, k)``, whose largest values are `size` ``(R,)``."""
    sums, total = labels @ z.T, np.square(z).sum(1)  # (b, R), (R,)
    # What a sum of squares weighs in the squared error of the difference.
    of_a, of_b = 1 / (n * (n - 1)), 1 / (m * (m - 1))
    if paired:
        difference = sums / n
        variance = of_a * (total - np.square(sums) / n)
    else:
        difference = sums * (1 / n + 1 / m)
        variance = of_b * total - np.square(sums) * (of_a / n + of_b / m)
        if n != m:
            variance += (labels @ np.square(z).T) * (of_a - of_b)
    lost = np.nonzero((variance <= LOST * max(of_a, of_b) * total) & (total > 0))
    variance[lost] = _about_own_means(labels[lost[0]], z[lost[1]], n, m, paired)
    return np.abs(_ratio(difference, variance, size))


def _about_own_means(labels: Array, z: Array, n: int, m: int, paired: bool) -> Array:
    """``(K,)`` squared errors of the difference, of K relabellings ``(K, k)`` each with a row of its own."""
    if paired:
        signed = labels * z
        return np.square(signed - signed.mean(1, keepdims=True)).sum(1) / (n * (n - 1))
    variance = np.zeros(len(z))
    for members, count in ((labels, n), (1 - labels, m)):
        means = (members * z).sum(1, keepdims=True) / count
        variance += (members * np.square(z - means)).sum(1) / (count * (count - 1))
    return variance


def _ratio(difference: Array, variance: Array, size: Array) -> Array:
    """Nought over nought is nought; what is left of equal numbers by rounding is nought, too."""
    error = np.sqrt(variance)
    error[error <= NOUGHT * size] = 0.0
    difference[np.abs(difference) <= NOUGHT * size] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / error)
