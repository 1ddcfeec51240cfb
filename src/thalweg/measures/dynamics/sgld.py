r"""Stochastic-gradient Langevin dynamics of a tempered posterior, held near a point.

.. math:: p(w) \propto \exp\bigl(-n\beta\, L_n(w) - \tfrac\gamma2 \lVert w - w^*\rVert^2\bigr)

C chains start at w*. Each step takes a batch of its own for every chain. The matrix A of
`thalweg.measures.dynamics.langevin` is :math:`(n\beta |H| + \gamma)^{-1}` along the Hessian's sharpest
directions at w*, and as small as theirs next along all others, so that one step suits all: without it the
sharpest direction sets the pace of the flattest.

**The step answers for itself.** After the burn-in the curvature is measured where the chains have come to,
which need not be that of w*: at a singular minimum that is nought. Where a step times curvature exceeds
`STIFFEST`, the burn-in is made anew from w* with a shorter one. At the end it is measured once more.

**Temperature.** For every direction v of such a law :math:`\mathrm E[(v^\top(w - w^*))\, (v^\top \nabla U)]
= |v|^2`, whatever U. Above one: the step or the batches' noise heats; below: that direction has not warmed
up yet. The last to do so are those that nothing but the localization holds, in some
:math:`1 / (h a \gamma)` steps, a being what A is for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.precision import full_precision
from thalweg.core.progress import Work
from thalweg.core.rng import generator
from thalweg.linalg.block_krylov import BlockKrylov
from thalweg.linalg.quadrature import lanczos_quadrature
from thalweg.measures.dynamics.batch_draws import BatchDraws
from thalweg.measures.dynamics.chain_gradients import ChainGradients
from thalweg.measures.dynamics.langevin import Langevin, LowRankScale
from thalweg.objective.evaluation import l2_term
from thalweg.objective.objective import Objective
from thalweg.operators.congruent import CongruentOperator
from thalweg.operators.hessian import Hessian

# Examples on which curvatures are measured that only set a step, and Lanczos steps for the largest one.
CURVATURE_EXAMPLES, CURVATURE_STEPS = 512, 12

# Step times curvature above which it is taken anew; stability ends at 2, and bias sets in before.
STIFFEST = 0.5

# How often, and what is left of a step that led to infinity.
MOST_ROUNDS, AFTER_DIVERGENCE = 12, 0.125


@dataclass(frozen=True)
class Posterior:
    """What is sampled.

    Parameters
    ----------
    objective
        L_n, its recalibrated statistics held constant, at w*.
    scale
        n beta.
    localization
        gamma, above nought.
    draws
        Of the batches.
    """

    objective: Objective
    scale: float
    localization: float
    draws: BatchDraws

    @property
    def is_full(self) -> bool:
        """Whether every batch holds all the examples."""
        return not self.draws.in_batches and self.draws.batch_size == self.draws.num_examples


@dataclass(frozen=True)
class Chains:
    """What C chains of T steps saw, at w* + x.

    Parameters
    ----------
    rises
        ``(T, C)`` float64: loss of each step's batch there, less that of the same batch at w*.
    sharp, all_directions
        ``(T, C)`` float64: temperature of the sharp directions, and of all.
    squares
        ``(T, C)`` float64: squared distance from w*.
    step, stiffness
        h as it was used, and h times the largest curvature where the chains ended.
    relaxation
        Steps in which a direction that the localization alone holds forgets where it began.
    burn_ins
        How many there were: all but the last with steps that were too long.
    diverged
        Whether no step was short enough, or a chain went off after the burn-in.
    """

    rises: Tensor
    sharp: Tensor
    all_directions: Tensor
    squares: Tensor
    step: float
    stiffness: float
    relaxation: float
    burn_ins: int
    diverged: bool


class Sampler:
    """Chains on one posterior.

    Parameters
    ----------
    posterior
        What is sampled.
    num_chains, num_directions
        C, and the sharpest directions that have a scale of their own, at most P.
    seed
        Of everything.
    work
        Counts examples.
    """

    def __init__(
        self, posterior: Posterior, num_chains: int, num_directions: int, *, seed: int, work: Work
    ) -> None:
        self.posterior, self.num_chains, self.seed, self.work = posterior, num_chains, seed, work
        objective = posterior.objective
        count = min(CURVATURE_EXAMPLES, objective.num_examples)
        self.hessian = Hessian(objective.subset(count, seed), on_examples=work.add)
        self.root = self._root(min(num_directions, objective.space.dim))
        together = False if posterior.draws.in_batches else None
        self.gradients = ChainGradients(objective, together)
        found = objective.evaluate_points([(objective.params, objective.buffers)])
        self._base = found.example_losses[0].double()
        self._penalty = l2_term(objective, objective.params)

    def _root(self, k: int) -> LowRankScale:
        """The square root of A, from Ritz vectors: what is constant need not be converged."""
        posterior, hessian = self.posterior, self.hessian
        nothing = torch.zeros(0, hessian.dim, dtype=hessian.dtype, device=hessian.device)
        num_steps = min(hessian.dim, max(2 * k + 1, CURVATURE_STEPS))
        rng = generator(self.seed, "sgld", "directions")
        krylov = BlockKrylov(hessian, nothing, 1, min(hessian.dim, num_steps + 1), rng)
        while krylov.num_steps < num_steps and not krylov.exhausted:
            krylov.step()
        values, vectors, _ = krylov.ritz()
        order = values.abs().argsort(descending=True)
        kept = order[:k]
        precisions = posterior.scale * values.abs() + posterior.localization
        V = krylov.basis.combine(vectors[:, kept]).T
        if len(order) > k:
            beyond = float(precisions[order[k]])
        elif len(order) < hessian.dim:
            # An invariant subspace has seen every eigenvalue, but not all their copies.
            beyond = float(precisions.max())
        else:
            beyond = posterior.localization
        return LowRankScale(V, precisions[kept].rsqrt(), beyond**-0.5)

    @property
    def directions(self) -> Tensor:
        """``(P, k)``: the sharp ones."""
        return self.root.directions

    def run(self, step: float, burn_in: int, num_steps: int) -> Chains:
        """Burn in, if need be with a shorter step, and sample."""
        start = self.posterior.objective.params.expand(self.num_chains, -1)
        batches = self._batches()
        for attempt in range(1, MOST_ROUNDS + 1):
            dynamics = self._dynamics(step, attempt)
            theta, _ = self._steps(start, dynamics, batches, burn_in)
            stiffness = self._stiffness(theta, step)
            if stiffness <= STIFFEST:
                theta, seen = self._steps(theta, dynamics, batches, num_steps)
                stiffness = self._stiffness(theta, step)
                return self._chains(seen, step, stiffness, attempt, not math.isfinite(stiffness))
            if attempt < MOST_ROUNDS:
                # To half of what is allowed, so that it is not met again a little farther on.
                step *= min(0.5, STIFFEST / 2 / stiffness) if math.isfinite(stiffness) else AFTER_DIVERGENCE
                self.work.expect(self.work.done + self.cost(burn_in + num_steps))
        return self._chains(self._nothing(num_steps), step, math.inf, MOST_ROUNDS, True)

    def cost(self, num_steps: int) -> int:
        """Examples that so many steps go through."""
        return num_steps * self.num_chains * self.posterior.draws.batch_size

    def _nothing(self, num_steps: int) -> Tensor:
        """``(4, T, C)``: nothing seen yet."""
        return torch.full((4, num_steps, self.num_chains), torch.nan, dtype=torch.float64)

    def _chains(self, seen: Tensor, step: float, stiffness: float, attempt: int, diverged: bool) -> Chains:
        rises, sharp, every, squares = seen
        relaxation = 1 / (step * self.root.rest**2 * self.posterior.localization)
        return Chains(rises, sharp, every, squares, step, stiffness, relaxation, attempt, diverged)

    def _dynamics(self, step: float, attempt: int) -> Langevin:
        return Langevin(step, 1.0, generator(self.seed, "sgld", "noise", attempt), self.root)

    def _batches(self) -> list[Iterator[Tensor]]:
        draws = self.posterior.draws
        return [draws(generator(self.seed, "sgld", "batches", c)) for c in range(self.num_chains)]

    def _steps(
        self, theta: Tensor, dynamics: Langevin, batches: list[Iterator[Tensor]], count: int
    ) -> tuple[Tensor, Tensor]:
        """Where chains come to, and ``(4, count, C)``: rises, the two temperatures, squared distances, before
        each step."""
        posterior, center = self.posterior, self.posterior.objective.params
        seen = self._nothing(count)
        for t in range(count):
            index = None if posterior.is_full else [next(each) for each in batches]
            losses, slopes = self.gradients(theta, index)
            means = [self._base.mean()] if index is None else [self._base[i].mean() for i in index]
            offset = theta - center
            force = posterior.scale * slopes + posterior.localization * offset
            if not bool(force.isfinite().all()):
                return torch.full_like(theta, torch.nan), seen
            with full_precision():
                along = (offset @ self.directions) * (force @ self.directions)
            seen[0, t] = losses - torch.stack(means) - self._penalty
            seen[1, t] = along.cpu().double().mean(1)
            seen[2, t] = (offset * force).mean(1).cpu().double()
            seen[3, t] = offset.square().sum(1).cpu().double()
            theta = dynamics(theta, force)
            self.work.add(self.cost(1))
        return theta, seen

    def _stiffness(self, theta: Tensor, step: float) -> float:
        """h times the largest curvature at any chain, in the coordinates of A; infinite where one is lost."""
        if not bool(theta.isfinite().all()):
            return math.inf
        most, posterior = 0.0, self.posterior
        data = self.hessian.objective
        for c, point in enumerate(theta):
            at = CongruentOperator(self.hessian.over(data.at(point)), self.root)
            rng = generator(self.seed, "sgld", "stiffness", c)
            try:
                nodes = lanczos_quadrature(at, 1, min(CURVATURE_STEPS, at.dim), rng=rng).nodes
            except NonFiniteLossError:
                return math.inf
            most = max(most, posterior.scale * float(nodes.max()))
        # The localization adds at most one in these coordinates, where every precision was scaled to one.
        return step * most
