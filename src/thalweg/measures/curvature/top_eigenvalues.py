r"""Extreme eigenvalues of the loss Hessian: :math:`\lambda_{\max}`, the paper's proxy for sharpness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, Measurement, hash_tensors
from thalweg.core.progress import Progress
from thalweg.linalg.wanted_pairs import Which
from thalweg.objective.objective import Objective
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.operators.registry import operator_named
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue, not_above, not_below, ritz_pair
from thalweg.solvers.multilevel import MultilevelSolution, checked_levels, multilevel_eigenpairs
from thalweg.solvers.sampled_eigenvalue import AllExamples, SampledEigenvalue, sampled_eigenvalue
from thalweg.solvers.sampling_design import SAMPLED

# Of `rtol`.
RTOL = 1e-3
SAMPLED_RTOL = 0.02


@dataclass(frozen=True, kw_only=True, repr=False)
class TopEigenvalues(BoundedEigenvalue):
    """Eigenvalues at one or both ends, in loss / parameter^2; `value` is the first of them.

    ``error.solver`` is the first residual: how far the value can be from *an* eigenvalue. That it is the
    extreme one is a matter of `confidence`, and `interval` says what is known of that one.

    Of a sampled eigenvalue ``error.data`` is the standard error for the finite data set and ``error.solver``
    an estimated bound on the bias; `interval` is made of these two and is that of the eigenvalue whose
    direction was found. The bounds below are then one-sided limits, each with probability `confidence`, and
    count what may have been missed.

    Parameters
    ----------
    eigenvalues
        ``(k,)`` float64: descending for the top, ascending for the bottom; ``(2 k,)`` for both, top first.
    eigenvectors
        ``(P, k)``, unit columns in the objective's dtype.
    residuals
        ``(k,)`` bounds on ``||H v - lambda v||``: within each of its value lies *an* eigenvalue of H.
    num_matvecs
        Products with single vectors on the full data; `num_subset_matvecs` those on subsets or samples.
    lower_bound, upper_bound
        Of the extreme eigenvalue itself. The Ritz value is a certain bound on one side; on the other the
        bound holds with probability `confidence`, by what random vectors would have shown.
    smallest_lower_bound, smallest_upper_bound
        The same of the smallest eigenvalue where both ends were asked for; all four bounds then hold together
        with probability `confidence`. Else ``None``.
    """

    measure: ClassVar[str] = "top_eigenvalues"

    eigenvalues: Tensor
    eigenvectors: Tensor | None
    residuals: Tensor
    num_matvecs: int
    num_subset_matvecs: int
    smallest_lower_bound: float | None = None
    smallest_upper_bound: float | None = None

    @property
    def is_bottom(self) -> bool:
        """Whether `value` is the smallest eigenvalue rather than the largest."""
        return self.num_top == 0

    @property
    def is_sampled(self) -> bool:
        """Whether it was estimated from samples of the data."""
        return self.error.data is not None

    @property
    def num_top(self) -> int:
        """How many of the eigenvalues are of the top; those of the bottom follow."""
        return _num_top(len(self.eigenvalues), self.provenance.get("arguments", {}))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """As of every `BoundedEigenvalue`; of a sampled one, a two-sided interval at any level."""
        return Measurement.interval(self, level) if self.is_sampled else super().interval(level)

    def _parts(self) -> list[str]:
        if self.is_sampled:
            value = f"{self.value:.6g} ± {self.error.half_width(0.95):.2g} (95 %, if none was missed)"
            limits = (
                not_below(self.lower_bound, self.confidence),
                not_above(self.upper_bound, self.confidence),
            )
            return [value, f"in any case {limits[0]}", limits[1], *super()._parts()[2:]]
        value, bound, *mode = super()._parts()
        if self.smallest_lower_bound is None:
            return [value, bound, *mode]
        smallest = self._pair(min(self.num_top, len(self.eigenvalues) - 1))
        return [
            value,
            bound,
            f"smallest {smallest}",
            not_below(self.smallest_lower_bound, self.confidence),
            *mode,
        ]

    def _pair(self, i: int) -> str:
        return ritz_pair(float(self.eigenvalues[i]), float(self.residuals[i]))


def top_eigenvalues(
    objective: Objective,
    k: int = 1,
    *,
    which: Which = "top",
    of: str = "hessian",
    params: str | Sequence[str] | None = None,
    rtol: float | None = None,
    certify_rtol: float | None = 0.1,
    confidence: float = 0.99,
    sampled: bool = False,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    require_convergence: bool = True,
    levels: Sequence[int] | None = None,
    start: Tensor | None = None,
    composition: str = "auto",
    seed: int,
    progress: Progress | None = None,
) -> TopEigenvalues:
    r"""Find the extreme eigenvalues of the exact Hessian over all N examples, by block Lanczos.

    The last level is the whole data, and only its products count towards the residual; subsets before it give
    it warm vectors to start from. Random vectors ride along at every level, so that a direction which the
    warm ones do not show can still be found.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    k
        Eigenpairs at each end asked for, at most P in all.
    which
        ``"top"`` (algebraically largest first), ``"bottom"`` (smallest first) or ``"both"``.
    of
        The matrix: ``"hessian"``, ``"ggn"``, the generalised Gauss-Newton matrix, or another of
        `thalweg.operators.registry.OPERATORS`.
    params
        Only the block of the parameters that match, ``"layer4.*"``.
    rtol
        Bound on ``|error| / ||H||``: every residual is at most this times the largest absolute Ritz value.
        Default: 1e-3. With `sampled`, half of the interval at `confidence` over the value. Default: 0.02.
    certify_rtol
        Go on until the probabilistic bound on the extreme eigenvalue is within this times ``||H||`` of the
        value, so that none larger by more than that has been missed. ``None`` takes the bound as it comes:
        the value is then an eigenvalue, and with a rough `rtol` hardly known to be the extreme one.
    confidence
        Probability with which that bound holds, over the random vectors; with `sampled`, each limit.
    sampled
        Estimate one eigenvalue from independent samples of the examples, drawn by importance, until `rtol` is
        met: see `thalweg.solvers.sampled_eigenvalue`. All the data are taken where samples would come to as
        many, `certify_rtol` then being at most `rtol`; the provenance says which it was.
    max_matvecs
        Most products with single vectors on the full data, or on each sample.
    max_memory_bytes
        Bound on basis, products and returned vectors together: where it is short the basis restarts smaller,
        which takes more products.
    require_convergence
        Raise if `max_matvecs` is spent first; else the partial result is returned, and says that it has not
        converged. A sample that spends it raises all the same: its unfinished solution bounds nothing of the
        data, for the error of a sampled value is the spread between samples that were solved.
    levels
        Sizes of the subsets, ascending; ``()`` starts cold. Default: cold with a certificate, which costs as
        many products as a cold solve in any case; without one, those of
        `thalweg.solvers.multilevel.default_levels`: a 32nd of N, but at least 512.
    start
        ``(P, W)`` vectors to start from instead of subsets: eigenvectors of a nearby point, say.
    composition
        How to differentiate; see `thalweg.operators.hessian.Hessian` and `thalweg.operators.ggn.GGN`.
    seed
        Of the subsets and the random vectors, and of the labels of ``"monte_carlo_fisher"``.
    progress
        Called with work done and an estimate of the whole.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first and `require_convergence` is set; carries the partial
        `TopEigenvalues`. Whatever is set, if a sample spent it; carries None.
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.
    ValueError
        If an argument is out of range, or the memory does not hold the smallest basis that works.

    References
    ----------
    Golub and Underwood (1977), block Lanczos; van Dorsselaer, Hochstenbach and van der Vorst (2000), SIAM J.
    Matrix Anal. Appl. 22(3), the probabilistic bound.
    """
    check_count("k", k)
    check_flag("sampled", sampled)
    check_flag("require_convergence", require_convergence)
    check_count("max_memory_bytes", max_memory_bytes)
    if which not in ("top", "bottom", "both"):
        raise ValueError(f"`which` must be 'top', 'bottom' or 'both', got {which!r}.")
    operator = operator_named(of, objective, params, composition=composition, seed=seed)
    num_wanted = 2 * k if which == "both" else k
    if num_wanted > operator.dim:
        raise ValueError(
            f"`k` = {k} with which={which!r} asks for {num_wanted} eigenpairs of a matrix that has "
            f"P = {operator.dim}, the number of parameters; ask for fewer."
        )
    if sampled:
        _refuse_unsampled(of, k, which, levels)
    rtol = rtol if rtol is not None else SAMPLED_RTOL if sampled else RTOL
    sizes = None if levels is None else checked_levels(levels, objective.num_examples)
    provenance: dict[str, Any] = {
        "function": "top_eigenvalues",
        "arguments": {
            "k": k,
            "which": which,
            "of": of,
            "params": params if params is None or isinstance(params, str) else list(params),
            "rtol": rtol,
            "certify_rtol": certify_rtol,
            "confidence": confidence,
            "sampled": sampled,
            "max_matvecs": max_matvecs,
            "max_memory_bytes": max_memory_bytes,
            "require_convergence": require_convergence,
            "levels": None if sizes is None else list(sizes),
            "start": None if start is None else hash_tensors(start),
            "composition": composition,
            "seed": seed,
        },
        "objective": objective.describe(),
    }
    num_sampled = 0
    if sampled:
        found = _sampled(
            operator,
            which=which,
            rtol=rtol,
            certify_rtol=certify_rtol,
            confidence=confidence,
            max_matvecs=max_matvecs,
            max_memory_bytes=max_memory_bytes,
            start=start,
            seed=seed,
            progress=progress,
        )
        if isinstance(found, SampledEigenvalue):
            return _sampled_result(found, operator, provenance)
        # What was asked for is the accuracy of the whole interval.
        certify_rtol = None if certify_rtol is None else min(certify_rtol, rtol)
        start, num_sampled = (start if found.vector is None else found.vector), found.num_columns
        provenance["sampling"] = {"taken": "all examples", "num_multiplied": found.num_multiplied}
    try:
        solved = multilevel_eigenpairs(
            operator,
            k,
            which=which,
            rtol=rtol,
            certify_rtol=certify_rtol,
            confidence=confidence,
            max_matvecs=max_matvecs,
            max_memory_bytes=max_memory_bytes,
            require_convergence=require_convergence,
            levels=sizes,
            start=start,
            seed=seed,
            progress=progress,
        )
    except ConvergenceError as error:
        partial = _result(error.partial, operator, provenance, num_sampled)
        raise ConvergenceError(str(error), partial) from None
    return _result(solved, operator, provenance, num_sampled)


def _refuse_unsampled(of: str, k: int, which: str, levels: Sequence[int] | None) -> None:
    """What samples cannot tell."""
    if of not in SAMPLED:
        raise ValueError(f"`sampled` takes of={' or '.join(map(repr, SAMPLED))}, got {of!r}.")
    if k != 1 or which == "both":
        raise ValueError(
            f"`sampled` estimates one eigenvalue at one end, got k={k}, which={which!r}: the limits on both "
            "sides are those of the extreme one. Ask for each end in a call of its own."
        )
    if levels is not None:
        raise ValueError(
            f"`levels` are subsets of an exact solution; leave them out with `sampled`, got {levels}."
        )


def _sampled(operator: ObjectiveOperator, **arguments: Any) -> SampledEigenvalue | AllExamples:
    try:
        return sampled_eigenvalue(operator, **arguments)
    except ConvergenceError as error:
        # One sample's solution is no result for the data.
        raise ConvergenceError(f"Of a sample: {error}") from None


def _result(
    solved: MultilevelSolution, operator: ObjectiveOperator, provenance: dict[str, Any], num_sampled: int
) -> TopEigenvalues:
    solution = solved.solution
    first = solution.bound
    smallest = solution.bottom if solution.top else None
    return TopEigenvalues(
        value=float(solution.eigenvalues[0]),
        error=ErrorBudget(solver=float(solution.residuals[0])),
        provenance={
            **provenance,
            "operator": operator.check.to_dict(),
            "levels": list(solved.levels),
            "converged": solution.converged,
        },
        eigenvalues=solution.eigenvalues,
        eigenvectors=solution.eigenvectors.cpu(),
        residuals=solution.residuals,
        num_matvecs=solution.num_matvecs,
        num_subset_matvecs=solved.num_subset_matvecs + num_sampled,
        lower_bound=first.lower,
        upper_bound=first.upper,
        confidence=first.confidence,
        smallest_lower_bound=smallest and smallest.lower,
        smallest_upper_bound=smallest and smallest.upper,
    )


def _sampled_result(
    found: SampledEigenvalue, operator: ObjectiveOperator, provenance: dict[str, Any]
) -> TopEigenvalues:
    return TopEigenvalues(
        value=found.value,
        error=found.error,
        provenance={
            **provenance,
            "operator": operator.check.to_dict(),
            "sampling": {
                "taken": "samples",
                "in_proportion_to": found.proxy,
                "num_samples": len(found.inner),
                "sample_size": found.sample_size,
                "num_multiplied": found.num_multiplied,
            },
            "converged": True,
        },
        eigenvalues=torch.tensor([found.value], dtype=torch.float64),
        eigenvectors=found.vector.cpu(),
        residuals=torch.tensor([found.residual], dtype=torch.float64),
        num_matvecs=0,
        num_subset_matvecs=found.num_columns,
        lower_bound=found.lower,
        upper_bound=found.upper,
        confidence=found.confidence,
    )


def _num_top(num_found: int, arguments: Mapping[str, Any]) -> int:
    """Eigenvalues of the top among those found, of which a partial result may have fewer than asked for."""
    which = arguments.get("which", "top")
    return 0 if which == "bottom" else min(arguments["k"], num_found) if which == "both" else num_found
