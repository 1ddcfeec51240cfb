r"""SGD at a constant rate on a quadratic: what it settles to, exact in discrete time.

Heavy ball by torch's convention, :math:`v \leftarrow \mu v + g,\ \theta \leftarrow \theta - \eta v`, with the
gradient :math:`g = H (\theta - \theta^*) + \xi` of noise :math:`\xi` of covariance S, is linear in
:math:`z = (\theta - \theta^*, v)`. Along the eigenvectors of H, z falls apart into pairs
:math:`z_i \leftarrow A_i z_i + b\, \xi_i`, whose covariances at stationarity solve one 2 x 2 discrete
Lyapunov equation for each pair of directions, whether or not S and H commute:

.. math:: X_{ij} = A_i X_{ij} A_j^\top + S_{ij}\, b b^\top, \qquad
   \Sigma_{ii} = \frac{\eta\, (1 + \mu)\, S_{ii}}{h_i (1 - \mu) (2 (1 + \mu) - \eta h_i)}

So the temperature of a direction, :math:`T_i = h_i \Sigma_{ii}` (half of it is the excess of the loss along
it, as of a particle in equilibrium), is :math:`\eta S_{ii} / (2 (1 - \mu))` where steps are short; longer
ones make it hotter, and beyond :math:`\eta h_i = 2 (1 + \mu)` there is no stationary law.

That is exact where the noise is the same everywhere. Of least squares it grows with the distance, since
examples differ in curvature too: the law then holds as far as that is small, which it is for short steps.

References
----------
Mandt, Hoffman and Blei (2017), JMLR 18(134): continuous time. Yaida (2019), ICLR, arXiv:1810.00004: the
relations that hold in discrete time. Liu, Ziyin and Ueda (2021), ICML, arXiv:2012.03636: momentum, by the
same equation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_flag, check_positive, is_number

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ConstantRate:
    """The update of ``torch.optim.SGD`` without dampening.

    Parameters
    ----------
    lr
        The learning rate, positive.
    momentum
        In [0, 1).
    nesterov
        Whether the step looks ahead: ``theta -= lr * (g + momentum * v)``.

    Raises
    ------
    ValueError
        If one is out of range.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_positive("lr", self.lr, "0.01 to 0.1 is usual")
        check_flag("nesterov", self.nesterov)
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1), got {self.momentum!r}; 0.9 is usual.")
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` needs a `momentum` above nought, got 0.")

    @property
    def threshold(self) -> float:
        """The curvature beyond which no direction is stable: (2 + 2 mu) / lr for heavy ball."""
        mu = self.momentum
        return 2 * (1 + mu) / (self.lr * ((1 + 2 * mu) if self.nesterov else 1))

    def transition(self, curvatures: ArrayLike) -> tuple[Array, Array]:
        """A_i ``(..., 2, 2)`` of curvatures ``(...)``, on position and velocity, and b ``(2,)``."""
        h = np.asarray(curvatures, dtype=np.float64)
        lr, mu = self.lr, self.momentum
        ahead, carried = (lr * (1 + mu), lr * mu**2) if self.nesterov else (lr, lr * mu)
        rows = [1 - ahead * h, np.full_like(h, -carried), h, np.full_like(h, mu)]
        return np.stack(rows, -1).reshape(*h.shape, 2, 2), np.array([-ahead, 1.0])

    def decay(self, curvatures: ArrayLike) -> Array:
        """``(...)``: by what a distance from the minimum shrinks in a step, in the long run; 1 and more
        grow."""
        A, _ = self.transition(curvatures)
        return np.asarray(np.abs(np.linalg.eigvals(A)).max(-1))

    def relaxation(self, curvatures: ArrayLike) -> Array:
        """``(...)``: steps in which it shrinks by e; infinite where nothing is stable."""
        rate = self.decay(curvatures)
        with np.errstate(divide="ignore"):
            return np.where(rate < 1, -1 / np.log(np.minimum(np.maximum(rate, 1e-300), 1.0)), np.inf)

    def gains(self, first: ArrayLike, second: ArrayLike) -> Array:
        """``(...)``: Sigma_ij / S_ij of directions of these curvatures; infinite if one is not stable."""
        h, stable = self._stabilised(first)
        k, also = self._stabilised(second)
        (A, b), (B, _) = self.transition(h), self.transition(k)
        return np.where(stable & also, _settled(A, B, np.outer(b, b))[..., 0, 0], np.inf)

    def epoch_gains(self, curvatures: ArrayLike, steps: int, correlation: float) -> Array:
        """``(...)``: Sigma_ii / S_ii averaged over an epoch, within which any two steps' noises correlate.

        A shuffled pass over the data: its batches' noises add up to nought, so that what one does the others
        undo, and flat directions stay much colder than batches drawn afresh would make them.

        Parameters
        ----------
        curvatures
            ``(...)``.
        steps
            M, of an epoch.
        correlation
            c, of the noises of two steps: -1 / (M - 1) of a whole partition.
        """
        h, stable = self._stabilised(curvatures)
        A, b = self.transition(h)
        power, w = np.broadcast_to(np.eye(2), A.shape), np.broadcast_to(b, (*h.shape, 2))
        summed, squares = np.zeros_like(w), np.zeros_like(A)
        powers, made = [], []  # A^t, and the covariance that the noise of t steps of the epoch makes
        for _ in range(steps):
            powers.append(power)
            made.append((1 - correlation) * squares + correlation * _outer(summed))
            summed, squares = summed + w, squares + _outer(w)
            power, w = A @ power, (A @ w[..., None])[..., 0]
        start = _settled(power, power, (1 - correlation) * squares + correlation * _outer(summed))
        P = np.stack(powers)
        along = (P @ start @ np.swapaxes(P, -1, -2) + np.stack(made))[..., 0, 0]
        return np.where(stable, along.mean(0), np.inf)

    def _stabilised(self, curvatures: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """The curvatures, any stable one in the place of those that are not, and which are."""
        h = np.asarray(curvatures, dtype=np.float64)
        stable = (h > 0) & (h < self.threshold)
        return np.where(stable, h, self.threshold / 2), stable


def stationary_covariance(hessian: ArrayLike, noise: ArrayLike, rule: ConstantRate) -> Array:
    """Sigma ``(P, P)``: what the parameters settle to about the minimum of a quadratic.

    Parameters
    ----------
    hessian
        H ``(P, P)``, symmetric, its eigenvalues above nought and below `ConstantRate.threshold`.
    noise
        S ``(P, P)``: covariance of a step's gradient, independent from step to step; C / B for B examples
        drawn with replacement, C / B (N - B) / (N - 1) for a batch drawn without.
    rule
        Of the steps.

    Raises
    ------
    ValueError
        If there is no stationary law.

    Examples
    --------
    >>> Sigma = stationary_covariance([[2.0]], [[3.0]], ConstantRate(lr=0.1, momentum=0.5))
    >>> bool(np.isclose(Sigma[0, 0], 0.1 * 1.5 * 3 / (2 * 0.5 * (3 - 0.2))))
    True
    """
    values, V = np.linalg.eigh(np.asarray(hessian, dtype=np.float64))
    if not (values[0] > 0 and values[-1] < rule.threshold):
        raise ValueError(
            f"`hessian` must have eigenvalues above nought and below {rule.threshold:.6g}, where this rate "
            f"is stable, got {values[0]:.6g} to {values[-1]:.6g}; lower the rate, or leave directions out."
        )
    S = V.T @ np.asarray(noise, dtype=np.float64) @ V
    return V @ (rule.gains(values[:, None], values[None, :]) * S) @ V.T


def excess_loss(hessian: ArrayLike, covariance: ArrayLike) -> float:
    """tr(H Sigma) / 2: by how much the loss exceeds its minimum on average."""
    return float(np.sum(np.asarray(hessian) * np.asarray(covariance)) / 2)


def continuous_temperature(noise: ArrayLike, rule: ConstantRate) -> Array:
    """``(...)``: lr S_ii / (2 (1 - mu)), the limit of short steps, of the variances S_ii of a step."""
    return rule.lr * np.asarray(noise, dtype=np.float64) / (2 * (1 - rule.momentum))


def _settled(A: Array, B: Array, Q: Array) -> Array:
    """X = A X B' + Q ``(..., 2, 2)``."""
    # Row by row, vec(A X B') is kron(A, B) vec(X).
    K = np.einsum("...ij,...kl->...ikjl", A, B)
    shape = K.shape[:-4]
    vec = np.broadcast_to(Q, (*shape, 2, 2)).reshape(*shape, 4, 1)
    return np.linalg.solve(np.eye(4) - K.reshape(*shape, 4, 4), vec).reshape(*shape, 2, 2)


def _outer(w: Array) -> Array:
    return w[..., :, None] * w[..., None, :]
