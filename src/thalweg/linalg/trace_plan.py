r"""Which estimator of a trace costs fewest products, by what a pilot of m random products Y = A O tells.

- Hutchinson's samples :math:`v^\top A v` have the variance :math:`2 \sum_{i \ne j} a_{ij}^2`.
- After deflation by s sketched directions it is at most :math:`2 \rho_s^2`,
  :math:`\rho_s^2 = \|(I - Q Q^\top) A\|_F^2`. The QR factor of the pilot has an estimate for every s < m (a
  probe that is not in the sketch tests it); beyond, geometric decay is assumed to go on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.linalg.xtrace import CORRELATION

# Probes of a pilot, and the least that any interval rests on: with fewer, the skewness of quadratic forms
# shows in the coverage.
PILOT = 12

# Sketches considered. A finer choice gains less than the prediction is good for.
SIZES = (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class Plan:
    """A method, the columns of its sketch, and how many products it is expected to take after the pilot."""

    method: str
    sketch: int
    cost: float


def plans(variance: float, residuals: Tensor, target: float, dim: int, max_sketch: int) -> list[Plan]:
    r"""All that could be done.

    Parameters
    ----------
    variance
        Of one of Hutchinson's samples.
    residuals
        ``(m,)``: :math:`\rho_s^2` for s = 0 ... m - 1. The m products serve Hutch++ as sketch, the others
        not at all.
    target
        Standard error wanted.
    dim
        P.
    max_sketch
        Columns that fit into memory and budget.
    """
    pilot = len(residuals)
    found = [
        Plan("exact", 0, dim),
        Plan("hutchinson", 0, max(PILOT, wanted_probes(variance, target))),
    ]
    sizes = [s for s in SIZES if s < min(dim, max_sketch + 1)]
    for s in sizes:
        rest = 2 * _beyond(residuals, s)
        found.append(Plan("hutch++", s, (s - pilot) + s + max(PILOT, wanted_probes(rest, target))))
    if sizes:
        s = xtrace_size(residuals, target, sizes[-1])
        if _xtrace_variance(residuals, s) <= target**2:
            found.append(Plan("xtrace", s, 2 * s))
    return found


def xtrace_size(residuals: Tensor, target: float, most: int) -> int:
    """The least number of probes that should do, of those that `SIZES` has up to `most`."""
    sizes = [s for s in SIZES if s <= most] or [min(PILOT, most)]
    return next((s for s in sizes if _xtrace_variance(residuals, s) <= target**2), sizes[-1])


def _xtrace_variance(residuals: Tensor, s: int) -> float:
    return CORRELATION**2 * 2 * _beyond(residuals, s - 1) / s


def sketch_residuals(R: Tensor) -> Tensor:
    """``(m,)`` float64: the mean squared part of a pilot product outside the span of s others, s < m."""
    squares = R.double().cpu().square()
    m = len(squares)
    # Column j beyond the first s: what lies in rows s and below.
    return torch.stack([squares[s:, s:].sum() / (m - s) for s in range(m)])


def _beyond(residuals: Tensor, s: int) -> float:
    """The residual of a sketch of s columns, beyond the pilot by the decay of its second half."""
    m = len(residuals)
    if s < m:
        return float(residuals[s])
    # The last ones rest on few probes: the mean of three.
    last, middle = float(residuals[-3:].mean()), float(residuals[m // 2 - 1 : m // 2 + 2].mean())
    rate = (last / middle) ** (1 / (m - 2 - m // 2)) if middle > 0 else 0.0
    return last * min(rate, 1.0) ** (s - (m - 2))


def wanted_probes(variance: float, target: float) -> float:
    """How many samples of this variance bring their mean's standard error to `target`."""
    if variance == 0:
        return 0
    return math.ceil(variance / target**2) if target > 0 else math.inf
