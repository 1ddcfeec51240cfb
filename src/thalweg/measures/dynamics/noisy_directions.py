"""The sharpest directions of the loss at a point, and how much the gradient's noise shakes each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.core.precision import full_precision
from thalweg.core.progress import Work
from thalweg.objective.objective import Objective
from thalweg.operators.registry import operator_named
from thalweg.operators.unit_gradients import UnitGradients
from thalweg.solvers.multilevel import multilevel_eigenpairs


@dataclass(frozen=True)
class NoisyDirections:
    """Top eigenvectors of the Hessian with the variance of the gradient of one unit along each.

    Parameters
    ----------
    objective
        The function, its recalibrated statistics held constant, and the point.
    eigenvalues, eigenvectors, residuals
        ``(k,)`` float64, ``(P, k)`` and ``(k,)``, largest first, all eigenvalues above nought.
    variances, trace
        ``(k,)`` float64 and a number: of the gradient at one unit drawn in proportion to its examples, along
        these and in all directions together.
    check
        How the Hessian was proved.
    """

    objective: Objective
    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    variances: Tensor
    trace: float
    check: dict[str, Any]

    def batch_gradient(self, params: Tensor, index: Tensor) -> Tensor:
        """``(P,)``: mean gradient of the loss over these examples, L2 term and all."""
        return self.objective.select(index).at(params).gradient()

    def loss(self, params: Tensor) -> float:
        """Over all the examples."""
        return self.objective.at(params).value()


def noisy_directions(
    objective: Objective,
    k: int,
    *,
    rtol: float,
    max_matvecs: int,
    max_memory_bytes: int,
    seed: int,
    work: Work,
    after: int,
) -> NoisyDirections:
    """Solve for k eigenpairs, then go over the gradients of all units.

    Parameters
    ----------
    objective
        Not frozen yet.
    k, rtol, max_matvecs, max_memory_bytes, seed
        Of the eigenpairs.
    work, after
        Counts examples times columns; so much is to come afterwards.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first.
    ValueError
        If fewer than k eigenvalues are above nought: along others there is no force back.
    """
    hessian = operator_named("hessian", objective, seed=seed)
    if k > hessian.dim:
        raise ValueError(
            f"`num_directions` must be at most P = {hessian.dim}, the number of parameters, got {k}."
        )
    solution = multilevel_eigenpairs(
        hessian,
        k,
        rtol=rtol,
        max_matvecs=max_matvecs,
        max_memory_bytes=max_memory_bytes,
        seed=seed,
        progress=work.part(after=after + 3 * objective.num_examples),
    ).solution
    num_positive = int((solution.eigenvalues > 0).sum())
    if num_positive < k:
        raise ValueError(
            f"`num_directions` must be at most {num_positive}, since the Hessian's next eigenvalue is "
            f"{float(solution.eigenvalues[num_positive]):.4g}, along which nothing holds SGD back, got {k}."
        )
    units = UnitGradients(objective, max_memory_bytes, work.add)
    vectors = solution.eigenvectors.to(units.mean)
    with full_precision():
        squares, _ = units.squares(units.mean)
        slopes, _ = units.slopes(vectors)
    shares = units.sizes / units.sizes.sum()
    return NoisyDirections(
        objective=units.objective,
        eigenvalues=solution.eigenvalues.cpu().double(),
        eigenvectors=vectors,
        residuals=solution.residuals.cpu().double(),
        variances=shares @ slopes.square(),
        trace=float(shares @ squares),
        check=hessian.check.to_dict(),
    )
