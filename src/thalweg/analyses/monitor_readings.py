"""What a monitor can measure: with which arguments, at what cost, and which numbers it hands to a logger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.core.measurement import Measurement
from thalweg.measures.curvature.hessian_trace import HessianTrace, hessian_trace
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues, top_eigenvalues
from thalweg.measures.dynamics.batch_sharpness import BatchSharpness, batch_sharpness
from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.sharpness.critical_sharpness import CriticalSharpness, critical_sharpness
from thalweg.measures.sharpness.preconditioned_sharpness import (
    PreconditionedSharpness,
    preconditioned_sharpness,
)
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue
from thalweg.solvers.sampled_trace import FEWEST_PRODUCTS, FIRST_STAGE
from thalweg.solvers.sampling_design import GROUP_SIZE, PROXY

# By name; None is what was not measured.
Numbers = dict[str, float | None]

# Costs are counted in passes: loss and gradient of one example. In flops a loss alone is a third of one, a
# Hessian-vector product three and another on the same examples two; in time, on the paper's network, products
# take the more that stands here.
LOSS, PRODUCT, BLOCK_PRODUCT, NOISE = 1 / 3, 3.0, 2.5, 3.0

# The proof that second derivatives are right, once for a network: in float64, example by example dear.
PROOF = 8_000.0


@dataclass(frozen=True)
class Watched:
    """A measure as a monitor takes it.

    Parameters
    ----------
    function, arguments
        The measure, and what it is given besides the objective, the seed and a warm start.
    keys
        The numbers it gives.
    numbers
        Their values, in that order.
    expected
        Passes before it has been taken, from the examples of the probe and of a batch: from experience, cold.
    passes
        What a result took, from it and the examples of the probe.
    has_seed, takes_optimizer, is_second_order
        What it asks for; the last, the proof.
    warm
        Columns ``(P, W)`` of a result, for the next call to start from; see `thalweg.analyses.warm_start`.
    """

    function: Callable[..., Measurement]
    arguments: Mapping[str, Any]
    keys: tuple[str, ...]
    numbers: Callable[[Any], tuple[float, ...]]
    expected: Callable[[int, int], float]
    passes: Callable[[Any, int], float]
    has_seed: bool = True
    takes_optimizer: bool = False
    is_second_order: bool = True
    warm: Callable[[Any], torch.Tensor] | None = None


def of_eigenvalue(result: BoundedEigenvalue) -> tuple[float, float, float]:
    """The value, the residual within which of it an eigenvalue lies, and what none exceeds."""
    return result.value, result.error.solver or 0.0, result.upper_bound


def _of_critical_sharpness(result: CriticalSharpness) -> tuple[float, ...]:
    return result.value, result.error.solver or 0.0


def _of_noise(result: GradientNoise) -> tuple[float, ...]:
    return result.value, result.noise_scale


def _of_estimate(result: BatchSharpness | HessianTrace) -> tuple[float, ...]:
    parts = (result.error.probe, result.error.data)
    return result.value, math.hypot(*(part.value for part in parts if part))


def _trace_passes(result: HessianTrace, num_examples: int) -> float:
    sampling = result.provenance["sampling"]
    scored = num_examples if sampling.get("in_proportion_to") == PROXY else 0  # by a forward pass alone
    products = PRODUCT * (sampling["num_multiplied"] - scored)
    return LOSS * scored + products + BLOCK_PRODUCT * result.num_matvecs * num_examples


def _trace_expected(num_examples: int, _: int) -> float:
    """Samples or two dozen probes, whichever `thalweg.solvers.sampled_trace` would take at its least."""
    sampled = FIRST_STAGE * 2 * GROUP_SIZE
    if sampled <= FEWEST_PRODUCTS * num_examples:
        return LOSS * num_examples + PRODUCT * sampled
    return 24 * BLOCK_PRODUCT * num_examples


def _eigenvalue_passes(result: TopEigenvalues | PreconditionedSharpness, num_examples: int) -> float:
    levels = result.provenance.get("levels") or [0]
    return PRODUCT * (result.num_matvecs * num_examples + result.num_subset_matvecs * max(levels))


# Rough ones: the error of an eigenvalue is of the order of its residual's square, and a training run shows
# differences of ten per cent. An unfinished solution has its residual or its standard error like any other.
_EIGENVALUE = {"rtol": 0.03, "certify_rtol": None, "max_matvecs": 200, "require_convergence": False}
_NUM_BATCHES = 8

EIGENVALUE, PRECONDITIONED = "top_eigenvalues", "preconditioned_sharpness"

# In the order in which they are taken, the first of which gets most of what is earned.
WATCHED: dict[str, Watched] = {
    PRECONDITIONED: Watched(
        preconditioned_sharpness,
        _EIGENVALUE,
        (
            "preconditioned_sharpness",
            "preconditioned_sharpness_residual",
            "preconditioned_sharpness_upper",
        ),
        of_eigenvalue,
        expected=lambda n, _: 5 * PRODUCT * n,
        passes=_eigenvalue_passes,
        takes_optimizer=True,
        warm=lambda result: result.direction[:, None],
    ),
    EIGENVALUE: Watched(
        top_eigenvalues,
        _EIGENVALUE,
        ("lambda_max", "lambda_max_residual", "lambda_max_upper"),
        of_eigenvalue,
        expected=lambda n, _: 5 * PRODUCT * n,
        passes=_eigenvalue_passes,
        warm=lambda result: result.eigenvectors,
    ),
    "critical_sharpness": Watched(
        critical_sharpness,
        {"rtol": 0.05},
        ("critical_sharpness", "critical_sharpness_bracket"),
        _of_critical_sharpness,
        expected=lambda n, _: 4.0 * n,
        passes=lambda result, n: (1 + LOSS * result.num_evaluations) * n,
        has_seed=False,
        is_second_order=False,
    ),
    "gradient_noise": Watched(
        gradient_noise,
        {"k": 0},
        ("noise_trace", "noise_scale"),
        _of_noise,
        expected=lambda n, _: NOISE * n,
        passes=lambda _, n: NOISE * n,
        is_second_order=False,
    ),
    "batch_sharpness": Watched(
        batch_sharpness,
        {"num_batches": _NUM_BATCHES},
        ("batch_sharpness", "batch_sharpness_standard_error"),
        _of_estimate,
        expected=lambda n, size: (1 + PRODUCT) * size * (1 if size == n else _NUM_BATCHES),
        passes=lambda result, _: (1 + PRODUCT) * result.batch_size * len(result.quotients),
    ),
    "hessian_trace": Watched(
        hessian_trace,
        {"rtol": 0.2, "max_matvecs": 100, "sampled": True, "require_convergence": False},
        ("trace", "trace_standard_error"),
        _of_estimate,
        expected=_trace_expected,
        passes=_trace_passes,
    ),
}
