r"""The mass of a basin: how much of the Gibbs law :math:`e^{-L/T}` lies about a minimum, taken as quadratic.

.. math:: -T \log \int e^{-L/T} \approx L + \frac T2 \log\det H - \frac P2\, T \log 2\pi T

The law :math:`d\theta = -\nabla L\, dt + \sqrt{2T}\, dW` has the *density* :math:`e^{-L/T}`, without any
determinant. The determinant comes of integrating it over a basin: :math:`e^{-L/T} / \sqrt{\det H}` is the
basin's *mass*.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_one_of, check_positive
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator, stream_seed
from thalweg.linalg.estimate import Estimate
from thalweg.linalg.exact_spectrum import exact_spectrum
from thalweg.linalg.quadrature import SpectralQuadrature, lanczos_quadrature
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.registry import operator_named

# In loss / parameter^2; absolute, so that two networks are compared at the same one.
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

# How an eigenvalue below nought enters: as nought, or by its size.
Negative = Literal["clip", "absolute"]


@dataclass(frozen=True, kw_only=True, repr=False)
class BasinMass(Measurement):
    r"""Free energy :math:`L + \frac T2 \log\det(H + d I)` at the headline's damping, in the unit of the loss.

    The lower, the more mass. Two basins of one network, at one T and d, differ in the logarithm of their mass
    by the difference over -T; the term :math:`\frac P2 T \log 2\pi T` that both have is left out. Of networks
    with other parameters, or other scales of them, the numbers do not compare.

    Parameters
    ----------
    temperature, damping, negative
        T, the headline's d, and the rule for eigenvalues below nought.
    loss
        L over all the data, L2 term and all: exact.
    dim
        P.
    dampings
        ``(D,)`` float64, ascending.
    log_dets, log_det_errors, log_det_solver
        ``(D,)`` each: of H + d I by the rule; standard errors by the probes, with `dof` degrees of freedom;
        and how far they have moved since half of the steps, or the bound where all eigenvalues were
        computed.
    other_log_dets
        ``(D,)``: by the other rule. Where it differs from `log_dets` by as much as two basins do, the point
        is no minimum and the ranking hangs on the rule.
    dof
        Probes less one; 0 where all eigenvalues were computed.
    negative_share
        Share of the eigenvalues below nought by more than rounding.
    lambda_max, lambda_min
        Ends of the spectrum as far as it was seen: the true ones may lie farther out.
    num_matvecs
        Products with single vectors.
    """

    measure: ClassVar[str] = "basin_mass"
    quantity: ClassVar[str] = "free energy"
    per_part: ClassVar[tuple[str, ...]] = ("dampings", "log_dets", "log_det_errors", "free_energies")

    temperature: float
    damping: float
    negative: str
    loss: float
    dim: int
    dampings: Tensor
    log_dets: Tensor
    log_det_errors: Tensor
    log_det_solver: Tensor
    other_log_dets: Tensor
    dof: int
    negative_share: float
    lambda_max: float
    lambda_min: float
    num_matvecs: int

    @property
    def log_det(self) -> Estimate:
        """``(D,)``: log det(H + d I) at every damping."""
        return Estimate(self.log_dets, self.log_det_errors, self.dof, self.log_det_solver)

    @property
    def free_energies(self) -> Tensor:
        """``(D,)``: L + (T / 2) log det(H + d I) at every damping."""
        return self.free_energy().value

    def free_energy(self, temperature: float | None = None) -> Estimate:
        """``(D,)``: the same with its errors, at this temperature or another: nothing is measured anew."""
        T = self.temperature if temperature is None else temperature
        check_positive("temperature", T, "1 / N is the posterior's")
        return Estimate(
            self.loss + T / 2 * self.log_dets,
            T / 2 * self.log_det_errors,
            self.dof,
            T / 2 * self.log_det_solver,
        )

    @property
    def rule_shift(self) -> Tensor:
        """``(D,)``: how much higher the free energies were by the other rule for eigenvalues below nought."""
        return self.temperature / 2 * (self.other_log_dets - self.log_dets)

    @property
    def notes(self) -> list[str]:
        """What a picture must say besides."""
        rule = {"clip": "nought", "absolute": "their size"}[self.negative]
        return [
            f"T = {self.temperature:.3g}, P = {self.dim:,}; up to (P/2) T log 2πT",
            f"{100 * self.negative_share:.2g} % of the eigenvalues below nought, taken as {rule}",
        ]

    def _circumstances(self) -> list[str]:
        T = f"T = {self.temperature:.3g}, damping {self.damping:g}"
        below = f"{100 * self.negative_share:.2g} % of eigenvalues below nought"
        return [T, *([below] if self.negative_share > 0 else []), *super()._circumstances()]


def basin_mass(
    objective: Objective,
    *,
    temperature: float | None = None,
    damping: float | Sequence[float] = DAMPINGS,
    headline: float | None = None,
    negative: Negative = "clip",
    num_probes: int = 4,
    num_steps: int = 24,
    max_memory_bytes: int = 2 << 30,
    seed: int,
    progress: Progress | None = None,
) -> BasinMass:
    r"""Free energy :math:`L + \frac T2 \log\det(H + d I)` of the basin about the objective's point.

    H is the Hessian of the objective's own function, L2 term and all; under recalibrated statistics these are
    held constant, under batch statistics it is that of the partition. Where P is at most ``num_probes *
    num_steps`` all eigenvalues are computed; else :math:`\log\det` comes of Lanczos quadrature
    (`thalweg.linalg.quadrature`), with the probes' standard error and what half of the steps say.

    Most eigenvalues of a network are next to nought, so that the damping alone may decide which of two basins
    has more mass: look at the whole curve. Layers before batch norm can be scaled without changing the
    function; that moves the determinant, but not the mass, which is then infinite.

    Parameters
    ----------
    objective
        Mean loss over N examples, at or near a minimum. Elsewhere the number is still a number; see
        `negative_share` and `rule_shift`.
    temperature
        T, in the unit of the loss. Default: 1 / N, the Bayesian posterior's under a flat prior, whose density
        is :math:`e^{-N L}` where the loss is a log-likelihood. SGD's is about
        :math:`\eta\, c / (2 B (1 - \mu))`, see ``sgd_temperature``; `BasinMass.free_energy` takes another one
        afterwards at no cost.
    damping
        One d or several, above nought, in loss / parameter^2: the curvature of a Gaussian prior of variance
        T / d in every direction.
    headline
        Which of them `value` is at. Default: the middle one in size, the lower of two: 0.01 of the default's.
    negative
        Eigenvalues below nought, along which a quadratic basin has no end: ``"clip"`` takes them as nought,
        so that the damping bounds them, ``"absolute"`` by their size. `rule_shift` says what the other
        would give.
    num_probes, num_steps
        R random vectors and M Lanczos steps, at most R M products.
    max_memory_bytes
        Bound on the basis, R (M + 3) vectors of length P, or on the matrix, where all eigenvalues are
        computed.
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
        If an argument is out of range, or the memory does not hold one probe, or the matrix.

    References
    ----------
    MacKay (1992), Neural Computation 4(3), 448-472: the Occam factor. Smith and Le (2018), ICLR. Dinh et al.
    (2017), ICML: scales.
    """
    check_objective("objective", objective)
    check_one_of("negative", negative, get_args(Negative))
    check_count("num_probes", num_probes)
    check_count("num_steps", num_steps)
    check_count("max_memory_bytes", max_memory_bytes)
    T = 1 / objective.num_examples if temperature is None else temperature
    check_positive("temperature", T, "1 / N is the posterior's")
    dampings = _checked_dampings(damping)
    chosen = _headline(dampings, headline)
    stream_seed(seed)
    loss = objective.value()
    operator = operator_named("hessian", objective, seed=seed)
    P = operator.dim
    is_exact = num_probes * num_steps >= P
    work = Work(progress, min(P, num_probes * num_steps) * objective.num_examples)
    counted = operator.counting(work.add)
    if is_exact:
        quadrature = exact_spectrum(counted, max_memory_bytes=max_memory_bytes)
    else:
        rng = generator(seed, "basin_mass", "probes")
        quadrature = lanczos_quadrature(
            counted, num_probes, num_steps, rng=rng, max_memory_bytes=max_memory_bytes
        )
    work.finish()
    rules = (negative, "absolute" if negative == "clip" else "clip")
    found, other = (_log_det(quadrature, dampings, rule, is_exact) for rule in rules)
    at = int((dampings == chosen).nonzero()[0, 0])
    error, solver = T / 2 * float(found.standard_error[at]), T / 2 * float(found.solver[at])
    below = quadrature.share(-math.inf, math.nextafter(-quadrature.resolution, -math.inf))
    return BasinMass(
        value=loss + T / 2 * float(found.value[at]),
        error=ErrorBudget(solver=solver or None, probe=None if is_exact else StandardError(error, found.dof)),
        provenance={
            "function": "basin_mass",
            "arguments": {
                "temperature": temperature,
                "damping": list(damping) if isinstance(damping, Sequence) else damping,
                "headline": headline,
                "negative": negative,
                "num_probes": num_probes,
                "num_steps": num_steps,
                "max_memory_bytes": max_memory_bytes,
                "seed": seed,
            },
            "objective": objective.describe(),
            "operator": operator.check.to_dict(),
        },
        temperature=float(T),
        damping=chosen,
        negative=negative,
        loss=loss,
        dim=P,
        dampings=dampings,
        log_dets=found.value,
        log_det_errors=found.standard_error,
        log_det_solver=found.solver,
        other_log_dets=other.value,
        dof=found.dof,
        negative_share=float(below),
        lambda_max=float(quadrature.nodes.max()),
        lambda_min=float(quadrature.nodes.min()),
        num_matvecs=quadrature.num_matvecs,
    )


def _checked_dampings(damping: float | Sequence[float]) -> Tensor:
    given = list(damping) if isinstance(damping, Sequence) else [damping]
    if not given:
        raise ValueError("`damping` must hold at least one number, got none; 0.01 is customary.")
    for d in given:
        check_positive("damping", d, "0.01 is customary, and without one a flat direction has no mass")
    return torch.tensor(sorted({float(d) for d in given}), dtype=torch.float64)


def _headline(dampings: Tensor, asked: float | None) -> float:
    if asked is None:
        return float(dampings[(len(dampings) - 1) // 2])
    if asked not in dampings.tolist():
        shown = ", ".join(f"{d:g}" for d in dampings.tolist())
        raise ValueError(f"`headline` must be one of the dampings, {shown}, got {asked!r}.")
    return float(asked)


def _log_det(quadrature: SpectralQuadrature, dampings: Tensor, rule: str, is_exact: bool) -> Estimate:
    """``(D,)`` of H + d I."""
    d = dampings[:, None]

    def sizes(nodes: Tensor) -> Tensor:
        return nodes.abs() if rule == "absolute" else nodes.clamp(min=0.0)

    found = quadrature.mean(lambda nodes: quadrature.dim * torch.log(sizes(nodes) + d))
    if not is_exact:
        return found
    # Weyl: no eigenvalue is off by more than the slack, which its logarithm makes slack / (size + d) of.
    slack = quadrature.resolution
    bound = (slack / (sizes(quadrature.nodes) - slack).clamp(min=0.0).add(d)).sum(1)
    return dataclasses.replace(found, standard_error=torch.zeros_like(bound), dof=0, solver=bound)
