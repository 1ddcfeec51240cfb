r"""The covariance C of the gradients against a curvature matrix A: how far C is proportional to it.

.. math:: \cos(A, C) = \frac{\mathrm{tr}(A C)}{\lVert A \rVert_F \lVert C \rVert_F}, \qquad
   c_i = v_i^\top C v_i, \quad A v_i = \lambda_i v_i

The cosine is 1 if and only if C is a positive multiple of A; then the :math:`c_i` are proportional to the
:math:`\lambda_i`. All three traces come of the same products: exactly on the span Q of the leading
eigenvectors of all matrices, by shared random signs, projected, on what is orthogonal to it,

.. math:: \mathrm{tr}(A C) = \langle A Q, C Q \rangle + \mathrm{E} \langle A y, C y \rangle, \qquad
   y = (I - Q Q^\top) z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy
import torch
from torch import Tensor

from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.precision import full_precision
from thalweg.linalg.deflation import orthonormal_basis, without
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.estimate import Estimate
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.probing import blocks, signs
from thalweg.linalg.sum_operator import column_products
from thalweg.operators.unit_gradients import UnitGradients
from thalweg.stats.unit_forms import LeftOut, UnitForms


@dataclass(frozen=True, kw_only=True, repr=False)
class NoiseAlignment(Measurement):
    """`value` is the cosine of C and A as matrices, -1 to 1.

    ``error.probe`` is the jackknife's over the probes; ``None`` where P is so small that none were needed. Of
    a sample of the examples the cosine is that of the examples taken, whatever it says of others.

    Parameters
    ----------
    of
        ``"hessian"`` or ``"ggn"``: A.
    eigenvalues, eigenvectors, residuals
        ``(k,)``, ``(P, k)`` and ``(k,)``: the top of A.
    noise_along, noise_along_errors
        ``(k,)`` float64: Rayleigh quotients of C along these eigenvectors, which are held fixed, and their
        standard errors over the data; nought where all the examples were taken.
    angles
        ``(k,)`` float64, radians, largest first: principal angles between the spans of these eigenvectors and
        of as many of C's. Where the k th and the next eigenvalue of either are nearly the same, the last
        eigenvector is any of many, and the largest angle with it.
    trace_product, trace_product_error
        tr(A C) and its standard error over the probes.
    signal_to_noise, signal_to_noise_probe_error, signal_to_noise_data_error
        G.AG / tr(A C), of single examples, and its standard errors over the probes and the data.
    samples
        ``(R, 3)`` float64: each probe's estimate of tr(A C), ||A||_F^2 and ||C||_F^2; R = 1 if exact.
    dof
        Degrees of freedom of what is over the data.
    num_matvecs
        Products of A with single vectors.
    """

    measure: ClassVar[str] = "noise_alignment"
    quantity: ClassVar[str] = "cosine of C and the curvature"

    of: str
    eigenvalues: Tensor
    eigenvectors: Tensor | None
    residuals: Tensor
    noise_along: Tensor
    noise_along_errors: Tensor
    angles: Tensor
    trace_product: float
    trace_product_error: float
    signal_to_noise: float
    signal_to_noise_probe_error: float
    signal_to_noise_data_error: float
    samples: Tensor
    dof: int
    num_matvecs: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval for the cosine at confidence `level`, within -1 and 1."""
        low, high = super().interval(level)
        return max(-1.0, low), min(1.0, high)

    @property
    def noise_scale(self) -> float:
        """tr(A C) / (G.AG) in examples: McCandlish's B_noise, with A in the place of the Hessian.

        Negative where A is, along the gradient; infinite where the gradient is nought.
        """
        return 1 / self.signal_to_noise if self.signal_to_noise else math.inf

    def noise_scale_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval of the noise scale: the reciprocals of that of the signal-to-noise ratio.

        Where G.AG could be nought the scale has no upper end, and no lower one either of a Hessian, along
        which it could be negative.
        """
        probe = StandardError(self.signal_to_noise_probe_error, max(1, len(self.samples) - 1))
        data = StandardError(self.signal_to_noise_data_error, self.dof)
        half = ErrorBudget(probe=probe, data=data).half_width(level)
        low, high = self.signal_to_noise - half, self.signal_to_noise + half
        if low > 0 or high < 0:
            return 1 / high, 1 / low
        return (1 / high if self.of == "ggn" and high > 0 else -math.inf), math.inf

    @property
    def subspace_overlap(self) -> float:
        """Mean squared cosine of the angles: 1 for one subspace, k / P on average for random ones."""
        return float(self.angles.cos().square().mean())


@dataclass(frozen=True)
class Alignments:
    """What one pass over the units gives: the slopes along C's eigenvectors, and each alignment.

    Parameters
    ----------
    noise_slopes
        ``(U, k)``: deviations along the eigenvectors of C.
    found
        By the name of the curvature.
    """

    noise_slopes: Tensor
    found: dict[str, NoiseAlignment]


def noise_alignments(
    units: UnitGradients,
    forms: UnitForms,
    noise_vectors: Tensor,
    curvatures: Mapping[str, tuple[LinearOperator, EigenSolution]],
    gradient: Tensor,
    *,
    num_probes: int,
    rng: torch.Generator,
) -> Alignments:
    """Compare C with each curvature, by one pass over the units for all of them.

    Parameters
    ----------
    units, forms
        Of the examples taken.
    noise_vectors
        ``(P, k)``: the leading eigenvectors of their C.
    curvatures
        A and its top eigenpairs by name.
    gradient
        ``(P,)``, with the L2 term.
    num_probes
        R >= 2.
    rng
        CPU generator of the probes.
    """
    vectors = [noise_vectors, *(solution.eigenvectors for _, solution in curvatures.values())]
    with full_precision():
        basis, num_known = _basis(vectors, num_probes, rng) if curvatures else (gradient[:, None][:, :0], 0)
        along = torch.cat([basis, gradient[:, None]], 1)
        products = {
            name: torch.cat([operator @ along[:, i : i + n] for i, n in _cuts(along.shape[1])], 1)
            for name, (operator, _) in curvatures.items()
        }
        wanted = {"basis": basis, "noise": noise_vectors}
        for name, (_, solution) in curvatures.items():
            wanted[name] = solution.eigenvectors
            if forms.share < 1:  # only then have sums over the units an error
                wanted[f"products {name}"] = products[name]
        slopes, noise_products = units.slopes(torch.cat(list(wanted.values()), 1), basis.shape[1])
    widths = [block.shape[1] for block in wanted.values()]
    cut = dict(zip(wanted, slopes.split(widths, dim=1), strict=True))
    noise_products = noise_products * forms.divisor
    found = {
        name: _alignment(
            name,
            solution,
            forms,
            noise_vectors,
            _traces(products[name][:, :-1], noise_products, num_known),
            _along_gradient(products[name], gradient, cut, name, forms, num_known),
            cut[name],
            solution.num_matvecs + along.shape[1],
        )
        for name, (_, solution) in curvatures.items()
    }
    return Alignments(cut["noise"], found)


def _basis(vectors: list[Tensor], num_probes: int, rng: torch.Generator) -> tuple[Tensor, int]:
    """Orthonormal columns to be summed over, then probes of what they leave; and how many the first are."""
    V = torch.cat(vectors, 1)
    if V.shape[1] + num_probes >= len(V):
        return torch.eye(len(V), dtype=V.dtype, device=V.device), len(V)
    Q, _ = orthonormal_basis(V)
    return torch.cat([Q, without(Q, signs(rng, len(V), num_probes, V))], 1), V.shape[1]


def _cuts(count: int) -> list[tuple[int, int]]:
    sizes = blocks(count)
    return [(sum(sizes[:i]), n) for i, n in enumerate(sizes)]


def _traces(curvature: Tensor, noise: Tensor, num_known: int) -> Tensor:
    """``(R, 3)``: tr(A C), ||A||_F^2 and ||C||_F^2 by each probe, from products with the basis."""
    pairs = (curvature, noise), (curvature, curvature), (noise, noise)
    return _by_probe(torch.stack([column_products(a, b) for a, b in pairs], 1), num_known)


def _by_probe(columns: Tensor, num_known: int) -> Tensor:
    """``(R, ...)``: the sum over the first columns ``(K, ...)``, and on it each of the others, if any."""
    known, probed = columns[:num_known].sum(0, keepdim=True), columns[num_known:]
    return known + probed if len(probed) else known


@dataclass(frozen=True)
class _AlongGradient:
    """tr(A C) and g.Ag ``(R,)``, as sums over the units say them; of a sample their quotient."""

    trace: Tensor | None
    square: Tensor
    quotient: LeftOut | None


def _along_gradient(
    products: Tensor, gradient: Tensor, cut: dict[str, Tensor], name: str, forms: UnitForms, num_known: int
) -> _AlongGradient:
    square = float(column_products(gradient[:, None], products[:, -1:]))
    if forms.share == 1:
        return _AlongGradient(None, torch.tensor([square], dtype=torch.float64), None)
    columns = cut["basis"] * cut[f"products {name}"][:, :-1]  # (U, K): what e'Ae is the sum or the mean of
    by_probe = _by_probe(columns.T, num_known).T.numpy()  # (U, R)
    crosses = cut[f"products {name}"][:, -1:].numpy()
    trace, squares = forms.covariance(by_probe), forms.of_mean(square, crosses, by_probe)
    mean = by_probe.mean(1)
    quotient = forms.of_mean(square, crosses[:, 0], mean).of(np.divide, forms.covariance(mean))
    return _AlongGradient(torch.from_numpy(trace.value), torch.from_numpy(squares.value), quotient)


def _alignment(
    name: str,
    solution: EigenSolution,
    forms: UnitForms,
    noise_vectors: Tensor,
    traces: Tensor,
    along_gradient: _AlongGradient,
    slopes: Tensor,
    num_matvecs: int,
) -> NoiseAlignment:
    is_exact = len(traces) == 1
    cosine = Estimate.jackknifed(lambda t: t[0] / (t[1] * t[2]).sqrt(), traces)
    trace_product = Estimate.of(traces[:, 0])
    products = traces[:, 0] if along_gradient.trace is None else along_gradient.trace
    ratio = Estimate.jackknifed(
        lambda t: t[0] / t[1], torch.stack([along_gradient.square.expand_as(products), products], 1)
    )
    along = forms.covariance(slopes.square().numpy())
    quotient = along_gradient.quotient

    def probe_error(estimate: Estimate) -> float:
        return 0.0 if is_exact else float(estimate.standard_error)

    return NoiseAlignment(
        value=float(cosine),
        error=ErrorBudget(probe=None if is_exact else StandardError(probe_error(cosine), cosine.dof)),
        of=name,
        eigenvalues=solution.eigenvalues,
        eigenvectors=solution.eigenvectors.cpu(),
        residuals=solution.residuals,
        noise_along=torch.from_numpy(along.value),
        noise_along_errors=torch.from_numpy(along.standard_error()),
        angles=_angles(noise_vectors, solution.eigenvectors),
        trace_product=float(trace_product),
        trace_product_error=probe_error(trace_product),
        signal_to_noise=float(ratio),
        signal_to_noise_probe_error=probe_error(ratio),
        signal_to_noise_data_error=0.0 if quotient is None else float(quotient.standard_error()),
        samples=traces,
        dof=len(forms.sizes) - 1,
        num_matvecs=num_matvecs,
    )


def _angles(A: Tensor, B: Tensor) -> Tensor:
    """``(k,)``, largest first."""
    a, b = (V.cpu().double().numpy() for V in (A, B))
    return torch.from_numpy(np.minimum(scipy.linalg.subspace_angles(a, b), math.pi / 2).copy())
