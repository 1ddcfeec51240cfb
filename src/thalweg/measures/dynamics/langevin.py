r"""Langevin dynamics: many chains side by side whose law is :math:`e^{-U/T}`, to the step's own bias.

.. math:: d\theta = -A \nabla U\, dt + \sqrt{2 T A}\, dW

A is constant, symmetric and positive: it changes the speed, not the law.

**Two schemes**, a gradient a step each. Euler and Maruyama's, :math:`\theta' = \theta - h A \nabla U +
\sqrt{2 h T A}\, R`, has on a quadratic of curvature p the variance :math:`T / (p (1 - h p / 2))`: too hot
by a relative h p / 2, of first order. Leimkuhler and Matthews' replaces R by :math:`(R + R')/2`, the mean
of this step's random numbers and the next one's. It is the overdamped limit of the BAOAB splitting: means
over its law are off by :math:`O(h^2)`, and on a quadratic its variance is T / p exactly, for every step
below the limit of stability, h p = 2. It is the default. What it does not change is the speed: times, of
escape say, are off by O(h) in both. Noise of the gradient itself, where it is that of a batch, heats both.

References
----------
Leimkuhler and Matthews (2013), Applied Mathematics Research eXpress 2013(1), 34-56. Leimkuhler, Matthews and
Tretyakov (2014), Proc. R. Soc. A 470, 20140120: second order of the means.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from thalweg.core.precision import full_precision
from thalweg.core.rng import normal
from thalweg.linalg.congruence import LinearMap

Scheme = Literal["leimkuhler_matthews", "euler"]


class LowRankScale(LinearMap):
    r""":math:`A^{1/2} = r I + V (\mathrm{diag}(s) - r I) V^\top`: some directions have a scale of their own.

    Parameters
    ----------
    directions
        V, ``(P, k)``, orthonormal; k may be 0.
    scales
        s, ``(k,)``, all above nought.
    rest
        r, above nought: of every other direction.
    """

    def __init__(self, directions: Tensor, scales: Tensor, rest: float) -> None:
        super().__init__(len(directions), len(directions))
        self.directions, self.scales, self.rest = directions, scales.to(directions), rest

    def into(self, U: Tensor) -> Tensor:
        with full_precision():
            along = (self.scales - self.rest)[:, None] * (self.directions.T @ U)
            return self.rest * U + self.directions @ along

    def back(self, V: Tensor) -> Tensor:
        return self.into(V)


class Langevin:
    """One step of C chains at a time, from their gradients.

    Parameters
    ----------
    step
        h, above nought.
    temperature
        T; at nought it is gradient descent by whatever gradient it is given.
    rng
        CPU generator: every device sees the same numbers.
    root
        The square root of A; the identity if ``None``.
    scheme
        ``"leimkuhler_matthews"`` or ``"euler"``.
    """

    def __init__(
        self,
        step: float,
        temperature: float,
        rng: torch.Generator,
        root: LinearMap | None = None,
        scheme: Scheme = "leimkuhler_matthews",
    ) -> None:
        self.step, self.temperature, self.rng, self.root, self.scheme = step, temperature, rng, root, scheme
        self._last: Tensor | None = None

    def __call__(self, theta: Tensor, slope: Tensor) -> Tensor:
        """Positions ``(C, P)`` after a step from `theta` ``(C, P)``, where the gradient of U is `slope`."""
        moved = -self.step * self._scaled(self._scaled(slope))
        if self.temperature > 0:
            kick = math.sqrt(2 * self.step * self.temperature) * self._noise(theta)
            moved += self._scaled(kick)
        return theta + moved

    def _noise(self, theta: Tensor) -> Tensor:
        fresh = normal(self.rng, *theta.shape, like=theta)
        if self.scheme == "euler":
            return fresh
        last = normal(self.rng, *theta.shape, like=theta) if self._last is None else self._last
        self._last = fresh
        return (last + fresh) / 2

    def _scaled(self, rows: Tensor) -> Tensor:
        return rows if self.root is None else self.root.into(rows.T).T
