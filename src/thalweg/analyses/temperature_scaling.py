r"""How the temperature of SGD grows with lr / B: the exponent over a grid, and where there is no such law.

Theory says :math:`T_i = \eta c_i / (2 B (1 - \mu))`, so that the exponent is one, as long as steps are short
beside the curvature, the noise and the Hessian those of the minimum, and the run stays at it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.analyses.temperature_scaling_result import TemperatureScaling
from thalweg.core.arguments import check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ROUNDING, ErrorBudget, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import stream_seed
from thalweg.measures.dynamics.batch_draws import BatchDraws, Sampling
from thalweg.measures.dynamics.constant_rate import ConstantRate
from thalweg.measures.dynamics.noisy_directions import noisy_directions
from thalweg.measures.dynamics.settled import DRIFT_LEVEL, MIN_EFFECTIVE_SIZE, TOO_SHORT, Criteria
from thalweg.measures.dynamics.sgd_temperature import check_run
from thalweg.measures.dynamics.temperature_result import SGDTemperature
from thalweg.measures.dynamics.temperature_run import Schedule, run_temperature
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.stats.power_law import PowerLaw, fit_power_law

# Confidence of what is said to break the law, over all cells together.
LEVEL = 0.95


def temperature_scaling(
    objective: Objective,
    *,
    lrs: Sequence[float],
    batch_sizes: Sequence[int],
    momentum: float = 0.0,
    nesterov: bool = False,
    sampling: Sampling = "replacement",
    tolerance: float = 0.1,
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
) -> TemperatureScaling:
    """Run `sgd_temperature` over a grid of rates and batch sizes, with the eigenpairs found once.

    Parameters
    ----------
    objective
        All runs begin at its point.
    lrs, batch_sizes
        The grid, of at least two different lr / B.
    momentum, nesterov, sampling, num_directions, drift_level, min_effective_size
        Of every run, as in `sgd_temperature`.
    num_steps, burn_in, loss_every
        The same; what is left open follows each run's own rate.
    tolerance
        Departure from the law of short steps, as a part of it, that is none yet.
    rtol, max_matvecs, max_memory_bytes
        Of the eigenpairs.
    seed
        Of everything that is drawn; every run has its own batches.
    progress
        Called with work done and an estimate of the whole, in examples.

    Raises
    ------
    ConvergenceError
        If the stationary runs have not two different lr / B; carries the partial result, its value NaN.
    ValueError
        If an argument is out of range.
    """
    check_objective("objective", objective)
    check_fraction("tolerance", tolerance, "0.1 is a tenth")
    criteria = Criteria(drift_level, min_effective_size)
    check_run(objective, num_directions, num_steps, burn_in, loss_every, rtol, max_matvecs, max_memory_bytes)
    stream_seed(seed)
    rules = [ConstantRate(lr, momentum, nesterov) for lr in _checked("lrs", lrs)]
    draws = [BatchDraws.of(objective, size, sampling) for size in _checked("batch_sizes", batch_sizes)]
    shared: dict[str, Any] = {
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
    }
    cells = [(rule, draw) for rule in rules for draw in draws]
    if not _differ([rule.lr / draw.batch_size for rule, draw in cells]):
        raise ValueError("`lrs` and `batch_sizes` must make at least two different lr / B, got one.")

    def whole(eigenvalues: Tensor) -> list[Schedule]:
        return [Schedule.of(rule, eigenvalues, draw, burn_in, num_steps, loss_every) for rule, draw in cells]

    def cost(schedules: list[Schedule]) -> int:
        return sum(s.cost(draw) for s, (_, draw) in zip(schedules, cells, strict=True))

    work = Work(progress)
    directions = noisy_directions(
        objective,
        num_directions,
        rtol=rtol,
        max_matvecs=max_matvecs,
        max_memory_bytes=max_memory_bytes,
        seed=seed,
        work=work,
        after=cost(whole(torch.zeros(0))),
    )
    schedules = whole(directions.eigenvalues)
    work.expect(work.done + cost(schedules))
    described = objective.describe()
    runs = []
    for i, ((rule, draw), schedule) in enumerate(zip(cells, schedules, strict=True)):
        own = stream_seed(seed, "run", i)
        provenance = {
            "function": "sgd_temperature",
            "arguments": {**shared, "lr": rule.lr, "batch_size": draw.batch_size, "seed": own},
            "objective": described,
            "operator": directions.check,
        }
        run = run_temperature(
            directions, rule, draw, schedule, criteria, seed=own, provenance=provenance, work=work
        )
        runs.append(dataclasses.replace(run, eigenvectors=None))
    work.finish()
    provenance = {
        "function": "temperature_scaling",
        "arguments": {
            "lrs": [rule.lr for rule in rules],
            "batch_sizes": [draw.batch_size for draw in draws],
            **shared,
            "tolerance": tolerance,
            "seed": seed,
        },
        "objective": described,
        "operator": directions.check,
    }
    return scaling_of(runs, len(rules), tolerance, provenance)


def scaling_of(
    runs: Sequence[SGDTemperature], num_lrs: int, tolerance: float, provenance: dict[str, Any]
) -> TemperatureScaling:
    """Fit the runs of a grid, one rate after the other.

    Raises
    ------
    ConvergenceError
        See `temperature_scaling`.
    """
    usable = [run for run in runs if run.is_stationary and run.value > 0 and run.error.half_width() > 0]
    law = _fitted(usable, [[run.lr / run.batch_size] for run in usable])
    apart = _fitted(usable, [[run.lr, 1 / run.batch_size] for run in usable])
    shape = (num_lrs, len(runs) // num_lrs)

    def grid(numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64).view(shape)

    values, continuous = grid([r.value for r in runs]), grid([float(r.continuous.mean()) for r in runs])
    errors = grid([_error(run).value for run in runs])
    departures, departure_errors = (values / continuous).log(), errors / values
    broken = [
        _breaks(run, float(d), float(e), tolerance, len(runs))
        for run, d, e in zip(runs, departures.flatten(), departure_errors.flatten(), strict=True)
    ]
    outcomes = [run.outcome for run in runs]
    result = TemperatureScaling(
        value=float(law.exponents[0]) if law else math.nan,
        error=ErrorBudget(
            probe=StandardError(float(law.standard_errors[0]), float(law.dofs[0]))
            if law
            else StandardError(math.nan, 0)
        ),
        provenance=provenance,
        lrs=torch.tensor([run.lr for run in runs[:: shape[1]]], dtype=torch.float64),
        batch_sizes=torch.tensor([run.batch_size for run in runs[: shape[1]]]),
        outcomes=tuple(tuple(outcomes[i * shape[1] : (i + 1) * shape[1]]) for i in range(num_lrs)),
        temperatures=values,
        temperature_errors=errors,
        predicted=grid([run.predicted_value for run in runs]),
        continuous=continuous,
        departures=departures,
        departure_errors=departure_errors,
        breaks=torch.tensor(broken).view(shape),
        tolerance=float(tolerance),
        log_factor=law.log_factor if law else math.nan,
        p_value=law.p_value if law else math.nan,
        fits=bool(law and law.fits),
        num_fitted=len(usable),
        exponents=_of_both(apart and apart.exponents),
        exponent_errors=_of_both(apart and apart.standard_errors),
        exponent_dofs=_of_both(apart and apart.dofs),
        runs=tuple(runs),
    )
    if law is None:
        counts = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
        raise ConvergenceError(
            f"an exponent takes stationary runs of two different lr / B, but of {len(runs)} runs these are "
            f"{counts}: lower `lrs` where they diverged, raise `num_steps` and `burn_in` where they had no "
            "time, or begin nearer a minimum.",
            result,
        )
    return result


def _checked(name: str, given: Any) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given or len(set(given)) < len(given):
        raise ValueError(f"`{name}` must be a list of different numbers, got {given!r}.")
    return list(given)


def _differ(ratios: Sequence[float]) -> bool:
    """Whether there are two, beyond rounding."""
    return len(ratios) > 0 and max(ratios) > (1 + ROUNDING) * min(ratios)


def _error(run: SGDTemperature) -> StandardError:
    return run.error.probe or StandardError(0.0)


def _fitted(runs: Sequence[SGDTemperature], factors: Sequence[Sequence[float]]) -> PowerLaw | None:
    """Their temperatures against powers of the factors; None if the runs cannot tell the exponents.

    What eigenvalues are off by is common to all runs, and does not touch an exponent.
    """
    design = [[1.0, *(math.log(f) for f in row)] for row in factors]
    if not runs or np.linalg.matrix_rank(design, tol=math.sqrt(ROUNDING)) < len(design[0]):
        return None
    errors = [_error(run) for run in runs]
    return fit_power_law(
        factors, [run.value for run in runs], [e.value for e in errors], [e.dof for e in errors]
    )


def _of_both(numbers: np.ndarray | None) -> Tensor:
    return torch.full((2,), math.nan, dtype=torch.float64) if numbers is None else torch.from_numpy(numbers)


def _breaks(run: SGDTemperature, departure: float, error: float, tolerance: float, num_runs: int) -> bool:
    if not run.is_stationary:
        return run.outcome != TOO_SHORT  # of which nothing is known
    quantile = float(student_quantile(1 - (1 - LEVEL) / (2 * num_runs), _error(run).dof))
    low, high = departure - quantile * error, departure + quantile * error
    return bool(low > np.log1p(tolerance) or high < np.log1p(-tolerance))
