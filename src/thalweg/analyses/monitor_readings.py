"""What a monitor can measure: with which arguments, at what cost, and which numbers it hands to a logger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from thalweg.core.measurement import Measurement
from thalweg.measures.curvature.hessian_trace import HessianTrace, hessian_trace
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues, top_eigenvalues
from thalweg.measures.dynamics.batch_sharpness import BatchSharpness, batch_sharpness
from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.sharpness.critical_sharpness import CriticalSharpness, critical_sharpness
from thalweg.measures.sharpness.optimizer_step import OptimizerStep
from thalweg.measures.sharpness.preconditioned_sharpness import (
    PreconditionedSharpness,
    preconditioned_sharpness,
)
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue

Numbers = dict[str, float]


@dataclass(frozen=True)
class Watched:
    """A measure as a monitor takes it.

    Parameters
    ----------
    function, arguments
        The measure, and what it is given besides the objective, the seed and a warm start.
    cost
        What it takes before it has been timed, in gradients of the probe: from experience, with a cold start
        and the operator's proof.
    numbers
        What it says, as plain numbers.
    has_seed, takes_optimizer
        What it asks for.
    warm
        Columns ``(P, W)`` of a result, for the next call to start from.
    """

    function: Callable[..., Measurement]
    arguments: Mapping[str, Any]
    cost: float
    numbers: Callable[[Any], Numbers]
    has_seed: bool = True
    takes_optimizer: bool = False
    warm: Callable[[Any], torch.Tensor] | None = None


def eigenvalue_numbers(result: BoundedEigenvalue, name: str) -> Numbers:
    """The value, the residual within which of it an eigenvalue lies, and what none exceeds."""
    return {
        name: result.value,
        f"{name}_residual": result.error.solver or 0.0,
        f"{name}_upper": result.upper_bound,
    }


def _of_critical_sharpness(result: CriticalSharpness) -> Numbers:
    return {
        "critical_sharpness": result.value,
        "critical_sharpness_bracket": result.error.solver or 0.0,
    }


def _of_noise(result: GradientNoise) -> Numbers:
    return {"noise_trace": result.value, "noise_scale": result.noise_scale}


def _of_batch_sharpness(result: BatchSharpness) -> Numbers:
    return {"batch_sharpness": result.value, "batch_sharpness_standard_error": _standard_error(result)}


def _of_trace(result: HessianTrace) -> Numbers:
    return {"trace": result.value, "trace_standard_error": _standard_error(result)}


def _of_top(result: TopEigenvalues) -> Numbers:
    return eigenvalue_numbers(result, "lambda_max")


def _of_preconditioned(result: PreconditionedSharpness) -> Numbers:
    return eigenvalue_numbers(result, "preconditioned_sharpness")


def _standard_error(result: Measurement) -> float:
    part = result.error.probe or result.error.data
    return part.value if part else 0.0


# Rough ones: the error of an eigenvalue is of the order of its residual's square, and a training run shows
# differences of ten per cent. An unfinished solution has its residual or its standard error like any other.
_EIGENVALUE = {"rtol": 0.03, "certify_rtol": None, "max_matvecs": 200, "require_convergence": False}

# In the order in which they are taken: those at hand for the same gradients first.
WATCHED: dict[str, Watched] = {
    "critical_sharpness": Watched(
        critical_sharpness, {"rtol": 0.05}, cost=4, numbers=_of_critical_sharpness, has_seed=False
    ),
    "gradient_noise": Watched(gradient_noise, {"k": 0}, cost=4, numbers=_of_noise),
    "batch_sharpness": Watched(batch_sharpness, {}, cost=15, numbers=_of_batch_sharpness),
    "top_eigenvalues": Watched(
        top_eigenvalues, _EIGENVALUE, cost=25, numbers=_of_top, warm=lambda result: result.eigenvectors
    ),
    "preconditioned_sharpness": Watched(
        preconditioned_sharpness,
        _EIGENVALUE,
        cost=25,
        numbers=_of_preconditioned,
        takes_optimizer=True,
        warm=lambda result: result.direction[:, None],
    ),
    "hessian_trace": Watched(
        hessian_trace,
        {"rtol": 0.1, "max_matvecs": 100, "require_convergence": False},
        cost=60,
        numbers=_of_trace,
    ),
}


def is_plain(step: OptimizerStep) -> bool:
    """Whether the preconditioned Hessian is the Hessian itself: one learning rate, no state, no decay."""
    return bool((step.preconditioner == 1).all()) and not bool(step.decay.any())


def batch_threshold(optimizer: Optimizer) -> float | None:
    """2 / lr, at which the batch sharpness settles under plain SGD; of no other optimizer is that known."""
    groups = optimizer.param_groups
    rates = {float(g["lr"]) for g in groups}
    others = ("momentum", "weight_decay", "maximize")
    if type(optimizer) is not SGD or len(rates) > 1 or any(g[key] for g in groups for key in others):
        return None
    (lr,) = rates
    return 2 / lr if lr > 0 else None
