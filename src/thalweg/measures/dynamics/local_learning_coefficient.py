r"""The local learning coefficient: how many parameters a minimum really has, degenerate directions minded.

The volume of parameters within :math:`\epsilon` of a minimum's loss goes as :math:`\epsilon^{\lambda}`, up to
logarithms. Of a regular minimum :math:`\lambda = d/2`; of a degenerate one it is smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_positive
from thalweg.core.distributions import f_tail
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import stream_seed
from thalweg.measures.dynamics.batch_draws import BatchDraws
from thalweg.measures.dynamics.settled import DIVERGED, DRIFT_LEVEL, MIN_EFFECTIVE_SIZE, STATIONARY, Criteria
from thalweg.measures.dynamics.sgld import STIFFEST, Chains, Posterior, Sampler
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.stats.autocorrelation import CorrelatedMean, correlated_mean, drift

# The least precision that chains are held by, unless another is given.
LOCALIZATION = 100.0

# A temperature is told from one where it surely differs by more than this.
TEMPERATURE_TOLERANCE = 0.1

# How far chains may be from w*, in parts of |w*|: by default warm ones are at about one.
FARTHEST = 1.1

# A burn-in of so many relaxations leaves 2 % of a flat direction's temperature to come.
WARM = 2

# The fourth outcome, beside those of `thalweg.measures.dynamics.settled`.
COLD = "not warmed up"


@dataclass(frozen=True, kw_only=True, repr=False)
class LocalLearningCoefficient(Measurement):
    r"""Estimate :math:`\hat\lambda = n\beta\,(\mathrm E[L_n(w)] - L_n(w^*))`, a pure number.

    ``error.probe`` is the chance of the chains, their correlation minded. What a finite localization leaves
    out and what a step adds are no errors of chance: see `sharp_temperature` and the page on the stationary
    law.

    Parameters
    ----------
    outcome
        ``"stationary"``; ``"not stationary"``: the loss drifts, or the chains disagree; ``"too short"``:
        together they are worth less than `min_effective_size` independent samples; ``"not warmed up"``: none
        of these, and yet `temperature` is surely below one, so that flat directions are not in the value;
        ``"diverged"``: the value is NaN.
    inverse_temperature, localization, step, batch_size, burn_in, num_steps
        beta, gamma, h as it was used in the end, B, and steps of each chain.
    num_burn_ins
        How many burn-ins it took until the step was short enough.
    stiffness
        h times the largest curvature where the chains ended: 2 is unstable, above 0.5 the step is too long.
    sharp_temperature, sharp_temperature_error
        Mean temperature along the sharp directions, which is one: above by the step or the batches' noise.
        NaN where `num_directions` is 0.
    temperature, temperature_error
        The same of all directions: below one where flat ones have not warmed up.
    relaxation
        Steps in which directions that only the localization holds forget where they began: the burn-in should
        have twice as many.
    distance, radius
        Root of the mean squared distance of the chains from w*, and |w*|. Chains that are farther from w*
        than it is from nought sample another place.
    effective_size, drift, chain_spread
        Independent samples of all chains together; p-values of one mean loss throughout, and of one for all
        chains.
    loss
        L_n(w*).
    chain_values, chain_errors
        ``(C,)`` float64: the estimate by each chain, and its standard error.
    rises
        ``(T, C)`` float64: rise of the loss at each step, of that step's batch.
    """

    measure: ClassVar[str] = "local_learning_coefficient"
    quantity: ClassVar[str] = "learning coefficient"
    per_part: ClassVar[tuple[str, ...]] = ("chain_values", "chain_errors")

    outcome: str
    inverse_temperature: float
    localization: float
    step: float
    batch_size: int
    burn_in: int
    num_steps: int
    num_burn_ins: int
    stiffness: float
    sharp_temperature: float
    sharp_temperature_error: float
    temperature: float
    temperature_error: float
    relaxation: float
    distance: float
    radius: float
    effective_size: float
    drift: float
    chain_spread: float
    loss: float
    chain_values: Tensor
    chain_errors: Tensor
    rises: Tensor

    @property
    def is_stationary(self) -> bool:
        """Whether neither a drift nor the temperature speaks against it; `warnings` has all that does."""
        return self.outcome == STATIONARY

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against taking the value for a learning coefficient; none if nothing does."""
        if self.outcome == DIVERGED:
            return ("a chain went to infinity: give a smaller step or a larger localization",)
        found = []
        if self.interval(0.95)[1] < 0:
            found.append("negative: the point is no minimum, train it further")
        elif self.value < 0:
            found.append("negative, within its error")
        if is_cold(self.temperature, self.temperature_error):
            # NaN in records from before it was written down.
            steps = WARM * self.relaxation
            longer = f"burn_in of {math.ceil(steps):,} steps" if math.isfinite(steps) else "longer burn_in"
            found.append(
                f"all directions at {self.temperature:.2f} of their temperature: flat ones take a "
                f"{longer}, or give a larger localization"
            )
        if self.outcome not in (STATIONARY, COLD):
            found.append(f"{self.outcome}: give a longer burn_in, more num_steps or a larger localization")
        if self.distance > FARTHEST * self.radius > 0:
            found.append(
                f"chains {self.distance:.3g} from the point, which is {self.radius:.3g} from nought: another "
                "place is sampled, give a larger localization"
            )
        if self.stiffness > STIFFEST:
            found.append(f"step too long: {self.stiffness:.2g} of curvature, give a smaller step")
        remedy = "give a smaller step or larger batches"
        if _is_hot(self.sharp_temperature, self.sharp_temperature_error):
            found.append(f"sharp directions at {self.sharp_temperature:.2f} of their temperature: {remedy}")
        elif _is_hot(self.temperature, self.temperature_error):
            found.append(f"all directions at {self.temperature:.2f} of their temperature: {remedy}")
        return tuple(found)

    @property
    def notes(self) -> list[str]:
        """What a picture must say besides."""
        beta, gamma = f"β = {self.inverse_temperature:.3g}", f"γ = {self.localization:g}"
        return [f"{beta}, {gamma}, step {self.step:.3g}, batches of {self.batch_size}", *self.warnings]

    def _circumstances(self) -> list[str]:
        first, *more = self.warnings or ("",)
        rest = f" (and {len(more)} more warning{'s' * (len(more) > 1)})" if more else ""
        outcome = [] if first.startswith(self.outcome) else [self.outcome]
        return [*outcome, *([first + rest] if first else []), *super()._circumstances()]


def is_cold(temperature: float, error: float) -> bool:
    """Whether it is surely below one, what it is at stationarity whatever the loss."""
    return temperature < 1 - TEMPERATURE_TOLERANCE - 2 * error


def _is_hot(temperature: float, error: float) -> bool:
    return temperature > 1 + TEMPERATURE_TOLERANCE + 2 * error


def local_learning_coefficient(
    objective: Objective,
    *,
    inverse_temperature: float | None = None,
    localization: float | None = None,
    step: float = 0.1,
    batch_size: int | None = None,
    num_chains: int = 4,
    burn_in: int = 120,
    num_steps: int = 150,
    num_directions: int = 16,
    drift_level: float = DRIFT_LEVEL,
    min_effective_size: float = MIN_EFFECTIVE_SIZE,
    seed: int,
    progress: Progress | None = None,
) -> LocalLearningCoefficient:
    r"""Estimate the local learning coefficient at the objective's point by Langevin dynamics on batches.

    .. math:: \hat\lambda = n\beta\, \bigl(\mathrm E[L_n(w)] - L_n(w^*)\bigr), \qquad
       w \sim \exp\bigl(-n\beta\, L_n(w) - \tfrac\gamma2 \lVert w - w^*\rVert^2\bigr)

    The loss should be a negative log-likelihood, and the point a minimum. On a quadratic with curvatures
    h_i it is :math:`\frac12 \sum_i h_i / (h_i + \gamma / n\beta)`, half the effective dimension at the
    damping :math:`\gamma / n\beta`: d/2 for a small gamma, and less the more directions are flatter than
    that. Compare only estimates with the same n, beta and gamma.

    L_n is the objective's own function, L2 term and all: take ``objective.without_decay()`` for the
    likelihood alone. Statistics are constant in ``"running"`` and ``"recalibrated"`` mode, the latter's
    those of the point; under batch statistics the loss belongs to the partition, of which a step then takes
    one whole batch: that function has a coefficient like any other, but its loss is no likelihood of single
    examples.

    The rise of the loss is that of each step's batch over the same batch at w*, which the batch's choice
    hardly moves. How the step and the matrix are chosen is in `thalweg.measures.dynamics.sgld`.

    The cost, in gradients of one example: C B for each step, of ``burn_in + num_steps`` and of each burn-in
    that is made anew; and, on at most 512 of the examples, some ``3 * (2 * num_directions + 1)`` each for the
    directions and ``36 * C`` each for the curvature after every burn-in and at the end.

    Parameters
    ----------
    objective
        Mean loss over n examples, at w*.
    inverse_temperature
        beta. Default: 1 / log n, Watanabe's.
    localization
        gamma, in 1 / parameter^2: as a Gaussian prior about w* of that precision. Along directions that
        nothing else holds chains wander by the root of P / gamma together. Default: 100, or P / |w*|^2 where
        that is more, with which they do not go farther than w* is from nought. To compare networks give one.
    step
        h, in parts of the inverse curvature, at the most: it is made shorter where chains come to sharper
        places.
    batch_size
        B, at most n; under batch statistics the objective's own. Default: the objective's own, at most n.
    num_chains, burn_in, num_steps
        C, and the steps of each that do not count, and do, at least 16 of these.
    num_directions
        Sharp directions that get a scale of their own; 0 is plain SGLD, for which `step` is in parts of the
        inverse of the largest curvature.
    drift_level, min_effective_size
        When the chains count as stationary; see ``sgd_temperature``.
    seed
        Of the batches, the noise and the start vectors.
    progress
        Called with work done and an estimate of the whole, in examples.

    Raises
    ------
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss is not finite at the point.
    ValueError
        If an argument is out of range, or there are fewer than three examples and no `inverse_temperature`.

    References
    ----------
    Lau et al. (2023), arXiv:2308.12108: the estimate. Watanabe (2013), JMLR 14, 867-897: 1 / log n. Welling
    and Teh (2011), ICML: the dynamics.
    """
    check_objective("objective", objective)
    beta = _inverse_temperature(objective, inverse_temperature)
    gamma = _localization(objective, localization)
    check_positive("step", step, "0.1 is customary")
    if step >= 2:
        raise ValueError(
            f"`step` must be below 2, where the dynamics become unstable, got {step}; 0.1 is customary."
        )
    for name, count, least in (
        ("num_chains", num_chains, 1),
        ("burn_in", burn_in, 1),
        ("num_steps", num_steps, 16),
        ("num_directions", num_directions, 0),
    ):
        check_count(name, count, least)
    criteria = Criteria(drift_level, min_effective_size)
    stream_seed(seed)
    loss = objective.value()
    whole = BatchDraws.of(objective, batch_size, "replacement")
    sampling = "replacement" if whole.in_batches else "without_replacement"
    draws = BatchDraws.of(objective, batch_size, sampling)
    posterior = Posterior(objective.frozen(), beta * objective.num_examples, gamma, draws)
    work = Work(progress, (burn_in + num_steps) * num_chains * draws.batch_size)
    sampler = Sampler(posterior, num_chains, num_directions, seed=seed, work=work)
    work.expect(work.done + sampler.cost(burn_in + num_steps))
    chains = sampler.run(float(step), burn_in, num_steps)
    work.finish()
    return LocalLearningCoefficient(
        **_estimates(chains, posterior.scale, criteria),
        provenance={
            "function": "local_learning_coefficient",
            "arguments": {
                "inverse_temperature": inverse_temperature,
                "localization": localization,
                "step": step,
                "batch_size": batch_size,
                "num_chains": num_chains,
                "burn_in": burn_in,
                "num_steps": num_steps,
                "num_directions": num_directions,
                "drift_level": drift_level,
                "min_effective_size": min_effective_size,
                "seed": seed,
            },
            "objective": objective.describe(),
            "operator": sampler.hessian.check.to_dict(),
        },
        inverse_temperature=beta,
        localization=gamma,
        step=chains.step,
        batch_size=draws.batch_size,
        burn_in=burn_in,
        num_steps=num_steps,
        num_burn_ins=chains.burn_ins,
        stiffness=chains.stiffness,
        relaxation=chains.relaxation,
        distance=math.sqrt(float(chains.squares.mean())),
        radius=_radius(objective),
        loss=loss,
        rises=chains.rises,
    )


def _inverse_temperature(objective: Objective, asked: float | None) -> float:
    if asked is not None:
        check_positive("inverse_temperature", asked, "1 / log n is customary")
        return float(asked)
    if objective.num_examples < 3:
        raise ValueError(
            f"`inverse_temperature` must be given for {objective.num_examples} examples, of whose number the "
            "logarithm is below one; 1 / log n is for three and more."
        )
    return 1 / math.log(objective.num_examples)


def _localization(objective: Objective, asked: float | None) -> float:
    if asked is not None:
        check_positive("localization", asked, "100 is customary; the smaller, the longer chains must be")
        return float(asked)
    radius = _radius(objective)
    return max(LOCALIZATION, objective.space.dim / radius**2) if radius > 0 else LOCALIZATION


def _radius(objective: Objective) -> float:
    return float(objective.params.cpu().double().norm())


def _estimates(chains: Chains, scale: float, criteria: Criteria) -> dict[str, Any]:
    """By field: what the chains say together."""
    if chains.diverged:
        nothing = torch.full((chains.rises.shape[1],), math.nan, dtype=torch.float64)
        names = ("sharp_temperature", "temperature", "effective_size", "drift", "chain_spread")
        errors = ("sharp_temperature_error", "temperature_error")
        unknown = {
            "value": math.nan,
            "error": ErrorBudget(probe=StandardError(math.nan, 0)),
            "outcome": DIVERGED,
        }
        return (
            unknown
            | dict.fromkeys((*names, *errors), math.nan)
            | {"chain_values": nothing, "chain_errors": nothing.clone()}
        )
    each = correlated_mean(scale * chains.rises.numpy())
    value, error, dof = _together(each)
    size, spread = float(each.effective_size.sum()), _chain_spread(each, dof)
    trend = float(drift(chains.rises.numpy().mean(1)).p_value)
    sharp, sharp_error, _ = _together(correlated_mean(chains.sharp.numpy()))
    every, every_error, _ = _together(correlated_mean(chains.all_directions.numpy()))
    outcome = criteria.verdict([trend, spread], [size])
    return {
        "value": value,
        "error": ErrorBudget(probe=StandardError(error, dof)),
        "outcome": COLD if outcome == STATIONARY and is_cold(every, every_error) else outcome,
        "sharp_temperature": sharp,
        "sharp_temperature_error": sharp_error,
        "temperature": every,
        "temperature_error": every_error,
        "effective_size": size,
        "drift": trend,
        "chain_spread": spread,
        "chain_values": torch.from_numpy(each.value),
        "chain_errors": torch.from_numpy(each.standard_error),
    }


def _together(each: CorrelatedMean) -> tuple[float, float, float]:
    """Mean over independent chains, its standard error and degrees of freedom (Welch and Satterthwaite)."""
    squares = each.standard_error**2
    total = float(squares.sum())
    dof = total**2 / float((squares**2 / each.dof).sum()) if total > 0 else float(each.dof.sum())
    return float(each.value.mean()), math.sqrt(total) / len(squares), dof


def _chain_spread(each: CorrelatedMean, dof: float) -> float:
    """p-value of one mean for all chains, from their spread beside their own errors."""
    squares, C = each.standard_error**2, len(each.value)
    if C < 2 or not squares.min() > 0:
        return 1.0
    weights = 1 / squares
    center = float((weights * each.value).sum() / weights.sum())
    spread = float((weights * np.square(each.value - center)).sum()) / (C - 1)
    return float(f_tail(spread, C - 1, dof))
