"""One run of SGD at one rate, momentum and batch size: what is predicted of it and what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Work
from thalweg.core.rng import generator
from thalweg.measures.dynamics.batch_draws import BatchDraws
from thalweg.measures.dynamics.constant_rate import ConstantRate, continuous_temperature
from thalweg.measures.dynamics.constant_rate_walk import Walk, constant_rate_walk
from thalweg.measures.dynamics.noisy_directions import NoisyDirections
from thalweg.measures.dynamics.settled import (
    DIVERGED,
    TOO_SHORT,
    Criteria,
    noise_during,
    settled,
    settled_excess,
)
from thalweg.measures.dynamics.temperature_result import SGDTemperature

# Lengths of a run in relaxation times of the slowest direction, and limits in steps.
BURN_IN, LEAST_BURN_IN, MOST_BURN_IN = 10, 100, 10_000
LENGTH, LEAST_LENGTH, MOST_LENGTH = 400, 2000, 20_000

# Evaluations of the loss in a run, at the least.
LEAST_EVALUATIONS = 200

# Curvatures that the rest may have, in parts of the last of the k, and how many of them are tried.
FLAT, CURVATURES = 1e-5, 200

# A gradient costs about three values.
GRADIENT_COST = 3

# A loss that is up by so many times its size and the excess that single examples would make has diverged.
BEYOND = 1e6


@dataclass(frozen=True)
class Schedule:
    """How long a run is.

    Parameters
    ----------
    burn_in, num_steps
        Steps before those that count, and these.
    loss_every
        Steps between evaluations of the loss over all the data.
    """

    burn_in: int
    num_steps: int
    loss_every: int

    @classmethod
    def of(
        cls,
        rule: ConstantRate,
        eigenvalues: Tensor,
        draws: BatchDraws,
        burn_in: int | None,
        num_steps: int | None,
        loss_every: int | None,
    ) -> Schedule:
        """As asked, the rest by the slowest of the directions."""
        times = rule.relaxation(eigenvalues.numpy())
        slowest = float(np.max(times, where=np.isfinite(times), initial=0.0))
        if burn_in is None:
            burn_in = min(max(math.ceil(BURN_IN * slowest), LEAST_BURN_IN), MOST_BURN_IN)
        if num_steps is None:
            num_steps = min(max(math.ceil(LENGTH * slowest), LEAST_LENGTH), MOST_LENGTH)
        if loss_every is None:
            # As much work as the steps, unless that were too seldom.
            as_much = math.ceil(draws.num_examples / (GRADIENT_COST * draws.batch_size))
            loss_every = max(1, min(as_much, num_steps // LEAST_EVALUATIONS))
        return cls(int(burn_in), int(num_steps), int(loss_every))

    def cost(self, draws: BatchDraws) -> int:
        """Examples that are gone through."""
        steps = self.burn_in + self.num_steps
        return steps * draws.batch_size + steps // self.loss_every * draws.num_examples


def predicted_temperatures(
    rule: ConstantRate, draws: BatchDraws, eigenvalues: np.ndarray, variances: np.ndarray
) -> np.ndarray:
    """``(k,)``: of directions of these curvatures, from the variances of a step's gradient along them."""
    if draws.sampling == "epochs":
        gains = rule.epoch_gains(eigenvalues, draws.num_steps, draws.correlation)
    else:
        gains = rule.gains(eigenvalues, eigenvalues)
    stable = np.isfinite(gains)
    return np.where(stable, eigenvalues * np.where(stable, gains, 0.0) * variances, np.inf)


def predicted_excess(
    rule: ConstantRate, draws: BatchDraws, eigenvalues: np.ndarray, variances: np.ndarray, trace: float
) -> tuple[float, float]:
    """tr(H Sigma) / 2, least and most, if all directions beyond the k have one curvature, up to the k th's.

    Steep ones are the hottest of heavy ball's and of shuffled passes'; Nesterov's are coldest in between.
    """
    known = float(predicted_temperatures(rule, draws, eigenvalues, variances).sum())
    rest = max(0.0, trace - float(variances.sum()))
    curvatures = eigenvalues[-1] * np.geomspace(FLAT, 1.0, CURVATURES)
    others = predicted_temperatures(rule, draws, curvatures, np.full(CURVATURES, rest))
    return (known + float(others.min())) / 2, (known + float(others.max())) / 2


def run_temperature(
    directions: NoisyDirections,
    rule: ConstantRate,
    draws: BatchDraws,
    schedule: Schedule,
    criteria: Criteria,
    *,
    seed: int,
    provenance: Mapping[str, Any],
    work: Work,
) -> SGDTemperature:
    """Predict, make the run, and measure.

    Parameters
    ----------
    directions
        Of the objective, at whose point it begins.
    rule, draws, schedule
        How steps are made, of which examples, and how many.
    criteria
        When the run has settled.
    seed
        Of the batches.
    provenance
        Of the result.
    work
        Counts examples.

    Raises
    ------
    NonFiniteLossError
        If the loss is not finite at the start.
    """
    objective = directions.objective
    h, N = directions.eigenvalues.numpy(), objective.num_examples
    variances = directions.variances.numpy() * draws.variance_factor
    trace = directions.trace * draws.variance_factor
    low, high = predicted_excess(rule, draws, h, variances, trace)
    start_loss = directions.loss(objective.params)
    usual = abs(start_loss) + float(continuous_temperature(directions.trace, rule)) / 2
    walk = constant_rate_walk(
        objective.params,
        directions.eigenvectors,
        rule,
        directions.batch_gradient,
        directions.loss,
        draws(generator(seed, "sgd_temperature", "batches")),
        burn_in=schedule.burn_in,
        num_steps=schedule.num_steps,
        loss_every=schedule.loss_every,
        ceiling=start_loss + BEYOND * usual,
        on_step=lambda evaluated: work.add(draws.batch_size + (N if evaluated else 0)),
    )
    shown = walk.positions[walk.loss_steps[1:] - 1]
    return SGDTemperature(
        **_along(walk, schedule, criteria, directions),
        **_excess(walk, schedule, criteria, directions),
        provenance=dict(provenance),
        diverged_at=walk.diverged_at,
        lr=float(rule.lr),
        momentum=float(rule.momentum),
        nesterov=bool(rule.nesterov),
        batch_size=draws.batch_size,
        sampling=draws.sampling,
        burn_in=schedule.burn_in,
        num_steps=schedule.num_steps,
        eigenvalues=directions.eigenvalues,
        eigenvectors=directions.eigenvectors.cpu(),
        residuals=directions.residuals,
        noise_variances=torch.from_numpy(variances),
        noise_trace=trace,
        predicted=torch.from_numpy(predicted_temperatures(rule, draws, h, variances)),
        continuous=torch.from_numpy(
            continuous_temperature(directions.variances.numpy() / draws.num_drawn, rule)
        ),
        excess_low=low,
        excess_high=high,
        loss_start=start_loss,
        loss_steps=walk.loss_steps,
        losses=walk.losses,
        positions=torch.cat([shown.new_zeros(1, len(h)), shown]),
    )


def _along(walk: Walk, schedule: Schedule, criteria: Criteria, directions: NoisyDirections) -> dict[str, Any]:
    """What the run shows along the directions, by field."""
    eigenvalues, residuals = directions.eigenvalues.numpy(), directions.residuals.numpy()
    if walk.diverged_at is not None:
        nothing = torch.full((len(eigenvalues),), math.nan, dtype=torch.float64)
        names = ("temperatures", "temperature_errors", "temperature_dofs", "effective_sizes")
        noises = ("run_noise_variances", "run_noise_errors")
        drifts = ("position_drift", "spread_drift")
        unknown = ErrorBudget(probe=StandardError(math.nan, 0))
        return {"value": math.nan, "error": unknown, "outcome": DIVERGED} | {
            name: nothing.clone() for name in (*names, *drifts, *noises)
        }
    found = settled(walk.positions[schedule.burn_in :], eigenvalues, criteria)
    before = torch.cat([torch.zeros_like(walk.positions[:1]), walk.positions[:-1]])
    noise = noise_during(before[schedule.burn_in :], walk.slopes[schedule.burn_in :])
    arrays = {
        "temperatures": found.temperatures.value,
        "temperature_errors": found.temperatures.standard_error,
        "temperature_dofs": found.temperatures.dof,
        "effective_sizes": found.temperatures.effective_size,
        "position_drift": found.position_drift,
        "spread_drift": found.spread_drift,
        "run_noise_variances": noise.value,
        "run_noise_errors": noise.standard_error,
    }
    mean = found.mean
    return {
        "value": float(mean.value),
        "error": ErrorBudget(
            # An eigenvalue is within its residual of the Ritz value that the variance was multiplied by.
            solver=float(np.mean(residuals / eigenvalues * found.temperatures.value)),
            probe=StandardError(float(mean.standard_error), float(mean.dof)),
        ),
        "outcome": found.outcome,
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
    }


def _excess(
    walk: Walk, schedule: Schedule, criteria: Criteria, directions: NoisyDirections
) -> dict[str, Any]:
    """What it shows of the loss, by field."""
    names = ("excess_loss", "excess_loss_error", "excess_loss_dof", "excess_effective_size", "excess_drift")
    losses = walk.losses[walk.loss_steps > schedule.burn_in].numpy()
    if walk.diverged_at is not None or not len(losses):
        outcome = TOO_SHORT if walk.diverged_at is None else DIVERGED
        return dict.fromkeys((*names, "loss_center"), math.nan) | {"excess_outcome": outcome}
    start = directions.objective.params
    whole, *halves = (directions.loss(start + m) for m in (walk.halves.mean(0), *walk.halves))
    found = settled_excess(losses, whole, halves, criteria)
    mean = found.mean
    numbers = (mean.value, mean.standard_error, mean.dof, mean.effective_size, found.drift)
    return {
        **{name: float(number) for name, number in zip(names, numbers, strict=True)},
        "loss_center": found.center,
        "excess_outcome": found.outcome,
    }
