r"""Sharpness as an optimizer meets it: the largest eigenvalue of :math:`P^{-1/2} H P^{-1/2}`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.core.arguments import check_count, check_flag, is_number
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import hash_tensors
from thalweg.core.progress import Progress
from thalweg.linalg.congruence import Diagonal
from thalweg.measures.sharpness.optimizer_step import OptimizerStep, optimizer_step
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.congruent import CongruentOperator
from thalweg.operators.hessian import Hessian
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue, largest_of
from thalweg.solvers.multilevel import MultilevelSolution, checked_levels, multilevel_eigenpairs


@dataclass(frozen=True, kw_only=True, repr=False)
class PreconditionedSharpness(BoundedEigenvalue):
    """The largest eigenvalue of P^-1 H, whose unit is that of one over a learning rate.

    Parameters
    ----------
    threshold
        The largest that is stable with the optimizer's present settings and P as it is; ``None`` without a
        learning rate.
    lr
        Learning rate, the largest of the optimizer's groups; ``None`` if none was given.
    direction
        ``(P,)``, on the CPU: :math:`P^{-1/2} v` of the unit eigenvector v, a step of the parameters along
        which the updates grow first.
    num_matvecs, num_subset_matvecs
        Products with single vectors on the full data, and on subsets.
    """

    measure: ClassVar[str] = "preconditioned_sharpness"

    threshold: float | None
    lr: float | None
    direction: Tensor | None
    num_matvecs: int
    num_subset_matvecs: int

    @property
    def ratio(self) -> float | None:
        """`value` over `threshold`: about one at the edge of stability, above it unstable."""
        return None if self.threshold is None else self.value / self.threshold

    def _parts(self) -> list[str]:
        value, *rest = super()._parts()
        if self.provenance.get("arguments", {}).get("optimizer") is None:
            value += " under plain gradient descent"
        return [value, *([] if self.ratio is None else [f"{self.ratio:.4g} of the threshold"]), *rest]


def preconditioned_sharpness(
    objective: Objective,
    *,
    optimizer: Optimizer | None = None,
    lr: float | None = None,
    rtol: float = 1e-2,
    certify_rtol: float | None = 0.1,
    confidence: float = 0.99,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    require_convergence: bool = True,
    levels: Sequence[int] | None = None,
    start: Tensor | None = None,
    seed: int,
    progress: Progress | None = None,
) -> PreconditionedSharpness:
    r"""Largest eigenvalue of the Hessian preconditioned as an optimizer's present state does, and its limit.

    P, and the threshold above which full-batch updates with P held grow without bound, are those of the table
    in `thalweg.measures.sharpness.optimizer_step`. P is that of the last step taken; where groups differ in
    their learning rates, it is divided by each one's share of the largest. What the optimizer does not hold,
    or has not moved for want of a gradient, does not move here.

    H is the Hessian of what the optimizer follows: weight decay that it adds to the gradient is in it, and
    must then not be in the objective as well. Decoupled weight decay is no part of H, but of the threshold,
    where the largest of the groups' counts: exact where they share it.

    For mini-batches the threshold is that of the full-batch dynamics all the same; gradient noise makes
    training unstable below it.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    optimizer
        SGD, Adam, AdamW or RMSprop of torch, whose parameters are those of the model that the objective was
        built from, with the same values; it is only read. ``None``: plain gradient descent, P = I.
    lr
        Learning rate of that plain gradient descent. ``None``: no threshold.
    rtol, certify_rtol, confidence, max_matvecs, max_memory_bytes, require_convergence, levels
        Of the eigenvalue; see `top_eigenvalues`.
    start
        ``(P, W)``: steps of the parameters to start from instead of subsets, such as the `direction` of a
        result at a nearby point.
    seed
        Of the subsets and the random vectors.
    progress
        Called with work done and an estimate of the whole, in examples times products.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first and `require_convergence` is set; carries the partial
        `PreconditionedSharpness`.
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.
    TypeError
        If `optimizer` is no torch optimizer.
    ValueError
        If the optimizer's update is not known, it has no state yet, its parameters are not the objective's,
        weight decay is stated twice, or `start` has another shape.

    References
    ----------
    Cohen et al. (2022), Adaptive Gradient Methods at the Edge of Stability, arXiv:2207.14484.
    """
    check_objective("objective", objective)
    check_flag("require_convergence", require_convergence)
    check_count("max_memory_bytes", max_memory_bytes)
    sizes = None if levels is None else checked_levels(levels, objective.num_examples)
    step = _step(objective, optimizer, lr)
    matrix = Hessian(objective)
    check = matrix.check
    scale = step.preconditioner.rsqrt()
    warm = None if start is None else _in_coordinates(start, scale)
    operator = CongruentOperator(
        matrix,
        Diagonal(scale.to(objective.params)),
        diagonal=(step.decay * scale.square()).to(objective.params) if bool(step.decay.any()) else None,
    )
    provenance: dict[str, Any] = {
        "function": "preconditioned_sharpness",
        "arguments": {
            "optimizer": None if optimizer is None else step.description,
            "lr": lr,
            "rtol": rtol,
            "certify_rtol": certify_rtol,
            "confidence": confidence,
            "max_matvecs": max_matvecs,
            "max_memory_bytes": max_memory_bytes,
            "require_convergence": require_convergence,
            "levels": None if sizes is None else list(sizes),
            "start": None if start is None else hash_tensors(start),
            "seed": seed,
        },
        "objective": objective.describe(),
        "operator": check.to_dict(),
    }

    def result(solved: MultilevelSolution) -> PreconditionedSharpness:
        solution = solved.solution
        return PreconditionedSharpness(
            **largest_of(solution),
            provenance={
                **provenance,
                "levels": list(solved.levels),
                "converged": solution.converged,
            },
            threshold=None if math.isnan(step.threshold) else step.threshold,
            lr=None if math.isnan(step.lr) else step.lr,
            direction=operator.into(solution.eigenvectors[:, :1])[:, 0].cpu(),
            num_matvecs=solution.num_matvecs,
            num_subset_matvecs=solved.num_subset_matvecs,
        )

    try:
        solved = multilevel_eigenpairs(
            operator,
            1,
            rtol=rtol,
            certify_rtol=certify_rtol,
            confidence=confidence,
            max_matvecs=max_matvecs,
            max_memory_bytes=max_memory_bytes,
            require_convergence=require_convergence,
            levels=sizes,
            start=warm,
            seed=seed,
            progress=progress,
        )
    except ConvergenceError as error:
        partial = result(error.partial)
        raise ConvergenceError(str(error), partial) from None
    return result(solved)


def _in_coordinates(start: Tensor, scale: Tensor) -> Tensor:
    """Steps of the parameters ``(P, W)`` as vectors u with ``scale * u`` the step; what is held stays out."""
    if start.ndim != 2 or len(start) != len(scale):
        raise ValueError(
            f"`start` must have shape ({len(scale)}, W), steps of the parameters as columns, got "
            f"{tuple(start.shape)}."
        )
    columns = start.detach().cpu().double() / scale[:, None]
    return columns.masked_fill((scale == 0)[:, None], 0.0)


def _step(objective: Objective, optimizer: Optimizer | None, lr: float | None) -> OptimizerStep:
    if lr is not None and not (is_number(lr) and 0 < lr < math.inf):
        raise ValueError(f"`lr` must be a positive finite number, got {lr!r}.")
    if optimizer is None:
        ones = torch.ones(objective.space.dim, dtype=torch.float64)
        rate = math.nan if lr is None else float(lr)
        return OptimizerStep(rate, ones, torch.zeros_like(ones), 2 / rate, {})
    if lr is not None:
        raise ValueError(f"`lr` must be left out with an `optimizer`, which has its own, got {lr!r}.")
    step = optimizer_step(objective, optimizer)
    if objective.weight_decay and bool(step.decay.any()):
        raise ValueError(
            f"`objective` has an L2 term of weight_decay={objective.weight_decay} and the optimizer adds one "
            "of its own to the gradient; state it once: build the objective with weight_decay=0."
        )
    return step
