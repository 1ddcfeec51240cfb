r"""The density of the curvature's spectrum, :math:`\rho(x) = \frac1P \sum_i \delta(x - \lambda_i)`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator
from thalweg.linalg.estimate import Estimate
from thalweg.linalg.quadrature import SpectralQuadrature, lanczos_quadrature
from thalweg.objective.objective import Objective
from thalweg.operators.registry import operator_named

# The default smoothing, as a part of the spectrum's range: a hundred widths from end to end.
WIDTH_OVER_RANGE = 0.01


@dataclass(frozen=True, kw_only=True, repr=False)
class SpectralDensity(Measurement):
    r"""Nodes and weights of the spectral density; `value` is its mean, tr(H) / P, in loss / parameter^2.

    Every number read off it is an `Estimate`: the mean over the probes, its standard error with R - 1
    degrees of freedom, and ``solver``, how far it has moved since half of the steps.

    Parameters
    ----------
    nodes, residuals
        ``(n,)`` float64 Ritz values; within its residual of each lies an eigenvalue.
    probe_weights
        ``(R, n)``: each probe's weights, which sum to 1. A converged eigenvalue weighs 1 / P in all of them,
        for that is known; `num_counted` are (`thalweg.linalg.quadrature` says when).
    raw_weights
        ``(R, n)``: as the probes alone weigh them.
    coarse_nodes, coarse_weights
        The same after half of the steps.
    dim
        P.
    lambda_max, lambda_min
        Ritz values at either end: a lower bound on the largest eigenvalue, an upper one on the smallest.
    resolution
        Rounding of the products: a node this close to nought is nought.
    width
        Default standard deviation of the Gaussian that smooths `density`, a hundredth of the range from
        `lambda_min` to `lambda_max`.
    num_matvecs
        Products with single vectors.
    """

    measure: ClassVar[str] = "spectral_density"
    quantity: ClassVar[str] = "mean eigenvalue"

    nodes: Tensor
    residuals: Tensor
    probe_weights: Tensor
    raw_weights: Tensor
    coarse_nodes: Tensor
    coarse_weights: Tensor
    dim: int
    lambda_max: float
    lambda_min: float
    resolution: float
    width: float
    num_counted: int
    num_matvecs: int

    @property
    def quadrature(self) -> SpectralQuadrature:
        """What the numbers are computed from."""
        return SpectralQuadrature(
            self.dim,
            self.nodes,
            self.residuals,
            self.probe_weights,
            self.raw_weights,
            self.coarse_nodes,
            self.coarse_weights,
            self.resolution,
            self.num_counted,
            self.num_matvecs,
        )

    @property
    def weights(self) -> Tensor:
        """``(n,)``: the mean over the probes, which sums to 1."""
        return self.probe_weights.mean(0)

    def density(self, grid: Tensor | Sequence[float], width: float | None = None) -> Tensor:
        """Smoothed density ``(G,)`` at the points of `grid`; over the whole line it integrates to 1.

        Parameters
        ----------
        grid
            ``(G,)``; `grid` of the result is one that holds all of it.
        width
            Standard deviation of the Gaussian in place of each node. Default: `width` of the result. What is
            narrower is drawn as wide as this; `mass` is not smoothed at all.
        """
        return self.density_estimate(grid, width).value

    def density_estimate(self, grid: Tensor | Sequence[float], width: float | None = None) -> Estimate:
        """`density` with its standard errors."""
        points = torch.as_tensor(grid, dtype=torch.float64)
        if width is not None and not 0 < width < math.inf:
            raise ValueError(f"`width` must be a finite number above nought, got {width}.")
        spread = self.width if width is None else width

        def smoothed(nodes: Tensor) -> Tensor:
            z = (points[:, None] - nodes) / spread
            return torch.exp(-0.5 * z.square()) / (spread * math.sqrt(2 * math.pi))

        return self.quadrature.mean(smoothed)

    def grid(self, num_points: int = 2001, width: float | None = None) -> Tensor:
        """``(G,)`` equally spaced points that reach six widths beyond both ends."""
        margin = 6 * (self.width if width is None else width)
        return torch.linspace(
            self.lambda_min - margin, self.lambda_max + margin, num_points, dtype=torch.float64
        )

    def mass(self, low: float = -math.inf, high: float = math.inf) -> Estimate:
        """Share of the eigenvalues from `low` to `high`, both included and not smoothed: atoms are seen.

        Where an end lies in a continuous part, ``solver`` is the weight of the nodes beside it.
        """
        if not low <= high:
            raise ValueError(f"`low` must not exceed `high`, got {low} and {high}.")
        return self.quadrature.share(low, high)

    @property
    def negative_mass(self) -> Estimate:
        """Share of the eigenvalues below nought by more than rounding."""
        return self.mass(high=math.nextafter(-self.resolution, -math.inf))

    @property
    def trace(self) -> Estimate:
        """tr(H)."""
        return self.quadrature.mean(lambda nodes: self.dim * nodes)

    @property
    def frobenius_norm(self) -> Estimate:
        """sqrt(tr(H^2))."""
        samples = self.quadrature.samples(lambda nodes: self.dim * nodes.square())
        return dataclasses.replace(Estimate.jackknifed(torch.sqrt, samples), support=(0.0, math.inf))

    @property
    def effective_rank(self) -> Estimate:
        """tr(H)^2 / ||H||_F^2, the participation ratio: k equal eigenvalues and noughts give k.

        For an indefinite H the signs count. Nought, not 0 / 0, for the zero matrix.

        References
        ----------
        Bell and Dean (1970), Discuss. Faraday Soc. 50, 55-61; Gao et al. (2017), bioRxiv 214262.
        """
        samples = self.quadrature.samples(lambda nodes: torch.stack([nodes, nodes.square()]))

        def ratio(moments: Tensor) -> Tensor:
            return self.dim * moments[0].square() / moments[1].clamp(min=torch.finfo(torch.float64).tiny)

        return dataclasses.replace(Estimate.jackknifed(ratio, samples), support=(0.0, float(self.dim)))

    def effective_dimension(self, damping: float | Sequence[float] | Tensor) -> Estimate:
        r""":math:`\sum_i \lambda_i / (\lambda_i + d)` for each damping d above nought and above -lambda_min.

        References
        ----------
        MacKay (1992), Neural Computation 4(3), 415-447; Maddox, Benton and Wilson (2020), arXiv 2003.02139.
        """
        d = self._dampings(damping, least=0.0)
        return self.quadrature.mean(lambda nodes: self.dim * nodes / (nodes + d))

    def log_det(self, damping: float | Sequence[float] | Tensor) -> Estimate:
        r""":math:`\log\det(H + d I) = \sum_i \log(\lambda_i + d)` for each damping d.

        Parameters
        ----------
        damping
            A number or an array ``(D,)``; each must exceed ``-lambda_min``, or the logarithm is none. The
            true smallest eigenvalue may lie lower than the Ritz value: near it the result means little.

        Raises
        ------
        ValueError
            If a damping does not.
        """
        d = self._dampings(damping)
        return self.quadrature.mean(lambda nodes: self.dim * torch.log(nodes + d))

    def _dampings(self, damping: float | Sequence[float] | Tensor, least: float = -math.inf) -> Tensor:
        """``(D, 1)``, or ``(1,)`` for a single number."""
        try:
            d = torch.as_tensor(damping, dtype=torch.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"`damping` must be a number, or a sequence or tensor of numbers, got {damping!r}."
            ) from None
        lowest = float(torch.cat([self.nodes, self.coarse_nodes]).min())
        least = max(least, -lowest)
        if d.numel() == 0 or not bool((d > least).all()) or not bool(torch.isfinite(d).all()):
            shown = d.min().item() if d.numel() else "none"
            raise ValueError(
                f"`damping` must exceed {least:.6g} (the smallest Ritz value is {lowest:.6g}), got {shown}; "
                "H + damping I must be positive definite."
            )
        return d[..., None]


def spectral_density(
    objective: Objective,
    *,
    num_probes: int = 8,
    num_steps: int = 40,
    of: str = "hessian",
    params: str | Sequence[str] | None = None,
    max_memory_bytes: int = 2 << 30,
    seed: int,
    progress: Progress | None = None,
) -> SpectralDensity:
    """Estimate the spectral density by stochastic Lanczos quadrature with full reorthogonalisation.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    num_probes
        R random vectors, uniform on the sphere: the error of the weights falls with their root.
    num_steps
        M Lanczos steps: moments up to 2 M - 1 are those of the probes exactly. R M products at the most.
    of
        The matrix: ``"hessian"``, ``"ggn"``, or another of `thalweg.operators.registry.OPERATORS`.
    params
        Only the block of the parameters that match, ``"layer4.*"``.
    max_memory_bytes
        Bound on the basis, R (M + 3) vectors of length P. Where all probes do not fit, some run after others:
        same products, nodes less accurate, fewer eigenvalues counted.
    seed
        Of the random vectors.
    progress
        Called with work done and the whole.

    Raises
    ------
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.
    ValueError
        If the memory does not hold one probe.

    References
    ----------
    Lin, Saad and Yang (2016), SIAM Review 58(1), 34-65; Ghorbani, Krishnan and Xiao (2019), ICML.
    """
    check_count("num_probes", num_probes)
    check_count("num_steps", num_steps)
    operator = operator_named(of, objective, params, seed=seed)
    work = Work(progress, num_probes * num_steps * objective.num_examples)
    quadrature = lanczos_quadrature(
        operator.counting(work.add),
        num_probes,
        num_steps,
        rng=generator(seed, "probes"),
        max_memory_bytes=max_memory_bytes,
    )
    work.finish()
    provenance = {
        "function": "spectral_density",
        "arguments": {
            "num_probes": num_probes,
            "num_steps": num_steps,
            "of": of,
            "params": params if params is None or isinstance(params, str) else list(params),
            "max_memory_bytes": max_memory_bytes,
            "seed": seed,
        },
        "objective": objective.describe(),
        "operator": operator.check.to_dict(),
    }
    return density_result(quadrature, provenance)


def density_result(quadrature: SpectralQuadrature, provenance: dict[str, Any]) -> SpectralDensity:
    """The result that holds a quadrature."""
    highest, lowest = float(quadrature.nodes.max()), float(quadrature.nodes.min())
    # Of a spectrum that is one point, the range is nought: its size, or one, stands in.
    extent = highest - lowest if highest > lowest else abs(highest) or 1.0
    mean = Estimate.of(quadrature.samples(lambda nodes: nodes))
    return SpectralDensity(
        value=float(mean),
        error=mean.budget,
        provenance=provenance,
        nodes=quadrature.nodes,
        residuals=quadrature.residuals,
        probe_weights=quadrature.weights,
        raw_weights=quadrature.raw_weights,
        coarse_nodes=quadrature.coarse_nodes,
        coarse_weights=quadrature.coarse_weights,
        dim=quadrature.dim,
        lambda_max=highest,
        lambda_min=lowest,
        resolution=quadrature.resolution,
        width=WIDTH_OVER_RANGE * extent,
        num_counted=quadrature.num_counted,
        num_matvecs=quadrature.num_matvecs,
    )
