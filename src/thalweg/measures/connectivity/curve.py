r"""Curves between two points: Bezier curves and polygonal chains, by their control points.

.. math:: \varphi(t) = \sum_{j=0}^{K} c_j(t)\, w_j

with the ends :math:`w_0` and :math:`w_K`, the K - 1 bends between them, and for coefficients the Bernstein
polynomials :math:`\binom{K}{j} t^j (1 - t)^{K - j}`, or the hat functions :math:`\max(0, 1 - |K t - j|)`.
Either way :math:`\partial\varphi(t) / \partial w_j = c_j(t)`: the gradient of a loss on the curve, in the
bends, is its gradient in the parameters times a number. No layer needs to know that there is a curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_one_of
from thalweg.measures.connectivity.path import between

Kind = Literal["bezier", "polygon"]

# Nodes of the quadrature of the length, between two points asked for: the speed is smooth there.
LENGTH_NODES = 16


@dataclass(frozen=True)
class Curve:
    """A curve of one kind by its K + 1 control points ``(P,)``, ends included."""

    kind: Kind
    points: Sequence[Tensor]

    @classmethod
    def straight(cls, kind: Kind, a: Tensor, b: Tensor, num_bends: int) -> Curve:
        """The line from `a` to `b`, at even speed: the bends lie on it at equal distances."""
        K = num_bends + 1
        return cls(kind, [between(a, b, j / K) for j in range(K + 1)])

    @property
    def num_segments(self) -> int:
        """K, the degree of a Bezier curve."""
        return len(self.points) - 1

    def coefficients(self, t: float) -> list[float]:
        """``c_j(t)``, K + 1 numbers that sum to one."""
        K = self.num_segments
        if self.kind == "polygon":
            return [max(0.0, 1 - abs(K * t - j)) for j in range(K + 1)]
        return _bernstein(K, t)

    def at(self, t: float) -> Tensor:
        r"""The point ``(P,)`` at t in [0, 1]: the ends to the bit.

        Summed as the straight line and the bends' distances from it, :math:`\varphi(t) = (1 - t) w_0 + t w_K
        + \sum_j c_j(t) [w_j - (1 - j / K) w_0 - (j / K) w_K]`, which is the same, since either kind of
        coefficients gives back a line. So an unbent curve is the line to the bit, and a coordinate that no
        bend has moved, a pruned weight say, stays what it is at both ends.
        """
        K, (a, b) = self.num_segments, (self.points[0], self.points[-1])
        point = between(a, b, t)
        for j, c in enumerate(self.coefficients(t)[1:K], 1):
            if c:
                point = point + c * (self.points[j] - between(a, b, j / K))
        return point

    def arc_lengths(self, ts: Sequence[float]) -> Tensor:
        """Euclidean length of the curve from the first of ascending `ts` to each: ``(T,)`` float64.

        By Gauss-Legendre quadrature of the speed between neighbours; a corner should be among `ts`.
        """
        steps = [y.cpu().double() - x.cpu().double() for x, y in pairwise(self.points)]  # K of (P,)
        # The speed at any t is a quadratic form of K x K numbers.
        gram = np.array([[float(x @ y) for y in steps] for x in steps])
        nodes, weights = np.polynomial.legendre.leggauss(LENGTH_NODES)
        lengths = [0.0]
        for low, high in pairwise(ts):
            half = (high - low) / 2
            slopes = np.array([self._slopes(low + half * (1 + x)) for x in nodes])  # (nodes, K)
            speeds = np.sqrt(np.einsum("ij,jk,ik->i", slopes, gram, slopes).clip(0))
            lengths.append(lengths[-1] + half * float(weights @ speeds))
        return torch.tensor(lengths, dtype=torch.float64)

    def _slopes(self, t: float) -> list[float]:
        """Coefficients of the K steps between control points in the derivative at t."""
        K = self.num_segments
        if self.kind == "polygon":
            here = min(int(K * t), K - 1)
            return [float(K * (j == here)) for j in range(K)]
        return [K * c for c in _bernstein(K - 1, t)]


def _bernstein(degree: int, t: float) -> list[float]:
    return [math.comb(degree, j) * t**j * (1 - t) ** (degree - j) for j in range(degree + 1)]


def check_kind(kind: str) -> None:
    """Raise unless it is a known one."""
    check_one_of("kind", kind, get_args(Kind))
