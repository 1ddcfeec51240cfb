r"""Extreme eigenvalues of the loss Hessian: :math:`\lambda_{\max}`, the paper's proxy for sharpness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, Measurement
from thalweg.linalg.lanczos import EigenSolution
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers.multilevel import multilevel_eigenpairs

Progress = Callable[[int, int], None]

OPERATORS = {"hessian": Hessian}


@dataclass(frozen=True, kw_only=True, repr=False)
class TopEigenvalues(Measurement):
    """Eigenvalues at one or both ends, in loss / parameter^2; `value` is the first of them.

    Parameters
    ----------
    eigenvalues
        ``(k,)`` float64: descending for the top, ascending for the bottom; ``(2 k,)`` for both, top first.
    eigenvectors
        ``(P, k)``, unit columns in the objective's dtype.
    residuals
        ``(k,)`` bounds on ``||H v - lambda v||``: within each of its value lies *an* eigenvalue of H.
    num_matvecs
        Products with single vectors on the full data; `num_subset_matvecs` those on subsets.
    lower_bound, upper_bound
        Of the extreme eigenvalue itself. The Ritz value is a certain bound on one side; on the other the bound
        holds with probability `confidence`, by what random vectors would have shown.
    """

    measure: ClassVar[str] = "top_eigenvalues"

    eigenvalues: Tensor
    eigenvectors: Tensor | None
    residuals: Tensor
    num_matvecs: int
    num_subset_matvecs: int
    lower_bound: float
    upper_bound: float
    confidence: float


def top_eigenvalues(
    objective: Objective,
    k: int = 1,
    *,
    which: Literal["top", "bottom", "both"] = "top",
    of: str = "hessian",
    params: str | Sequence[str] | None = None,
    rtol: float = 1e-3,
    max_matvecs: int = 2000,
    levels: Sequence[int] | None = None,
    start: Tensor | None = None,
    composition: str = "auto",
    seed: int,
    progress: Progress | None = None,
) -> TopEigenvalues:
    r"""Find the extreme eigenvalues of the exact Hessian over all N examples, by block Lanczos.

    The solve starts on a small subset and is warm-started on larger ones; the last level is the whole data, and
    only its products count towards the residual. Random vectors ride along at every level, so that a direction
    which the subsets do not show can still be found.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    k
        Eigenpairs at each end asked for, at most P.
    which
        ``"top"`` (algebraically largest first), ``"bottom"`` (smallest first) or ``"both"``.
    of
        The matrix: ``"hessian"``.
    params
        Only the block of the parameters that match, ``"layer4.*"``.
    rtol
        Bound on ``|error| / ||H||``: every residual is at most this times the largest absolute Ritz value.
    max_matvecs
        Most products with single vectors on the full data.
    levels
        Sizes of the subsets, ascending. Default: N / 8^i while that is at least 512; ``()`` starts cold.
    start
        ``(P, W)`` vectors to start from instead of subsets: eigenvectors of a nearby point, say.
    composition
        How to differentiate; see `thalweg.operators.hessian.Hessian`.
    seed
        Of the subsets and the random vectors.
    progress
        Called with work done and an estimate of the whole.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first; carries the partial `TopEigenvalues`.
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.

    References
    ----------
    Golub and Underwood (1977), block Lanczos; van Dorsselaer, Hochstenbach and van der Vorst (2000), SIAM J.
    Matrix Anal. Appl. 22(3), the probabilistic bound.
    """
    if of not in OPERATORS:
        raise ValueError(f"`of` must be one of {', '.join(OPERATORS)}, got {of!r}.")
    target = objective if params is None else objective.restrict(params)
    if k > target.space.dim:
        raise ValueError(f"`k` must be at most P = {target.space.dim}, the number of parameters, got {k}.")
    operator = OPERATORS[of](target, composition)
    provenance: dict[str, Any] = {
        "function": "top_eigenvalues",
        "arguments": {
            "k": k,
            "which": which,
            "of": of,
            "params": params if params is None or isinstance(params, str) else list(params),
            "rtol": rtol,
            "max_matvecs": max_matvecs,
            "levels": None if levels is None else list(levels),
            "start": None if start is None else "given",
            "composition": composition,
            "seed": seed,
        },
        "objective": objective.describe(),
    }
    try:
        solved = multilevel_eigenpairs(
            operator,
            k,
            which=which,
            rtol=rtol,
            max_matvecs=max_matvecs,
            levels=levels,
            start=start,
            seed=seed,
            progress=progress,
        )
    except ConvergenceError as error:
        provenance["operator"] = operator.check.to_dict()
        partial = _result(error.partial, provenance, 0, ()) if error.partial else None
        raise ConvergenceError(str(error), partial) from None
    provenance["operator"] = operator.check.to_dict()
    return _result(solved.solution, provenance, solved.num_subset_matvecs, solved.levels)


def _result(
    solution: EigenSolution, provenance: dict[str, Any], num_subset_matvecs: int, levels: Sequence[int]
) -> TopEigenvalues:
    bound = solution.bound
    return TopEigenvalues(
        value=float(solution.eigenvalues[0]),
        error=ErrorBudget(solver=float(solution.residuals[0])),
        provenance={**provenance, "levels": list(levels), "converged": solution.converged},
        eigenvalues=solution.eigenvalues,
        eigenvectors=solution.eigenvectors.cpu(),
        residuals=solution.residuals,
        num_matvecs=solution.num_matvecs,
        num_subset_matvecs=num_subset_matvecs,
        lower_bound=bound.lower,
        upper_bound=bound.upper,
        confidence=bound.confidence,
    )
