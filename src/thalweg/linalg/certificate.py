r"""How large can an eigenvalue be that a Lanczos run has not seen? A bound that fails with a known
probability.

A Ritz value never exceeds the largest eigenvalue, but nothing deterministic bounds that eigenvalue from
above: its eigenvector e may be orthogonal to the whole Krylov space. A random start makes that improbable.
Let z be uniform on the unit sphere of d dimensions, let :math:`\alpha_j, \beta_j` and the orthonormal
:math:`v_0 = z, v_1, \dots, v_n` be its n Lanczos steps on B, and let :math:`B e = \lambda e`. The
coefficients :math:`s_j = v_j^\top e` obey

.. math:: \beta_j s_{j+1} = (\lambda - \alpha_j) s_j - \beta_{j-1} s_{j-1}, \qquad \sum_j s_j^2 \le 1 .

Beyond the largest Ritz value every :math:`s_j / s_0` is positive and grows with :math:`\lambda`; and
:math:`s_0^2 \sim \mathrm{Beta}(1/2, (d-1)/2)` is at least c^2, its own quantile at level delta, with
probability 1 - delta. So a :math:`\lambda` at which c alone makes the sum exceed 1 is excluded, and every
larger one with it. The exclusion is a fact about B and z: it may be read off after any number of steps,
chosen in any way.

**Rounding.** A product comes with an error, of at most eta along e. With the worst signs,

.. math:: u_0 = c, \qquad \beta_j u_{j+1} = (\lambda - \alpha_j) u_j - \beta_{j-1} u_{j-1} - \eta ,

and as long as no :math:`u_j` is negative they too bound the coefficients from below and grow with
:math:`\lambda`.

**Warm vectors** W do not depend on z, so they may be taken out, and those with a small residual are. B is
then A confined to their complement, z the part of the random vector that lies there (still uniform), and B's
Krylov space lies in the block Krylov space of A, so the recurrence costs no further product. From B <= mu
follows

.. math:: \lambda_{\max}(A) \le \lambda_{\max} \begin{pmatrix} W^\top A W & C^\top \\ C & \mu I \end{pmatrix},
   \qquad C = A W - W W^\top A W .

That bound gains in few steps what it loses, to C, in many. The one without deflation is
followed as well, the probability divided between them, and the smaller is stated.

**Warm vectors in the same columns**: a chain may start from w + r, with r uniform in direction and w
independent of it. Then :math:`|e^\top (w + r)| = |a + e^\top r|` for some number a, and of all intervals of
one length the likeliest for :math:`e^\top r` is that around nought, its density being symmetric and unimodal
for d >= 3. So the component is at least :math:`c\, \|r\| / \|w + r\|` with probability 1 - delta or more,
whatever w is (Anderson 1955, in one dimension). Rounding weighs more here: beyond the eigenvalue of w, by
little, the first two terms of the recurrence nearly cancel.

**Several random vectors** fail independently: each need only hold at level :math:`\delta^{1/R}`.

References
----------
van Dorsselaer, Hochstenbach and van der Vorst (2000), SIAM J. Matrix Anal. Appl. 22(3), 837-852 (one vector,
the last polynomial alone); Kuczynski and Wozniakowski (1992), SIAM J. Matrix Anal. Appl. 13(4), 1094-1122;
Anderson (1955), Proc. Amer. Math. Soc. 6(2), 170-176.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy
import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction
from thalweg.linalg.block_krylov import BlockKrylov
from thalweg.linalg.eigen_solution import SpectralBound

# A warm Ritz vector is taken out when its residual is below this part of the largest warm Ritz value: beyond,
# the coupling C costs more than deflation gains. The choice does not look at the random vectors; it must not.
DEFLATION_RESIDUAL = 0.1

# How the probability of failure is divided between the recurrences with and without deflation: the second
# matters after many steps, when a smaller share costs next to nothing. A cold start leaves it as a margin.
SHARES = (0.75, 0.25)


class RandomStartCertificate:
    """The Lanczos recurrences of a block process's random vectors, and the bounds that follow from them.

    Parameters
    ----------
    num_warm
        The first this many basis vectors do not depend on the random ones.
    directions
        ``(size of the first block, R)``: the Gaussian vectors' coordinates in the first block, R >= 1.
    dim
        P.
    confidence
        Probability, over the random vectors, with which all bounds read off hold together; in (0, 1).
    num_ends
        Ends of the spectrum, 1 or 2, at which bounds are read off.
    random_shares
        ``(R,)``: the random part's length over the whole, of each direction. Default: all is random.
    """

    def __init__(
        self,
        num_warm: int,
        directions: Tensor,
        dim: int,
        confidence: float = 0.99,
        num_ends: int = 1,
        random_shares: Tensor | None = None,
    ) -> None:
        check_fraction("confidence", confidence, "0.99 is customary")
        self.confidence = confidence
        self._num_warm, self._directions, self._dim = num_warm, directions, dim
        self._num_ends, self._noise = num_ends, 0.0
        # Below three dimensions a component near nought is not the likeliest, and nothing can be said.
        shares = torch.ones(directions.shape[1]) if random_shares is None else random_shares
        self._shares = (shares if dim >= 3 else shares * (shares == 1)).tolist()
        self._families: list[_Family] = []

    def extend(self, H: Tensor, noise: float) -> None:
        r"""Lengthen the recurrences by the block product just made.

        Parameters
        ----------
        H
            :math:`[Q, Q_+]^\top A Q`, ``(n + b, n)`` float64, of a process that was not restarted.
        noise
            Bound on the error of a product in one direction, in the unit of A.
        """
        self._noise = noise
        if not self._families:
            nothing = torch.zeros(len(self._directions), 0, dtype=torch.float64)
            none = torch.zeros(0, 0, dtype=torch.float64)
            self._families.append(_Family(self._directions, nothing, none, self._shares))
            if self._num_warm:
                self._deflate(H)
        for family in self._families:
            for chain in family.chains:
                chain.extend(H, family.deflated, noise)

    def upper_bound(self) -> float:
        """Bound on the largest eigenvalue from above."""
        return self._bound(1)

    def lower_bound(self) -> float:
        """Bound on the smallest eigenvalue from below."""
        return -self._bound(-1)

    def bounds(
        self, process: BlockKrylov, highest: float, lowest: float
    ) -> tuple[SpectralBound, SpectralBound]:
        """Of the largest and of the smallest eigenvalue, with the rounding that was seen allowed for.

        Parameters
        ----------
        process
            The one whose products were followed. Where its basis is the whole space, or the form of its
            operator says what no eigenvalue lies below, no chance is left.
        highest, lowest
            Its extreme Ritz values.
        """
        slack = process.slack + process.noise
        upper, lower, level = highest, lowest, 1.0
        if not process.complete:
            level = self.confidence
            upper, lower = max(self.upper_bound(), highest), min(self.lower_bound(), lowest)
        top = SpectralBound(highest - slack, upper + slack, level)
        bottom = SpectralBound(lower - slack, lowest + slack, level)
        least = process.operator.least_eigenvalue
        if -math.inf < least >= bottom.lower:
            bottom = SpectralBound(min(lowest, least), bottom.upper, 1.0)
        return top, bottom

    def _deflate(self, H: Tensor) -> None:
        """Add the family without the warm Ritz vectors of small residual, chosen by their residuals alone."""
        W = self._num_warm
        values, vectors = torch.linalg.eigh((H[:W, :W] + H[:W, :W].T) / 2)
        coupling = H[W:, :W] @ vectors
        small = torch.linalg.vector_norm(coupling, dim=0) <= DEFLATION_RESIDUAL * float(values.abs().max())
        if not bool(small.any()):
            return
        deflated = torch.zeros(len(self._directions), int(small.sum()), dtype=torch.float64)
        deflated[:W] = vectors[:, small]
        factor = torch.linalg.qr(coupling[:, small], mode="r").R  # C^T C = R^T R
        block = torch.cat([torch.diag(values[small]), factor])
        self._families.append(_Family(self._directions, deflated, block, self._shares))

    def _bound(self, sign: int) -> float:
        # The smallest bound holds if no family fails at any end.
        delta = (1 - self.confidence) / self._num_ends
        shares = SHARES if len(self._families) == len(SHARES) else SHARES[:1]
        return min(
            family.bound(self._dim, share * delta, self._noise, sign)
            for family, share in zip(reversed(self._families), shares, strict=True)
        )


class _Family:
    """The chains of all random vectors on A, or on A without some warm vectors.

    Parameters
    ----------
    directions
        As in `RandomStartCertificate`.
    deflated
        Orthonormal columns in the first block's coordinates, those that are taken out; possibly none.
    block
        Their W^T A W over the R factor of C.
    shares
        The `random_shares`.
    """

    def __init__(self, directions: Tensor, deflated: Tensor, block: Tensor, shares: Sequence[float]) -> None:
        self.deflated, self.block = deflated, block
        starts = directions - deflated @ (deflated.T @ directions)
        self.chains = [
            _Chain(start / torch.linalg.vector_norm(start), share)
            for start, share in zip(starts.T, shares, strict=True)
        ]

    def bound(self, dim: int, delta: float, noise: float, sign: int) -> float:
        """Bound on the largest eigenvalue of sign * A that fails with probability `delta`."""
        num_deflated = self.deflated.shape[1]
        complement = dim - num_deflated
        level = delta ** (1 / len(self.chains))
        tail = scipy.special.betaincinv(0.5, (complement - 1) / 2, level) if complement > 1 else 1.0
        component = math.sqrt(tail)
        mu = max(chain.smallest_excluded(component, noise, sign) for chain in self.chains)
        if not num_deflated:
            return mu
        block = mu * torch.eye(len(self.block), dtype=torch.float64)
        block[:, :num_deflated] = sign * self.block
        block[:num_deflated] = block[:, :num_deflated].T
        return float(torch.linalg.eigvalsh(block)[-1]) + noise * math.sqrt(num_deflated)


class _Chain:
    """One random vector's Lanczos recurrence, in the coordinates of the growing basis.

    It is lengthened as the basis grows and never recomputed: run afresh on the finished H it would drift away
    from the true recurrence as soon as a Ritz value has converged.
    """

    def __init__(self, start: Tensor, random_share: float) -> None:
        self.vectors, self.random_share = start[:, None], random_share
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.exhausted = False

    def extend(self, H: Tensor, deflated: Tensor, noise: float) -> None:
        if self.exhausted:
            return
        last = self.vectors[:, -1]
        image = H[:, : len(last)] @ last
        image[: len(deflated)] -= deflated @ (deflated.T @ image[: len(deflated)])
        self.vectors = torch.cat(
            [self.vectors, self.vectors.new_zeros(len(H) - len(last), len(self.alphas) + 1)]
        )
        self.alphas.append(float(self.vectors[:, -1] @ image))
        for _ in range(2):
            image = image - self.vectors @ (self.vectors.T @ image)
        self.betas.append(float(torch.linalg.vector_norm(image)))
        # What is left of an exhausted chain is rounding. Cutting a chain short is always allowed.
        self.exhausted = self.betas[-1] <= 16 * noise or len(self.alphas) == len(H)
        if not self.exhausted:
            self.vectors = torch.cat([self.vectors, image[:, None] / self.betas[-1]], 1)

    def smallest_excluded(self, component: float, noise: float, sign: int) -> float:
        """Smallest lambda, to 1e-9 of the scale and from above, that is excluded for sign * B.

        `component` is the least that the random part has along an eigenvector, were its length 1.
        """
        component *= self.random_share
        n = len(self.alphas)
        alphas = [sign * alpha for alpha in self.alphas]
        T = torch.diag(torch.tensor(alphas, dtype=torch.float64))
        for j, beta in enumerate(self.betas[: n - 1]):
            T[j, j + 1] = T[j + 1, j] = beta
        ritz = torch.linalg.eigvalsh(T)
        low, scale = float(ritz[-1]), max(float(ritz.abs().max()), max(self.betas))
        if component == 0:
            return math.inf
        if scale == 0:
            return 0.0  # B z = 0, so B e = 0 for every e that z has a part of
        # |s_j| <= 1, so a coupling below the noise may be read as one of its size.
        betas = [max(beta, noise, 1e-16 * scale) for beta in self.betas]
        least = step = 1e-9 * scale
        while not _excluded(low + step, alphas, betas, component, noise):
            step *= 2
        lo, hi = low + (step / 2 if step > least else 0.0), low + step
        while hi - lo > max(least, 1e-12 * hi):
            middle = (lo + hi) / 2
            if _excluded(middle, alphas, betas, component, noise):
                hi = middle
            else:
                lo = middle
        return hi


def _excluded(value: float, alphas: list[float], betas: list[float], component: float, noise: float) -> bool:
    """Whether an eigenvector of `value` with that component along z would have a norm above 1."""
    before, now, total = 0.0, component, component**2
    for j, alpha in enumerate(alphas):
        source = (value - alpha) * now - (betas[j - 1] * before if j else 0.0) - noise
        before, now = now, source / betas[j]
        if now < 0:
            return False
        total += now**2
        if total > 1:
            return True
    return False
