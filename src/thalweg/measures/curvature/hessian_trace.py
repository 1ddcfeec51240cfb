r"""Trace of the loss Hessian, :math:`\mathrm{tr}(H) = \sum_i \lambda_i`: total curvature at a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator
from thalweg.linalg.sum_operator import SumOperator
from thalweg.linalg.trace import estimate_trace
from thalweg.linalg.trace_estimate import TraceEstimate
from thalweg.measures.curvature.layer_traces import LayerTraces, blocks_of
from thalweg.objective.check_objective import check_objective
from thalweg.objective.folds import random_folds
from thalweg.objective.objective import Objective
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.operators.registry import operator_named
from thalweg.solvers.sampled_trace import SampledTrace, sampled_trace
from thalweg.solvers.sampling_design import SAMPLED
from thalweg.stats.crossed_means import fold_standard_error

DEFAULT_MAX_MATVECS = 2000

# Matrices that are means over the examples, so that those of folds add up to the whole.
MEANS = ("hessian", "ggn", "fisher", "empirical_fisher")


@dataclass(frozen=True, kw_only=True, repr=False)
class HessianTrace(LayerTraces):
    """tr(H), layer by layer too, in loss / parameter^2; an L2 term is in it, and exact.

    ``error.probe`` comes from the random probes and is ``None`` where the trace is exact; ``error.data``,
    with `population` or `sampled`, from the examples.

    Parameters
    ----------
    samples
        ``(K,)`` float64, one estimate a probe; `value` is their mean.
    method
        ``"hutchinson"``, ``"hutch++"``, ``"xtrace"``, ``"exact"``, or ``"sampled"``.
    num_matvecs
        Products with single vectors on the full data, the pilot's included; none where it was sampled.
    layers, layer_traces, layer_trace_errors
        See `LayerTraces`; `layer_trace_estimate` has their intervals.
    frobenius_norm, frobenius_error
        ||H||_F and its standard error, from the lengths of the same products; over probes and examples
        together where the trace was sampled. These are skewed: of a dozen, a Student interval made of both
        holds the norm in 88 to 94 % where 95 are meant.
    diagonal
        ``(P,)`` estimate of H's diagonal, in the objective's dtype. Single entries are far less certain than
        their sum: `diagonal_error` is the root mean square of their standard errors. Average over entries,
        as the layers do, before reading anything into them.
    fold_traces
        ``(F,)`` float64, one estimate a fold of the data; ``None`` without `population`.
    """

    measure: ClassVar[str] = "hessian_trace"

    samples: Tensor
    method: str
    num_matvecs: int
    frobenius_norm: float
    frobenius_error: float
    diagonal: Tensor | None
    diagonal_error: float
    fold_traces: Tensor | None

    def _count_samples(self) -> int:
        return len(self.samples)


def hessian_trace(
    objective: Objective,
    *,
    rtol: float = 0.05,
    of: str = "hessian",
    params: str | Sequence[str] | None = None,
    blocks: Sequence[str] | None = None,
    method: str = "auto",
    max_matvecs: int | None = None,
    max_memory_bytes: int = 2 << 30,
    require_convergence: bool = True,
    sampled: bool = False,
    population: bool = False,
    num_folds: int = 10,
    seed: int,
    progress: Progress | None = None,
) -> HessianTrace:
    r"""Estimate tr(H) by :math:`\frac1K \sum_k v_k^\top H v_k` over random probes, or with a sketch deflated.

    The number of probes follows from the variance that the first twelve show (`thalweg.linalg.trace`), so
    that the standard error is at most `rtol` times the value and its intervals cover.

    With `population` the number meant is the trace for the distribution that the examples were drawn from,
    at this point. The same probes run on F disjoint folds of the data, which costs what the whole does; in
    the table :math:`y_{kf} = v_k^\top H_f v_k` of probes and folds

    - ``error.probe`` is the spread between probes on all the data: what further probes would change, as
      without `population`;
    - ``error.data`` is :math:`\sqrt{(\mathrm{MS}_f - \mathrm{MS}_{kf}) / (K F)}` (nought where negative),
      with F - 1 degrees of freedom: the folds' spread beyond the interaction of probes and folds, which the
      first contains already. See `thalweg.stats.crossed_means`.

    Left out: recalibrated batch-norm statistics and the point itself are taken as given. If the network was
    trained on the same examples, they are no fresh sample, and the trace on others may differ by more.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    rtol
        Target standard error of the probes over the value, in (0, 1): half of a 95 % interval is about twice
        that.
    of
        The matrix: ``"hessian"``, ``"ggn"`` or another of `thalweg.operators.registry`.
    params
        Only the block of the parameters that match, ``"layer4.*"``.
    blocks
        Patterns such as ``["conv*", "head"]``, each a block whose trace comes from the same probes, none
        overlapping; parameters that match none are held constant. Default: the layers. They stand in the
        result as its `layers`.
    method
        ``"hutchinson"``, ``"hutch++"``, ``"xtrace"``, or ``"auto"``, the cheapest by a pilot of twelve
        products. Each turns exact where P products cost no more.
    max_matvecs
        Most products with single vectors, at least 36 or P. Default: 2,000.
    max_memory_bytes
        Bound on the probes, their products and what is computed of them, eight vectors of length P for each
        that is held at once. Where it does not hold the pilot, 96 vectors, ``"auto"`` goes without it and
        takes Hutchinson's probes, as many at a time as fit. With `sampled` one probe is held at a time.
    require_convergence
        Raise if `max_matvecs` is spent first; else the partial result is returned, and says that it has not
        converged.
    sampled
        Estimate it from samples of the examples, drawn by importance, until the standard error of probes and
        data together is `rtol` times the value: see `thalweg.solvers.sampled_trace`. The number meant is that
        of all N examples. Where probes on all of them cost no more, these are taken, as the provenance says.
    population
        Whether the number is about the distribution behind the examples.
    num_folds
        F, with `population`: random folds, of whole batches in ``"batch"`` mode.
    seed
        Of the probes and the folds.
    progress
        Called with work done and an estimate of the whole, in examples times products.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first and `require_convergence` is set; carries the partial `HessianTrace`.
        A trace near nought, of an indefinite H, has no small relative error.
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or a product is not finite.
    ValueError
        If an argument is out of range, or the memory does not hold the method.

    References
    ----------
    Hutchinson (1989), Commun. Stat. Simul. Comput. 18(3); Meyer, Musco, Musco and Woodruff (2021), SOSA;
    Epperly, Tropp and Webber (2024), SIAM J. Matrix Anal. Appl. 45(1).
    """
    budget = DEFAULT_MAX_MATVECS if max_matvecs is None else max_matvecs
    check_count("max_matvecs", budget)
    check_count("num_folds", num_folds)
    check_flag("population", population)
    check_flag("sampled", sampled)
    check_flag("require_convergence", require_convergence)
    check_count("max_memory_bytes", max_memory_bytes)
    check_objective("objective", objective)
    target, indices = blocks_of(objective if params is None else objective.restrict(params), blocks)
    operator = operator_named(of, target, seed=seed)
    if population and of not in MEANS:
        raise ValueError(f"`population` takes a mean over examples, of={' or '.join(MEANS)}, got {of!r}.")
    if sampled and (of not in SAMPLED or population or method != "auto"):
        raise ValueError(
            f"`sampled` takes of={' or '.join(map(repr, SAMPLED))}, method='auto' and no `population`, "
            f"got of={of!r}, method={method!r}, population={population}."
        )
    decay = target.weight_decay if operator.has_weight_decay else 0.0
    layers, groups = tuple(indices), _groups(indices, target.space.dim)
    provenance: dict[str, Any] = {
        "function": "hessian_trace",
        "arguments": {
            "rtol": rtol,
            "of": of,
            "params": params if params is None or isinstance(params, str) else list(params),
            "blocks": None if blocks is None else list(blocks),
            "method": method,
            "max_matvecs": max_matvecs,
            "max_memory_bytes": max_memory_bytes,
            "require_convergence": require_convergence,
            "sampled": sampled,
            "population": population,
            "num_folds": num_folds,
            "seed": seed,
        },
        "objective": objective.describe(),
        "operator": operator.check.to_dict(),
    }
    if sampled:
        found = sampled_trace(
            operator,
            rtol=rtol,
            decay=decay,
            groups=groups,
            max_matvecs=budget,
            seed=seed,
            progress=progress,
        )
        if isinstance(found, SampledTrace):
            provenance["sampling"] = {
                "taken": "samples",
                "in_proportion_to": found.proxy,
                "num_multiplied": found.num_multiplied,
            }
            return _result(found.estimate, decay, layers, groups, provenance, found.data)
        provenance["sampling"] = {"taken": "all examples", "num_multiplied": found.num_multiplied}
    work = Work(progress)
    estimate = estimate_trace(
        _without_decay(operator, decay, random_folds(target, num_folds, seed) if population else [], work),
        rng=generator(seed, "hessian_trace"),
        rtol=rtol,
        offset=decay * target.space.dim,
        method=method,
        groups=groups,
        max_matvecs=budget,
        max_memory_bytes=max_memory_bytes,
        on_plan=lambda products: work.expect(products * target.num_examples),
    )
    data = None
    if population:
        data = StandardError(*fold_standard_error(estimate.forms.numpy(), estimate.weights.numpy()))
    result = _result(estimate, decay, layers, groups, provenance, data)
    if require_convergence and not estimate.converged:
        assert estimate.error is not None
        raise ConvergenceError(
            f"{estimate.num_matvecs} products were spent and the standard error of the trace, "
            f"{result.value:.4g}, is {estimate.error.value:.2g}, above rtol = {rtol} of it. Raise "
            "`max_matvecs` or `rtol`.",
            result,
        )
    work.finish()
    return result


def _without_decay(
    operator: ObjectiveOperator, decay: float, folds: list[Objective], work: Work
) -> SumOperator:
    """The data's part of the matrix, as the mean over the folds if there are any; it proves itself first."""
    operator.check  # noqa: B018
    if not folds:
        return SumOperator([operator.counting(work.add)], [1.0], -decay)
    num_examples = operator.objective.num_examples
    return SumOperator(
        [operator.over(fold).counting(work.add) for fold in folds],
        [fold.num_examples / num_examples for fold in folds],
        -decay,
    )


def _groups(indices: dict[str, Tensor], dim: int) -> Tensor:
    """``(P,)``: the number of each entry's layer or block."""
    groups = torch.empty(dim, dtype=torch.int64)
    for i, index in enumerate(indices.values()):
        groups[index] = i
    return groups


def _result(
    estimate: TraceEstimate,
    decay: float,
    layers: tuple[str, ...],
    groups: Tensor,
    provenance: dict[str, Any],
    data: StandardError | None,
) -> HessianTrace:
    dim = len(groups)
    # ||D + d I||^2 = ||D||^2 + 2 d tr(D) + d^2 P; the errors of the first two may go together. That of the
    # first holds the data's part where the trace was sampled, and no data's part elsewhere.
    parts = [estimate.error, data if estimate.method == "sampled" else None]
    trace_error = math.hypot(*(part.value for part in parts if part))
    square = estimate.square + decay * (2 * estimate.value + decay * dim)
    norm = max(0.0, square) ** 0.5
    return HessianTrace(
        value=estimate.value + decay * dim,
        error=ErrorBudget(probe=estimate.error, data=data),
        provenance={**provenance, "converged": estimate.converged},
        samples=estimate.samples + decay * dim,
        method=estimate.method,
        num_matvecs=estimate.num_matvecs,
        layers=layers,
        layer_traces=estimate.parts + decay * torch.bincount(groups, minlength=len(layers)),
        layer_trace_errors=estimate.part_errors,
        frobenius_norm=norm,
        frobenius_error=(estimate.square_error + 2 * decay * trace_error) / (2 * norm) if norm else 0.0,
        diagonal=(estimate.diagonal + decay).cpu(),
        diagonal_error=estimate.diagonal_error,
        fold_traces=estimate.forms.mean(1) + decay * dim if len(estimate.forms) > 1 else None,
    )
