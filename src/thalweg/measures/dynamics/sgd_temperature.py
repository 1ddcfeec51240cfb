"""The temperature of SGD: what its noise heats a minimum up to, as predicted and as a run shows it."""

from __future__ import annotations

from typing import Any

import torch

from thalweg.core.arguments import check_count
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import stream_seed
from thalweg.linalg.lanczos import check_tolerances
from thalweg.measures.dynamics.batch_draws import BatchDraws, Sampling
from thalweg.measures.dynamics.constant_rate import ConstantRate
from thalweg.measures.dynamics.noisy_directions import noisy_directions
from thalweg.measures.dynamics.settled import DRIFT_LEVEL, MIN_EFFECTIVE_SIZE, Criteria
from thalweg.measures.dynamics.temperature_result import SGDTemperature
from thalweg.measures.dynamics.temperature_run import Schedule, run_temperature
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

# Chance is told by half of a run; of less than eight samples a series says nothing about its correlation.
LEAST_STEPS = 16


def sgd_temperature(
    objective: Objective,
    *,
    lr: float,
    batch_size: int | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    sampling: Sampling = "replacement",
    num_directions: int = 5,
    num_steps: int | None = None,
    burn_in: int | None = None,
    loss_every: int | None = None,
    drift_level: float = DRIFT_LEVEL,
    min_effective_size: float = MIN_EFFECTIVE_SIZE,
    rtol: float = 1e-3,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    seed: int,
    progress: Progress | None = None,
) -> SGDTemperature:
    r"""Run SGD at a constant rate from the objective's point, and compare its spread with the theory.

    .. math:: T_i = h_i \mathrm{Var}(x_i), \qquad \text{predicted }
       \frac{\eta (1 + \mu)\, S_{ii}}{(1 - \mu) (2 (1 + \mu) - \eta h_i)}
       \approx \frac{\eta\, c_i}{2 B (1 - \mu)}

    along the top eigenvectors :math:`v_i` of the Hessian, with :math:`c_i = v_i^\top C v_i` the covariance of
    single examples' gradients about their mean, and S that of a step's: see
    `thalweg.measures.dynamics.constant_rate`. The prediction is exact for a quadratic whose noise is the same
    everywhere. On a network curvature and noise change with the position, and over a run the minimum moves:
    measurement and prediction then differ, by how much is the result.

    The point should be near a minimum. It need not be one: variances are about the run's own mean position,
    and the excess loss is over the loss there. Whether the run has settled is tested, direction by direction
    and for the loss, and is in the result: a run that has not, or that diverged, is an outcome, no error.

    The steps are those of ``torch.optim.SGD``, on the objective's own function and L2 term: batch norm with
    constant statistics in ``"running"`` and ``"recalibrated"`` mode (those of the start), under batch
    statistics batches of the partition, each drawn whole. Your model stays as it is.

    The cost: a gradient of a batch a step, as much again for the loss, and the eigenpairs.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point, at which the run begins.
    lr
        The learning rate, positive.
    batch_size
        B, at most N; under batch statistics the objective's own. Default: the objective's own, at most N.
    momentum, nesterov
        As in ``torch.optim.SGD``; no dampening.
    sampling
        How a step's examples are drawn: ``"replacement"``; ``"without_replacement"``, each batch from all of
        them; ``"epochs"``, in shuffled passes, as loaders do, whose batches undo one another's noise. Each
        has its own prediction.
    num_directions
        k, at least 1.
    num_steps, burn_in
        Steps that count, at least 16, and steps before them. Default: 400 and 10 relaxation times of the
        slowest of the k directions by its eigenvalue, within 2,000 and 20,000, 100 and 10,000.
    loss_every
        Steps between evaluations of the loss over all the data. Default: so many that they cost what the
        steps do, but at least 200 evaluations.
    drift_level, min_effective_size
        When the run counts as stationary: how often one that is may be said not to be, and the independent
        samples that each mean must be worth. Of fewer than 100 intervals hold less often than they say.
    rtol, max_matvecs
        Of the eigenpairs: residual over the norm of the Hessian, and products with single vectors.
    max_memory_bytes
        Bound on the Lanczos basis, and on a chunk of gradients.
    seed
        Of the batches and of the start vectors.
    progress
        Called with work done and an estimate of the whole, in examples.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent before the eigenpairs are found.
    DerivativeError
        If no derivative of this network can be trusted, or examples have no gradients of their own.
    NonFiniteLossError
        If the loss or its gradient is not finite at the start.
    ValueError
        If an argument is out of range, or fewer than k eigenvalues are above nought.

    References
    ----------
    Mandt, Hoffman and Blei (2017), JMLR 18(134). Jastrzebski et al. (2017), arXiv:1711.04623: temperature by
    lr / B. Liu, Ziyin and Ueda (2021), ICML: discrete time, momentum.
    """
    check_objective("objective", objective)
    rule = ConstantRate(lr, momentum, nesterov)
    criteria = Criteria(drift_level, min_effective_size)
    check_run(objective, num_directions, num_steps, burn_in, loss_every, rtol, max_matvecs, max_memory_bytes)
    stream_seed(seed)
    draws = BatchDraws.of(objective, batch_size, sampling)
    arguments: dict[str, Any] = {
        "lr": lr,
        "batch_size": batch_size,
        "momentum": momentum,
        "nesterov": nesterov,
        "sampling": sampling,
        "num_directions": num_directions,
        "num_steps": num_steps,
        "burn_in": burn_in,
        "loss_every": loss_every,
        "drift_level": drift_level,
        "min_effective_size": min_effective_size,
        "rtol": rtol,
        "max_matvecs": max_matvecs,
        "max_memory_bytes": max_memory_bytes,
        "seed": seed,
    }
    work = Work(progress)
    # The length of the run hangs on the eigenvalues; before they are known it is guessed.
    guess = Schedule.of(rule, torch.zeros(0), draws, burn_in, num_steps, loss_every)
    directions = noisy_directions(
        objective,
        num_directions,
        rtol=rtol,
        max_matvecs=max_matvecs,
        max_memory_bytes=max_memory_bytes,
        seed=seed,
        work=work,
        after=guess.cost(draws),
    )
    schedule = Schedule.of(rule, directions.eigenvalues, draws, burn_in, num_steps, loss_every)
    work.expect(work.done + schedule.cost(draws))
    provenance = {
        "function": "sgd_temperature",
        "arguments": arguments,
        "objective": objective.describe(),
        "operator": directions.check,
    }
    result = run_temperature(
        directions, rule, draws, schedule, criteria, seed=seed, provenance=provenance, work=work
    )
    work.finish()
    return result


def check_run(
    objective: Objective,
    num_directions: int,
    num_steps: int | None,
    burn_in: int | None,
    loss_every: int | None,
    rtol: float,
    max_matvecs: int,
    max_memory_bytes: int,
) -> None:
    """Raise unless eigenpairs can be asked for, and lengths that are given make a run."""
    check_count("num_directions", num_directions)
    check_count("max_matvecs", max_matvecs)
    check_count("max_memory_bytes", max_memory_bytes)
    check_tolerances(objective.dtype, rtol, None, 0.99)
    for name, count, least in (
        ("num_steps", num_steps, LEAST_STEPS),
        ("burn_in", burn_in, 0),
        ("loss_every", loss_every, 1),
    ):
        if count is not None:
            check_count(name, count, least)
