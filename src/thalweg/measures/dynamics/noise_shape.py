r"""Is the noise of a mini-batch Gaussian? Its kurtosis along directions, and the tail over the examples.

A sum of B independent draws has the B th part of one draw's excess kurtosis, so that the kurtosis of the
noise of a batch follows from that of single examples, with no batch drawn. Of units that are whole batches it
is their own.

Tails are looked at over the *draws*: of the lengths of the examples' deviations from the mean gradient. The
tail index of Simsekli et al. pools the coordinates of a few draws instead, and so takes the spread of the
variances between coordinates, which a Gaussian of any covariance with unequal eigenvalues has, for heavy
tails (Xie, Sato and Sugiyama 2021).

References
----------
Simsekli, Sagun and Gurbuzbalaban (2019), ICML: heavy tails. Panigrahi, Somani, Goyal and Netrapalli (2019),
arXiv:1910.09626: Gaussian for large batches. Xie, Sato and Sugiyama (2021), ICLR, section 2: tails of what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.core.distributions import student_quantile
from thalweg.stats.kurtosis import excess_kurtosis
from thalweg.stats.tail_index import TailIndex, hill_tail_index

# Excess kurtosis that one may still take for a Gaussian's: by Edgeworth's first term, steps beyond three
# standard deviations are 1 + 2.5 kappa times as frequent, which is here a bit more than twice.
KURTOSIS_TOLERANCE = 0.5

# Confidence of what the warning says.
LEVEL = 0.95


@dataclass(frozen=True)
class NoiseShape:
    """What is seen of the noise beyond its covariance.

    Parameters
    ----------
    kurtosis, kurtosis_errors
        ``(k,)`` float64: excess kurtosis of the noise of a batch along each direction; NaN from fewer than
        five units.
    tail
        Of the lengths of the units' deviations.
    warning
        Why the noise is not to be taken for Gaussian; None where nothing speaks against it.
    """

    kurtosis: Tensor
    kurtosis_errors: Tensor
    tail: TailIndex
    warning: str | None


def noise_shape(
    slopes: Tensor, squares: Tensor, sizes: Tensor, draws_in_batch: int, num_tail: int | None
) -> NoiseShape:
    """Kurtosis along directions, and the tail index.

    Parameters
    ----------
    slopes
        ``(U, k)``: deviations along k directions.
    squares
        ``(U,)``: squared lengths of the deviations.
    sizes
        ``(U,)``: examples in each unit; a deviation of n examples is made comparable by their square root.
    draws_in_batch
        Units that make a batch.
    num_tail
        See `hill_tail_index`.
    """
    kurtosis, errors = excess_kurtosis((slopes * sizes.sqrt()[:, None]).numpy())
    kurtosis, errors = kurtosis / draws_in_batch, errors / draws_in_batch
    tail = hill_tail_index((squares * sizes).sqrt().numpy(), num_tail, LEVEL)
    warnings = [_of_kurtosis(kurtosis, errors, len(sizes)), _of_tail(tail)]
    return NoiseShape(
        torch.from_numpy(kurtosis),
        torch.from_numpy(errors),
        tail,
        "; ".join(w for w in warnings if w) or None,
    )


def _of_kurtosis(kurtosis: np.ndarray, errors: np.ndarray, num_units: int) -> str:
    """The direction that is surest to be off, at a confidence that holds for all of them together."""
    if not len(kurtosis) or np.isnan(kurtosis).all():
        return ""
    half = student_quantile(1 - (1 - LEVEL) / (2 * len(kurtosis)), num_units - 1) * errors
    surely = np.nan_to_num(np.abs(kurtosis) - half, nan=-np.inf)
    i = int(np.argmax(surely))
    if not surely[i] > KURTOSIS_TOLERANCE:
        return ""
    return (
        f"along eigenvector {i + 1} of C the noise of a batch has the excess kurtosis {kurtosis[i]:.3g} "
        f"± {half[i]:.2g}, where a Gaussian has none: large steps are more frequent than its variance says"
    )


def _of_tail(tail: TailIndex) -> str:
    found = f"the tail index over the draws is {tail.value:.3g} ({tail.low:.3g} to {tail.high:.3g})"
    if tail.high < 2:
        return (
            f"{found}, below 2: the distribution has no covariance, and the value, of these examples, grows "
            "with their number"
        )
    if tail.high < 4:
        return f"{found}, below 4: the trace has no finite variance, and its standard errors do not hold"
    return ""
