"""The curvature at a point in one pass: ends, trace, density and layers, all from the same products."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag, check_fraction
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import StandardError
from thalweg.core.precision import full_precision
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator
from thalweg.linalg.certificate import RandomStartCertificate
from thalweg.linalg.estimate import Estimate
from thalweg.linalg.fold_forms import FoldForms
from thalweg.linalg.quadrature import ProbeProcess, vectors_held
from thalweg.measures.curvature.hessian_trace import MEANS
from thalweg.measures.curvature.layer_traces import LayerTraces, blocks_of
from thalweg.measures.curvature.spectral_density import SpectralDensity, density_result
from thalweg.objective.check_objective import check_objective
from thalweg.objective.folds import random_folds
from thalweg.objective.objective import Objective
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.operators.registry import operator_named
from thalweg.stats.crossed_means import fold_standard_error

# How a budget is split: no more probes than these, and no fewer steps for each than those while it lasts.
MOST_PROBES = 8
FEWEST_STEPS = 20

# Products where the budget is left open, and the memory holds their basis.
DEFAULT_MAX_MATVECS = 320

# Probability with which the bounds on both ends hold together.
CONFIDENCE = 0.99


@dataclass(frozen=True, kw_only=True)
class CurvatureProfile(LayerTraces):
    """What is known of H from one block of products; `value` is its trace, in loss / parameter^2.

    Further eigenvalues at both ends, with their residuals, are the first and the last of ``density.nodes``.

    Parameters
    ----------
    density
        The spectral density. It also has ``log_det``, ``effective_rank``, ``effective_dimension``,
        ``negative_mass`` and ``frobenius_norm``, which this result passes on.
    lambda_max_upper, lambda_min_lower
        Bounds on the extreme eigenvalues, both with probability `confidence` together, by what the random
        vectors would have shown. The Ritz values `lambda_max`, `lambda_min` bound them on the other side.
    confidence
        See there; 1 where the whole space was spanned.
    layers, layer_traces, layer_trace_errors
        See `LayerTraces`; `layer_trace_estimate` has their intervals.
    converged
        Whether both ends have a residual within `rtol` of the largest absolute Ritz value.
    diagonal, diagonal_error
        ``(P,)`` estimate of H's diagonal, in the objective's dtype, and the root mean square of the standard
        errors of its entries, over the probes alone: see `HessianTrace`.
    num_probes, num_steps
        How the budget was split.
    fold_traces
        ``(F,)`` float64, one estimate of the trace a fold of the data; ``None`` without `population`.
    """

    measure: ClassVar[str] = "curvature_profile"
    quantity: ClassVar[str] = "trace"

    density: SpectralDensity
    lambda_max_upper: float
    lambda_min_lower: float
    confidence: float
    converged: bool
    diagonal: Tensor
    diagonal_error: float
    num_probes: int
    num_steps: int
    fold_traces: Tensor | None

    def _count_samples(self) -> int:
        return self.num_probes

    @property
    def lambda_max(self) -> float:
        """Largest Ritz value, a lower bound on the largest eigenvalue."""
        return self.density.lambda_max

    @property
    def lambda_min(self) -> float:
        """Smallest Ritz value, an upper bound on the smallest eigenvalue."""
        return self.density.lambda_min

    @property
    def num_matvecs(self) -> int:
        """Products with single vectors."""
        return self.density.num_matvecs

    @property
    def trace(self) -> Estimate:
        """tr(H)."""
        return self.density.trace

    @property
    def frobenius_norm(self) -> Estimate:
        """||H||_F."""
        return self.density.frobenius_norm

    @property
    def negative_mass(self) -> Estimate:
        """Share of the eigenvalues below nought."""
        return self.density.negative_mass

    @property
    def effective_rank(self) -> Estimate:
        """tr(H)^2 / ||H||_F^2."""
        return self.density.effective_rank

    def effective_dimension(self, damping: float | Sequence[float] | Tensor) -> Estimate:
        """See `SpectralDensity.effective_dimension`."""
        return self.density.effective_dimension(damping)

    def log_det(self, damping: float | Sequence[float] | Tensor) -> Estimate:
        """See `SpectralDensity.log_det`."""
        return self.density.log_det(damping)


def curvature_profile(
    objective: Objective,
    *,
    max_matvecs: int | None = None,
    of: str = "hessian",
    params: str | Sequence[str] | None = None,
    blocks: Sequence[str] | None = None,
    rtol: float = 1e-3,
    require_convergence: bool = False,
    max_memory_bytes: int = 2 << 30,
    population: bool = False,
    num_folds: int = 10,
    seed: int,
    progress: Progress | None = None,
) -> CurvatureProfile:
    """Measure ends, trace, norm, density, log determinant and layers by one block Lanczos process.

    R random vectors take M steps together, R M products in all: R is a twentieth of the budget, between 2
    and 8, and M what that leaves. All numbers are then read off the basis; nothing is multiplied twice.

    With `population` the trace meant is that for the distribution that the examples were drawn from, at this
    point, as in `thalweg.measures.curvature.hessian_trace`: the same vectors are multiplied over F disjoint
    folds of the data, which costs what the whole does, and ``error.data`` is what the folds' differences add.
    All else is of these examples.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    max_matvecs
        Products with single vectors, all of which are spent unless the space is exhausted first; at least 4.
        Default: 320, 40 steps of 8 probes. Where the memory does not hold their basis, fewer steps, down to
        20, then fewer probes, down to 2, then fewer steps again, down to 2; the provenance has the split.
    of
        The matrix: ``"hessian"``, ``"ggn"``, or another of `thalweg.operators.registry.OPERATORS`.
    params
        Only the block of the parameters that match, ``"layer4.*"``.
    blocks
        Patterns such as ``["conv*", "head"]``, each a block whose trace comes from the same probes, none
        overlapping; parameters that match none are held constant. Default: the layers. They stand in the
        result as its `layers`.
    rtol
        Residual of the ends, relative to the largest absolute Ritz value, at which they count as converged.
    require_convergence
        Raise if they are not, instead of saying so in the result.
    max_memory_bytes
        Bound on the basis, R (M + 3) vectors of length P, which a budget that is stated must fit into;
        the layers take 3 R more in its stead.
    population
        Whether the trace is about the distribution behind the examples.
    num_folds
        F, with `population`: random folds, of whole batches in ``"batch"`` mode.
    seed
        Of the random vectors and the folds.
    progress
        Called with work done and the whole.

    Raises
    ------
    ConvergenceError
        If an end has not converged and `require_convergence` is set; carries the `CurvatureProfile`.
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.
    ValueError
        If an argument is out of range, or the memory does not hold the basis.
    """
    check_fraction("rtol", rtol, "1e-3 is customary")
    check_flag("require_convergence", require_convergence)
    check_flag("population", population)
    check_count("num_folds", num_folds)
    if population and of not in MEANS:
        raise ValueError(f"`population` takes a mean over examples, of={' or '.join(MEANS)}, got {of!r}.")
    num_probes, num_steps = _split(DEFAULT_MAX_MATVECS if max_matvecs is None else max_matvecs)
    check_objective("objective", objective)
    target, indices = blocks_of(objective if params is None else objective.restrict(params), blocks)
    operator = operator_named(of, target, seed=seed)
    if max_matvecs is None:
        held = max_memory_bytes // operator.bytes_per_vector
        num_probes, num_steps = _fitting(operator.dim, held, num_probes, num_steps)
    work = Work(progress, min(num_probes * num_steps, target.space.dim) * target.num_examples)
    counting = operator.counting(work.add)
    folds = _over_folds(counting, num_folds, seed) if population else None
    rng = generator(seed, "probes")
    process = ProbeProcess(folds or counting, num_probes, num_steps, rng, max_memory_bytes)
    krylov = process.krylov
    if folds:
        folds.basis = krylov.basis
    certificate = RandomStartCertificate(0, krylov.directions, operator.dim, CONFIDENCE, num_ends=2)
    while not process.finished:
        process.step()
        krylov.ritz()  # whose norm the noise is relative to
        certificate.extend(krylov.H, krylov.noise)
    provenance = {
        "function": "curvature_profile",
        "arguments": {
            "max_matvecs": max_matvecs,
            "of": of,
            "params": params if params is None or isinstance(params, str) else list(params),
            "blocks": None if blocks is None else list(blocks),
            "rtol": rtol,
            "require_convergence": require_convergence,
            "max_memory_bytes": max_memory_bytes,
            "population": population,
            "num_folds": num_folds,
            "seed": seed,
        },
        "objective": objective.describe(),
        "operator": operator.check.to_dict(),
        "split": {"num_probes": num_probes, "num_steps": num_steps},
    }
    density = density_result(process.quadrature(), {})
    top, bottom = certificate.bounds(krylov, density.lambda_max, density.lambda_min)
    diagonals = _diagonals(process)
    by_layer = Estimate.of(_by_layer(diagonals, indices))
    trace = Estimate.of(density.quadrature.samples(lambda nodes: operator.dim * nodes))
    data, by_fold = None, None
    if folds:
        by_fold = folds.traces(process)
        data = StandardError(*fold_standard_error(by_fold.numpy(), folds.weights.numpy()))
    worst = float(density.residuals[[0, -1]].max())
    result = CurvatureProfile(
        value=float(trace),
        error=dataclasses.replace(trace.budget, data=data),
        provenance=provenance,
        density=density,
        lambda_max_upper=top.upper,
        lambda_min_lower=bottom.lower,
        confidence=top.confidence,
        layers=tuple(indices),
        layer_traces=by_layer.value,
        layer_trace_errors=by_layer.standard_error,
        converged=worst <= rtol * krylov.norm or krylov.complete,
        diagonal=diagonals.mean(0).cpu(),
        diagonal_error=float((diagonals.var(0).double().mean() / num_probes).sqrt()),
        num_probes=num_probes,
        num_steps=krylov.num_steps,
        fold_traces=None if by_fold is None else by_fold.mean(1),
    )
    work.finish()
    if require_convergence and not result.converged:
        raise ConvergenceError(
            f"{result.num_matvecs} products were spent before both ends converged: the larger relative "
            f"residual is {worst / krylov.norm:.2g}, `rtol` asks for {rtol:.2g}. "
            "Raise `max_matvecs` or `rtol`.",
            result,
        )
    return result


def _split(max_matvecs: int) -> tuple[int, int]:
    """Probes and steps.

    >>> _split(320), _split(100), _split(24)
    ((8, 40), (5, 20), (2, 12))
    """
    if isinstance(max_matvecs, bool) or not isinstance(max_matvecs, int) or max_matvecs < 4:
        raise ValueError(
            "`max_matvecs` must be a whole number of at least 4, two probes of two steps, "
            f"got {max_matvecs!r}."
        )
    num_probes = min(MOST_PROBES, max(2, max_matvecs // FEWEST_STEPS))
    return num_probes, max_matvecs // num_probes


def _fitting(dim: int, held: int, num_probes: int, num_steps: int) -> tuple[int, int]:
    """The split with most probes of enough steps, else with most steps, whose basis `held` vectors hold.

    The smallest where none fits, which is then refused with the memory it needs.

    >>> [_fitting(10**6, held, 8, 40) for held in (344, 343, 184, 183, 46, 45, 10)]
    [(8, 40), (8, 39), (8, 20), (7, 23), (2, 20), (2, 19), (2, 2)]
    """
    for probes, fewest in (*((r, FEWEST_STEPS) for r in range(num_probes, 1, -1)), (2, 2)):
        for steps in range(num_steps, fewest - 1, -1):
            if vectors_held(dim, probes, steps) <= held:
                return probes, steps
    return 2, 2


def _diagonals(process: ProbeProcess) -> Tensor:
    r"""``(R, P)``: each probe's estimate of the diagonal.

    With V the c counted eigenvectors and y the part of a probe beside them, uniform there and of length one,
    :math:`\sum_i \theta_i V_i \odot V_i + (P - c)\, y \odot A y`. A y is read off the projected matrix.
    """
    krylov = process.krylov
    values, vectors, y = process.counted_and_beside()
    num_probes = y.shape[1]
    with full_precision():
        estimates = krylov.basis.combine(y)
        estimates *= krylov.basis.combine(krylov.H @ y)
        estimates *= krylov.operator.dim - len(values)
        # A few at a time: all of them would be a second basis.
        for part in torch.arange(len(values)).split(num_probes):
            rows = krylov.basis.combine(vectors[:, part]).square_()
            estimates += values[part].to(rows) @ rows
            del rows  # before the next are made: the memory holds two blocks beside the basis
    return estimates


def _over_folds(operator: ObjectiveOperator, num_folds: int, seed: int) -> FoldForms:
    objective = operator.objective
    folds = random_folds(objective, num_folds, seed)
    weights = [fold.num_examples / objective.num_examples for fold in folds]
    return FoldForms([operator.over(fold) for fold in folds], weights)


def _by_layer(rows: Tensor, indices: dict[str, Tensor]) -> Tensor:
    """Sums ``(k, L)`` of the entries of rows ``(k, P)`` over each layer."""
    sums = [rows[:, index.to(rows.device)].double().sum(1) for index in indices.values()]
    return torch.stack(sums, 1).cpu()
