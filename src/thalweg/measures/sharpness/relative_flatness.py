r"""Relative flatness of one layer: the curvature of the loss in its weights, weighed by these weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag, check_fraction, check_one_of
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, Measurement
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator
from thalweg.linalg.congruence import Columns, Congruence, Diagonal, RowFactor
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.lanczos import check_tolerances, lanczos_eigenpairs
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.trace import LEAST, estimate_trace
from thalweg.measures.sharpness.weights import feature_spread, named_weight
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian

Variant = Literal["trace", "eigenvalue"]


@dataclass(frozen=True, kw_only=True, repr=False)
class RelativeFlatness(Measurement):
    """kappa of one weight, in the unit of the loss; larger is sharper, in spite of the name.

    ``error.probe`` is of the random probes of the trace, ``error.solver`` of the eigenvalues.

    Parameters
    ----------
    weight
        Name of the parameter.
    shape
        Its shape; the first dimension counts the neurons.
    variant
        As asked.
    method
        How the trace was had, ``"exact"`` among others, or ``"lanczos"``.
    num_matvecs
        Products with single vectors of the layer on the full data. They go through that layer's derivative
        alone, so that eight together cost little more than one forward pass where it is the last.
    """

    measure: ClassVar[str] = "relative_flatness"

    weight: str
    shape: tuple[int, ...]
    variant: str
    method: str
    num_matvecs: int


def relative_flatness(
    objective: Objective,
    *,
    weight: str | None = None,
    variant: Variant = "trace",
    normalize_features: bool = False,
    rtol: float = 0.05,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    seed: int,
    progress: Progress | None = None,
) -> RelativeFlatness:
    r""":math:`\kappa_{\mathrm{Tr}} = \sum_{s, s'} \langle w_s, w_{s'} \rangle\, \mathrm{tr}(H_{s s'})`.

    w_s is row s of the weight W, all that neuron s reads, and :math:`H_{s s'}` the block of the loss's
    Hessian of rows s and s', m x m over the inputs. Of a convolution, which the source does not treat, a row
    is a filter. With :math:`W W^\top = L L^\top`, L of full column rank,

    .. math:: \kappa_{\mathrm{Tr}} = \mathrm{tr}\bigl( (W W^\top \otimes I)\, H \bigr)
       = \mathrm{tr}\bigl( (L \otimes I)^\top H\, (L \otimes I) \bigr),

    the trace of a symmetric matrix that is known by its products, estimated as any other
    (`thalweg.linalg.trace`), or exactly where that costs no more.

    ``variant="eigenvalue"`` is :math:`\sum_s \lVert w_s \rVert^2 \lambda_{\max}(H_{s s})` of the authors' own
    code, solved row by row.

    What it is invariant to: a factor for each *neuron* of the layer, undone behind it (the trace, to any
    invertible linear change of the neurons); and one factor for *all* the inputs, undone before it. Not to a
    factor for each input, which hidden units of ReLU allow one by one: :math:`H_{(s,t)(s',t)}` takes the
    square of that of input t, while :math:`\langle w_s, w_{s'} \rangle` sums over all inputs before they
    meet. With `normalize_features` it is: the measure is then that of the network whose inputs to this layer
    have been scaled to unit spread over the data, weights making up for it, as the authors' experiments do.

    The L2 term of the objective is left out.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    weight
        The parameter's name, or its layer's. Default: the trainable one of two or more dimensions in the
        layer that a forward pass calls last.
    variant
        ``"trace"`` or ``"eigenvalue"``.
    normalize_features
        Whether to take each input, of a convolution each channel, in units of its standard deviation over the
        data and the positions. One that never changes is left out with its weights.
    rtol
        Of the trace: target standard error over the value, in (0, 1). Of the eigenvalues: bound on each
        row's residual, over the norm of its block.
    max_matvecs
        Most products: for the trace, at least 36 or the weight's entries; for each row's eigenvalue.
    max_memory_bytes
        Bound on the probes of the trace, as in `hessian_trace`, or on the basis of an eigenvalue.
    seed
        Of the probes, or the start vectors.
    progress
        Called with work done and an estimate of the whole, in examples times products.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first; of the trace, it carries the partial `RelativeFlatness`.
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.
    ValueError
        If an argument is out of range, or names no weight of two or more dimensions.

    References
    ----------
    Petzka, Kamp, Adilova, Sminchisescu and Boley (2021), Relative Flatness and Generalization, NeurIPS:
    definition 3; the eigenvalues as in the code they published with it.
    """
    check_objective("objective", objective)
    check_one_of("variant", variant, get_args(Variant))
    check_flag("normalize_features", normalize_features)
    check_fraction("rtol", rtol, "0.05 asks for 5 %")
    check_count("max_matvecs", max_matvecs)
    check_count("max_memory_bytes", max_memory_bytes)
    held = objective.frozen()
    held.value()  # names what is not finite, before anything else looks at the network
    slot = named_weight(held, weight)
    target = held.without_decay().restrict(slot.name)
    matrix = Hessian(target)
    check = matrix.check
    rows = target.params.cpu().double().view(slot.shape[0], -1)  # W (d, m)
    work = Work(progress)
    operator: LinearOperator = matrix.counting(work.add)
    if normalize_features:
        spread = feature_spread(held, slot)  # (m,)
        rows = rows * spread
        inverse = torch.where(spread > 0, 1 / spread, 0.0).repeat(len(rows))
        operator = Congruence(operator, Diagonal(inverse.to(target.params)))
    common: dict[str, Any] = {"weight": slot.name, "shape": tuple(slot.shape), "variant": variant}
    provenance: dict[str, Any] = {
        "function": "relative_flatness",
        "arguments": {
            "weight": weight,
            "variant": variant,
            "normalize_features": bool(normalize_features),
            "rtol": rtol,
            "max_matvecs": max_matvecs,
            "max_memory_bytes": max_memory_bytes,
            "seed": seed,
        },
        "objective": objective.describe(),
        "operator": check.to_dict(),
    }
    if variant == "eigenvalue":
        check_tolerances(matrix.dtype, rtol, None, 0.99)
        work.expect(len(rows) * min(rows.shape[1], 8) * objective.num_examples)
        solutions = [
            _largest(operator, i, rows, rtol, max_matvecs, max_memory_bytes, seed) for i in range(len(rows))
        ]
        weights = rows.square().sum(1)
        work.finish()
        return RelativeFlatness(
            value=float(sum(w * s.eigenvalues[0] for w, s in zip(weights, solutions, strict=True))),
            error=ErrorBudget(
                solver=float(sum(w * s.residuals[0] for w, s in zip(weights, solutions, strict=True)))
            ),
            provenance=provenance,
            method="lanczos",
            num_matvecs=sum(s.num_matvecs for s in solutions),
            **common,
        )
    factor = _factor(rows).to(target.params)
    congruent = Congruence(operator, RowFactor(factor, rows.shape[1]))
    if max_matvecs < min(LEAST, congruent.dim):
        raise ValueError(
            f"`max_matvecs` must be at least {min(LEAST, congruent.dim)}, got {max_matvecs}: fewer probes "
            "show no error."
        )
    estimate = estimate_trace(
        congruent,
        rng=generator(seed, "relative_flatness"),
        rtol=rtol,
        max_matvecs=max_matvecs,
        max_memory_bytes=max_memory_bytes,
        on_plan=lambda products: work.expect(products * objective.num_examples),
    )
    result = RelativeFlatness(
        value=estimate.value,
        error=ErrorBudget(probe=estimate.error),
        provenance={**provenance, "converged": estimate.converged},
        method=estimate.method,
        num_matvecs=estimate.num_matvecs,
        **common,
    )
    if not estimate.converged:
        assert estimate.error is not None
        raise ConvergenceError(
            f"{estimate.num_matvecs} products were spent and the standard error of the relative flatness, "
            f"{result.value:.4g}, is {estimate.error.value:.2g}, above rtol = {rtol} of it. Raise "
            "`max_matvecs` or `rtol`.",
            result,
        )
    work.finish()
    return result


def _factor(rows: Tensor) -> Tensor:
    """L ``(d, r)`` with L L' = W W' of W ``(d, m)``; r is the rank, but at least one."""
    U, values, _ = torch.linalg.svd(rows, full_matrices=False)
    rank = max(1, int((values > values[0] * 1e-12).sum()))
    return U[:, :rank] * values[:rank]


def _largest(
    operator: LinearOperator,
    i: int,
    rows: Tensor,
    rtol: float,
    max_matvecs: int,
    max_memory_bytes: int,
    seed: int,
) -> EigenSolution:
    """Largest eigenpair of H_ii of row i."""
    width = rows.shape[1]
    index = torch.arange(i * width, (i + 1) * width, device=operator.device)
    return lanczos_eigenpairs(
        Congruence(operator, Columns(index, operator.dim)),
        rng=generator(seed, "relative_flatness", i),
        rtol=rtol,
        max_matvecs=max_matvecs,
        max_memory_bytes=max_memory_bytes,
    )
