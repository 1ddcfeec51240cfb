"""Leading directions of the gradient noise and of the curvature, and what one pass says along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.core.progress import Work
from thalweg.core.rng import generator
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.lanczos import lanczos_eigenpairs
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment, noise_alignments
from thalweg.operators.batch_gradient_covariance import BatchGradientCovariance
from thalweg.operators.registry import operator_named
from thalweg.operators.unit_gradients import UnitGradients
from thalweg.stats.unit_forms import UnitForms

# How surely the eigenvectors found are those of the top; as in `top_eigenvalues`.
CERTIFY_RTOL = 0.1


@dataclass(frozen=True)
class NoiseDirections:
    """Eigenpairs of C, the deviations along them, and C against each curvature.

    Parameters
    ----------
    eigenvalues, eigenvalue_errors, residuals
        ``(k,)`` float64.
    eigenvectors
        ``(P, k)``.
    slopes
        ``(U, k)`` float64: each unit's deviation along each.
    alignments
        By the name of the curvature.
    num_matvecs
        Products of C with single vectors.
    checks
        How each matrix was proved, for provenance.
    """

    eigenvalues: Tensor
    eigenvalue_errors: Tensor
    residuals: Tensor
    eigenvectors: Tensor
    slopes: Tensor
    alignments: dict[str, NoiseAlignment]
    num_matvecs: int
    checks: dict[str, Any]


def no_directions(units: UnitGradients) -> NoiseDirections:
    """What is said along none."""
    nothing = torch.zeros(0, dtype=torch.float64)
    return NoiseDirections(
        eigenvalues=nothing,
        eigenvalue_errors=nothing,
        residuals=nothing,
        eigenvectors=units.mean[:, None][:, :0],
        slopes=torch.zeros(units.num_units, 0, dtype=torch.float64),
        alignments={},
        num_matvecs=0,
        checks={},
    )


def noise_directions(
    units: UnitGradients,
    forms: UnitForms,
    gradient: Tensor,
    work: Work,
    *,
    k: int,
    against: Sequence[str],
    num_probes: int,
    rtol: float,
    max_matvecs: int,
    max_memory_bytes: int,
    seed: int,
) -> NoiseDirections:
    """Solve for the k leading eigenpairs of C and of each curvature, then compare them.

    Parameters
    ----------
    units, forms
        Of the examples taken.
    gradient
        ``(P,)``, with the L2 term.
    work
        Counts examples times columns.
    k, against, num_probes, rtol, max_matvecs, max_memory_bytes, seed
        As in `gradient_noise`, k >= 1.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first; carries the partial `EigenSolution`.
    """
    checks: dict[str, Any] = {}

    def operator(name: str) -> LinearOperator:
        if name == "gradient_covariance" and units.in_batches:
            return BatchGradientCovariance(units)
        matrix = operator_named(name, units.objective, seed=seed)
        checks[name] = matrix.check.to_dict()
        return matrix.counting(work.add)

    def eigenpairs(name: str, matrix: LinearOperator) -> EigenSolution:
        return lanczos_eigenpairs(
            matrix,
            k,
            rng=generator(seed, "gradient_noise", name),
            rtol=rtol,
            certify_rtol=CERTIFY_RTOL,
            max_matvecs=max_matvecs,
            max_memory_bytes=max_memory_bytes,
        )

    noise = eigenpairs("gradient_covariance", operator("gradient_covariance"))
    curvatures = {}
    for name in against:
        matrix = operator(name)
        curvatures[name] = matrix, eigenpairs(name, matrix)
    compared = noise_alignments(
        units,
        forms,
        noise.eigenvectors,
        curvatures,
        gradient,
        num_probes=num_probes,
        rng=generator(seed, "gradient_noise", "probes"),
    )
    along = forms.covariance(compared.noise_slopes.square().numpy())
    return NoiseDirections(
        eigenvalues=noise.eigenvalues * forms.divisor,
        # Of first order an eigenvalue changes as the form of its vector does.
        eigenvalue_errors=torch.from_numpy(along.standard_error()),
        residuals=noise.residuals * forms.divisor,
        eigenvectors=noise.eigenvectors,
        slopes=compared.noise_slopes,
        alignments=compared.found,
        num_matvecs=noise.num_matvecs,
        checks=checks,
    )
