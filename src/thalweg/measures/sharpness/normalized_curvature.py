r"""Curvature relative to the weights: the largest eigenvalue and the trace of :math:`D H D`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from thalweg.core.arguments import check_count, check_flag, check_fraction
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator
from thalweg.linalg.trace import LEAST, estimate_trace
from thalweg.linalg.trace_estimate import TraceEstimate
from thalweg.measures.sharpness.coordinates import (
    Norms,
    Scaling,
    check_coordinates,
    chosen_pairs,
    coordinates,
)
from thalweg.objective.batch_norm import batch_norm_layers
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.congruent import CongruentOperator
from thalweg.operators.registry import operator_named
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue, largest_of
from thalweg.solvers.multilevel import MultilevelSolution, checked_levels, multilevel_eigenpairs


@dataclass(frozen=True, kw_only=True, repr=False)
class NormalizedCurvature(BoundedEigenvalue):
    """The largest eigenvalue of the matrix in the coordinates asked for, and its trace.

    In the unit of the loss where D scales; in loss / parameter^2 with ``scaling="none"``.

    Parameters
    ----------
    scaling, norms
        As asked.
    norm_layers
        Batch norms that were projected or folded; the others are as they were.
    direction
        ``(P,)``, on the CPU: the eigenvector as a step of the parameters, of length one in the coordinates.
        Along it the loss curves by `value`.
    trace, trace_error, trace_dof
        The trace, the standard error of its probes (nought if exact) and that one's degrees of freedom;
        ``None`` where it was not asked for. See `trace_interval`.
    num_matvecs, num_subset_matvecs, num_trace_matvecs
        Products with single vectors: for the eigenvalue on the full data and on subsets, and for the trace.
    """

    measure: ClassVar[str] = "normalized_curvature"

    scaling: str
    norms: str
    norm_layers: tuple[str, ...]
    direction: Tensor | None
    trace: float | None
    trace_error: float | None
    trace_dof: float | None
    num_matvecs: int
    num_subset_matvecs: int
    num_trace_matvecs: int

    def trace_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval for the trace.

        Raises
        ------
        ValueError
            If the trace was not asked for.
        """
        check_fraction("level", level, "0.95 is customary")
        if self.trace is None or self.trace_error is None or self.trace_dof is None:
            raise ValueError("the trace was not computed, for `trace_rtol` was None; set it to 0.1, say.")
        half = StandardError(self.trace_error, self.trace_dof).half_width(level)
        return self.trace - half, self.trace + half


def normalized_curvature(
    objective: Objective,
    *,
    scaling: Scaling = "element",
    norms: Norms = "kept",
    of: str = "hessian",
    rtol: float = 1e-2,
    certify_rtol: float | None = 0.1,
    confidence: float = 0.99,
    trace_rtol: float | None = 0.1,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    require_convergence: bool = True,
    levels: Sequence[int] | None = None,
    seed: int,
    progress: Progress | None = None,
) -> NormalizedCurvature:
    r"""Largest eigenvalue and trace of the Hessian in coordinates :math:`\delta = D u` that follow weights.

    ``"element"``: :math:`D = \mathrm{diag}(|\theta_i|)`, so that :math:`(D H D)_{ij} = |\theta_i \theta_j|
    H_{ij}`. A change of the network that multiplies each parameter by a number and leaves the function alone
    divides H_ij by both factors, and DHD stays: rescaled ReLU units, rescaled filters before batch norm.
    ``"filter"``: D is the norm of the filter. That follows factors of whole filters, and of whole layers, but
    not those of single inputs, which the units before have if they are rescaled one by one. What `norms`
    does is told in `thalweg.measures.sharpness.coordinates`; with ``"projected"`` and batch statistics the
    matrix under ``scaling="filter"`` is the Riemannian Hessian of the loss on the spheres that the filters
    before batch norm lie on, while under ``"none"`` it still grows as filters shrink.

    The L2 term of the objective is left out: it does not belong to the function that the network computes,
    and no change of the parameters leaves it alone. D is held constant: this is the curvature along straight
    lines of the parameters, not along geodesics.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    scaling
        ``"element"``, ``"filter"``, or ``"none"`` for D = I. How many parameters are nought and do not move,
        or underflow, the result says.
    norms
        ``"kept"``, ``"projected"`` or ``"folded"``. Without batch norm all are the same.
    of
        The matrix: ``"hessian"``, ``"ggn"``, or another of `thalweg.operators.registry.OPERATORS`.
    rtol, certify_rtol, confidence, levels
        Of the eigenvalue, relative to ||DHD||; see `top_eigenvalues`.
    trace_rtol
        Target standard error of the trace over its value, in (0, 1). ``None`` saves the trace, which takes
        24 products at the least.
    max_matvecs
        Most products with single vectors on the full data, for the eigenvalue and again for the trace.
    max_memory_bytes
        Bound on the vectors that the eigenvalue's solver holds, and again the trace's; see `top_eigenvalues`
        and `hessian_trace`.
    require_convergence
        Raise if `max_matvecs` is spent first; else the partial result says that it has not converged.
    seed
        Of the subsets, the random vectors and the probes.
    progress
        Called with work done and an estimate of the whole, in examples times products.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first and `require_convergence` is set; carries the partial
        `NormalizedCurvature`.
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.
    ValueError
        If an argument is out of range; if batch norm is to be projected or folded and follows no layer that
        it could be; for folded batch statistics.

    References
    ----------
    Tsuzuku, Sato and Sugiyama (2020), ICML, and Kwon, Kim, Park and Choi (2021), ASAM, ICML: steps relative
    to weights. Li, Xu, Taylor, Studer and Goldstein (2018), NeurIPS: filters. Cho and Lee (2017), NeurIPS:
    batch norm's filters as points of a sphere. Dinh, Pascanu, Bengio and Bengio (2017), ICML: why.
    """
    check_objective("objective", objective)
    check_coordinates(scaling, norms, objective)
    check_count("max_matvecs", max_matvecs)
    check_count("max_memory_bytes", max_memory_bytes)
    check_flag("require_convergence", require_convergence)
    if trace_rtol is not None:
        check_fraction("trace_rtol", trace_rtol, "0.1 asks for 10 % standard error, None for no trace")
    sizes = None if levels is None else checked_levels(levels, objective.num_examples)
    matrix = operator_named(of, objective.frozen().without_decay(), seed=seed)
    check = matrix.check  # before anything else looks at the network: it names what is not finite
    pairs = chosen_pairs(matrix.objective, norms)
    maps, held = coordinates(matrix.objective, scaling, norms, pairs)
    operator = CongruentOperator(matrix, *maps)
    if trace_rtol is not None and max_matvecs < min(LEAST, operator.dim):
        raise ValueError(
            f"`max_matvecs` must be at least {min(LEAST, operator.dim)} for a trace with an error, got "
            f"{max_matvecs}; raise it, or save the trace by trace_rtol=None."
        )
    layers = tuple(norm for _, norm in pairs)
    provenance: dict[str, Any] = {
        "function": "normalized_curvature",
        "arguments": {
            "scaling": scaling,
            "norms": norms,
            "of": of,
            "rtol": rtol,
            "certify_rtol": certify_rtol,
            "confidence": confidence,
            "trace_rtol": trace_rtol,
            "max_matvecs": max_matvecs,
            "max_memory_bytes": max_memory_bytes,
            "require_convergence": require_convergence,
            "levels": None if sizes is None else list(sizes),
            "seed": seed,
        },
        "objective": objective.describe(),
        "operator": check.to_dict(),
        "at_rest": held,
        "norms_kept": [n for n in batch_norm_layers(objective.loss.model) if n not in layers],
    }

    def result(solved: MultilevelSolution, trace: TraceEstimate | None = None) -> NormalizedCurvature:
        error = (trace.error or StandardError(0.0, 1e6)) if trace else None
        return NormalizedCurvature(
            **largest_of(solved.solution),
            provenance={
                **provenance,
                "levels": list(solved.levels),
                "converged": solved.solution.converged and (trace is None or trace.converged),
                "trace_method": trace and trace.method,
            },
            scaling=scaling,
            norms=norms,
            norm_layers=layers,
            direction=operator.into(solved.solution.eigenvectors[:, :1])[:, 0].cpu(),
            trace=trace and trace.value,
            trace_error=error and error.value,
            trace_dof=error and error.dof,
            num_matvecs=solved.solution.num_matvecs,
            num_subset_matvecs=solved.num_subset_matvecs,
            num_trace_matvecs=trace.num_matvecs if trace else 0,
        )

    work, num_examples = Work(progress), matrix.objective.num_examples
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
            seed=seed,
            # How much the trace will take is not known yet; that it takes something, shows.
            progress=work.part(after=0 if trace_rtol is None else LEAST * num_examples),
        )
    except ConvergenceError as error:
        partial = result(error.partial)
        raise ConvergenceError(str(error), partial) from None
    if trace_rtol is None:
        return result(solved)
    before = work.done
    trace = estimate_trace(
        operator.counting(work.add),
        rng=generator(seed, "normalized_curvature", "trace"),
        rtol=trace_rtol,
        max_matvecs=max_matvecs,
        max_memory_bytes=max_memory_bytes,
        on_plan=lambda products: work.expect(before + products * num_examples),
    )
    found = result(solved, trace)
    if require_convergence and not trace.converged:
        raise ConvergenceError(
            f"{trace.num_matvecs} products were spent and the standard error of the trace, "
            f"{trace.value:.4g}, is {found.trace_error:.2g}, above trace_rtol = {trace_rtol} of it. "
            "Raise `max_matvecs` or `trace_rtol`.",
            found,
        )
    work.finish()
    return found
