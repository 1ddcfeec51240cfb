r"""Stochastic Lanczos quadrature: the spectrum of an operator as random vectors see it.

For a vector z uniform on the unit sphere, :math:`E\, z^\top f(A) z = \mathrm{tr} f(A) / P`. A block Krylov
process that starts from R of them holds each in its first block, z = Q r, and has

.. math:: z^\top f(A) z \approx r^\top f(T) r = \sum_i w_i f(\theta_i), \qquad
   w_i = (r^\top y_i)^2, \quad T y_i = \theta_i y_i, \quad T = Q^\top A Q,

exact for polynomials up to degree 2 M - 1 after M block products.

**One process for all probes, not one each.** At equal products the vectors share one space, R times larger,
so nodes are at least as accurate, and an eigenvalue that has converged is seen with all its copies (up to R).
The probes stay independent; what they share is the quadrature's error alone. Standard errors are those of
independent samples. The comparison is in `docs/curvature.md`, the recount in the tests.

**Vectors on the sphere**, not of signs: the certificate of `thalweg.linalg.certificate` wants a uniform
direction, and the part of such a vector in any invariant subspace is uniform there too. Hence:

**Eigenvalues that have converged are counted, not estimated.** That an eigenvector e carries the weight 1/P
is known; :math:`(z^\top e)^2` only estimates it, with a relative standard deviation of 1.4 for each probe,
and outliers dominate a trace. What is left of z is uniform on the complement of the counted eigenvectors, and
carries the rest of the weight. No more copies may be there than were counted, or the vectors found would be
z's own projections. R random vectors show R copies; so a group of fewer than R is whole.

References
----------
Golub and Meurant (2010), Matrices, Moments and Quadrature; Ubaru, Chen and Saad (2017), SIAM J. Matrix Anal.
Appl. 38(4), 1075-1099; Lin, Saad and Yang (2016), SIAM Review 58(1), 34-65.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from thalweg.linalg.block_krylov import BlockKrylov
from thalweg.linalg.estimate import Estimate
from thalweg.linalg.linear_operator import LinearOperator

# An eigenvector is known once its residual is this many times below its distance to the rest of the spectrum:
# its angle to the Ritz vector is at most the inverse (Davis and Kahan 1970).
SEPARATION = 30.0


@dataclass(frozen=True)
class SpectralQuadrature:
    """Nodes, and their weights as each probe sees them.

    Parameters
    ----------
    dim
        P.
    nodes, residuals
        ``(n,)`` float64 Ritz values, descending within each process, and their residuals.
    weights
        ``(R, n)``, each row sums to 1: with converged eigenvalues counted.
    raw_weights
        ``(R, n)``: without.
    coarse_nodes, coarse_weights
        ``(m,)``, ``(R, m)``: the same as `nodes`, `raw_weights` after half of the steps; what changed since
        tells how far the steps suffice.
    resolution
        Rounding of the products: nodes closer than this are one.
    num_counted
        Eigenvalues counted (the least of the processes).
    num_matvecs
        Columns multiplied.
    """

    dim: int
    nodes: Tensor
    residuals: Tensor
    weights: Tensor
    raw_weights: Tensor
    coarse_nodes: Tensor
    coarse_weights: Tensor
    resolution: float
    num_counted: int
    num_matvecs: int

    def samples(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """``(R, ...)``: each probe's estimate of ``tr f(A) / P``, for f from ``(n,)`` to ``(..., n)``."""
        return _averages(f(self.nodes), self.weights)

    def solver_error(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """``(...)``: how far the mean over the probes has moved since half of the steps.

        Where quadrature converges geometrically, as for smooth f, the error left is far below this, about
        its square; it is an estimate, no bound, where f jumps.
        """
        fine, coarse = (
            _averages(f(nodes), weights).mean(0)
            for nodes, weights in (
                (self.nodes, self.raw_weights),
                (self.coarse_nodes, self.coarse_weights),
            )
        )
        return (fine - coarse).abs()

    def mean(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        """``tr f(A) / P`` for f from ``(n,)`` to ``(..., n)``."""
        return Estimate.of(self.samples(f), self.solver_error(f))

    def share(self, low: float, high: float) -> Estimate:
        """Share of the eigenvalues from `low` to `high`, both included.

        A node stands for its neighbourhood. Where an end lies in the spectrum, ``solver`` is the weight of
        the nodes beside it whose eigenvalues may lie across it: the nearest of each probe, but for those that
        have converged where they are (Chebyshev, Markov and Stieltjes: one node's weight bounds the error of
        a distribution function).
        """

        def inside(nodes: Tensor) -> Tensor:
            return ((nodes >= low) & (nodes <= high)).double()

        solver = torch.zeros((), dtype=torch.float64)
        for end in (low, high):
            solver += max(self._beside(end, 1), self._beside(end, -1))
        share = Estimate.of(self.samples(inside), torch.maximum(solver, self.solver_error(inside)))
        return dataclasses.replace(share, support=(0.0, 1.0))

    def _beside(self, point: float, sign: int) -> float:
        """Weight of the R nodes nearest to a point on one side, without those known to stay there."""
        distance = sign * (self.nodes - point)
        near = (distance >= 0).nonzero()[:, 0]
        near = near[distance[near].argsort()[: len(self.weights)]]
        residuals = self.residuals[near]
        near = near[(residuals > self.resolution) & (SEPARATION * residuals >= distance[near])]
        return float(self.weights[:, near].sum(1).mean())


class ProbeProcess:
    """One block process from random vectors, and the quadrature it gives.

    Parameters
    ----------
    operator
        A, symmetric.
    num_probes
        R, random vectors in the first block.
    num_steps
        M, block products at the most.
    rng
        CPU generator of the random vectors.
    max_memory_bytes
        Bound on the basis, ``R (M + 1)`` vectors, and a product and its copy, ``2 R``.

    Raises
    ------
    ValueError
        If the memory does not hold them.
    """

    def __init__(
        self,
        operator: LinearOperator,
        num_probes: int,
        num_steps: int,
        rng: torch.Generator,
        max_memory_bytes: int = 2 << 30,
    ) -> None:
        needed = vectors_held(operator.dim, num_probes, num_steps) * operator.bytes_per_vector
        if needed > max_memory_bytes:
            raise ValueError(
                f"`max_memory_bytes` must hold {num_steps} steps of {num_probes} probes, got "
                f"{max_memory_bytes:,}: they need {needed:,} bytes. Take fewer, or raise it."
            )
        nothing = torch.zeros(0, operator.dim, dtype=operator.dtype, device=operator.device)
        capacity = min(operator.dim, num_probes * (num_steps + 1))
        self.krylov = BlockKrylov(operator, nothing, num_probes, capacity, rng)
        self.num_steps = num_steps
        self.first_block = self.krylov.num_pending
        # Unit vectors: the length of a Gaussian vector is noise that says nothing of A.
        directions = self.krylov.directions
        self.starts = directions / torch.linalg.vector_norm(directions, dim=0)
        self._sizes: list[int] = [0]  # vectors multiplied after each step

    @property
    def finished(self) -> bool:
        """Whether all steps were made, or nothing is left to multiply."""
        return self.krylov.num_steps == self.num_steps or self.krylov.exhausted

    def step(self) -> None:
        """One block product."""
        self.krylov.step()
        self._sizes.append(self.krylov.num_multiplied)

    def run(self) -> None:
        """All steps."""
        while not self.finished:
            self.step()

    def counted(self, values: Tensor, residuals: Tensor) -> Tensor:
        """Which Ritz pairs ``(n,)`` are eigenpairs whose copies have all been found."""
        if self.krylov.complete:
            return torch.ones(len(values), dtype=torch.bool)
        counted = torch.zeros(len(values), dtype=torch.bool)
        gaps = values[:-1] - values[1:]
        is_end = gaps > SEPARATION * torch.maximum(residuals[:-1], residuals[1:])
        ends = [0, *(is_end.nonzero()[:, 0] + 1).tolist(), len(values)]
        for start, stop in pairwise(ends):
            group = residuals[start:stop]
            distance = gaps[[i for i in (start - 1, stop - 1) if 0 <= i < len(gaps)]]
            apart = bool((distance > SEPARATION * group.max()).all())
            counted[start:stop] = apart and stop - start < self.starts.shape[1]
        return counted

    def counted_and_beside(self) -> tuple[Tensor, Tensor, Tensor]:
        """Counted eigenvalues ``(c,)``, their vectors ``(n, c)``, and the probes beside them ``(n, R)``.

        In the basis, of the vectors multiplied. What is beside is uniform there, of unit length, and nought
        where nothing is.
        """
        values, vectors, residuals = self.krylov.ritz()
        is_counted = self.counted(values, residuals)
        known = vectors[:, is_counted]
        y = vectors.new_zeros(len(values), self.starts.shape[1])
        if not bool(is_counted.all()):
            y[: self.first_block] = self.starts
            y -= known @ (known.T @ y)
            y /= torch.linalg.vector_norm(y, dim=0)
        return values[is_counted], known, y

    def quadrature(self) -> SpectralQuadrature:
        """Nodes and weights after the steps made so far."""
        krylov = self.krylov
        values, vectors, residuals = krylov.ritz()
        raw = (self.starts.T @ vectors[: self.first_block]).square()
        raw /= raw.sum(1, keepdim=True)
        counted = self.counted(values, residuals)
        weights = raw
        if bool(counted.all()) and krylov.complete:
            weights = torch.full_like(raw, 1 / krylov.operator.dim)
        elif bool(counted.any()):
            share = float(counted.sum()) / krylov.operator.dim
            weights = torch.where(counted, 0.0, raw)
            weights *= (1 - share) / weights.sum(1, keepdim=True)
            weights[:, counted] = 1 / krylov.operator.dim
        # An invariant subspace gives every f exactly, whatever half of the steps said.
        half = len(values) if krylov.exhausted else self._sizes[max(1, (len(self._sizes) - 1) // 2)]
        T = krylov.H[:half, :half]
        coarse_values, coarse_vectors = torch.linalg.eigh((T + T.T) / 2)
        coarse = (self.starts.T @ coarse_vectors[: self.first_block]).square()
        return SpectralQuadrature(
            dim=krylov.operator.dim,
            nodes=values,
            residuals=residuals,
            weights=weights,
            raw_weights=raw,
            coarse_nodes=coarse_values.flip(0),
            coarse_weights=coarse.flip(1) / coarse.sum(1, keepdim=True),
            resolution=krylov.slack + krylov.noise,
            num_counted=int(counted.sum()),
            num_matvecs=krylov.num_matvecs,
        )


def lanczos_quadrature(
    operator: LinearOperator,
    num_probes: int,
    num_steps: int,
    *,
    rng: torch.Generator,
    probes_together: int | None = None,
    max_memory_bytes: int = 2 << 30,
) -> SpectralQuadrature:
    """Quadrature from R probes of M steps, as many of them in one process as the memory holds.

    Parameters
    ----------
    operator
        A, symmetric.
    num_probes, num_steps
        R and M; R M products, fewer where the space is exhausted.
    rng
        CPU generator of the random vectors.
    probes_together
        Probes in one process at the most. Default: all.
    max_memory_bytes
        Bound on the basis and what is beside it; processes then run one after another.

    Raises
    ------
    ValueError
        If the memory does not hold one probe.
    NonFiniteLossError
        A product is not finite.
    """
    fit = num_probes if probes_together is None else min(num_probes, probes_together)
    while fit > 1 and vectors_held(operator.dim, fit, num_steps) * operator.bytes_per_vector > (
        max_memory_bytes
    ):
        fit -= 1
    # Of much the same size: a lone probe at the end would count no eigenvalue.
    num_processes = math.ceil(num_probes / fit)
    parts = []
    for i in range(num_processes):
        together = (num_probes + i) // num_processes
        process = ProbeProcess(operator, together, num_steps, rng, max_memory_bytes)
        process.run()
        parts.append(process.quadrature())
    return parts[0] if len(parts) == 1 else _joined(parts)


def vectors_held(dim: int, num_probes: int, num_steps: int) -> int:
    """Vectors of length P that a process holds at its peak."""
    return min(dim, num_probes * (num_steps + 1)) + 2 * num_probes


def _averages(values: Tensor, weights: Tensor) -> Tensor:
    """``(R, ...)`` from values ``(..., n)`` and weights ``(R, n)``."""
    return (values @ weights.T).movedim(-1, 0)


def _joined(parts: list[SpectralQuadrature]) -> SpectralQuadrature:
    return SpectralQuadrature(
        dim=parts[0].dim,
        nodes=torch.cat([part.nodes for part in parts]),
        residuals=torch.cat([part.residuals for part in parts]),
        weights=torch.block_diag(*(part.weights for part in parts)),
        raw_weights=torch.block_diag(*(part.raw_weights for part in parts)),
        coarse_nodes=torch.cat([part.coarse_nodes for part in parts]),
        coarse_weights=torch.block_diag(*(part.coarse_weights for part in parts)),
        resolution=max(part.resolution for part in parts),
        num_counted=min(part.num_counted for part in parts),
        num_matvecs=sum(part.num_matvecs for part in parts),
    )
