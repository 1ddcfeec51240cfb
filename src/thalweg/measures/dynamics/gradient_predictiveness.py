"""Along the gradient: how far loss and gradient change within a range of steps, and how smooth that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_one_of, is_number
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator, stream_seed
from thalweg.linalg.estimate import Estimate
from thalweg.measures.dynamics.batch_draws import checked_batch_size
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.objective.value_and_gradient import value_and_gradient

Gradient = Literal["batch", "full"]

# Santurkar et al. go up to 0.4 along the gradient, four times the rate they train with.
LEARNING_RATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)


@dataclass(frozen=True, kw_only=True, repr=False)
class GradientPredictiveness(Measurement):
    """Loss and gradient along the steps -eta g of K batches.

    `value` is the effective smoothness, in loss / parameter^2; `loss_range` and `gradient_range` are the
    other two numbers: means over the batches. ``error.data`` is the standard error as an estimate of the mean
    over all batches of that size that could be drawn from the objective's examples; ``None``, exact, where
    there is one gradient, of them all. ``error.solver`` is what a unit of rounding in the gradients makes of
    it.

    Parameters
    ----------
    batch_size
        Examples a batch, B; N for the full gradient.
    learning_rates
        ``(E,)`` float64: the steps eta.
    center_losses, gradient_norms
        ``(K,)`` float64: L_B and |g_B| where the steps begin.
    losses
        ``(K, E)`` float64: L_B after the step.
    gradient_changes
        ``(K, E)`` float64: the distance of the gradient there from g_B.
    distances
        ``(K, E)`` float64: lengths of the steps, as the parameters' dtype made them.
    """

    measure: ClassVar[str] = "gradient_predictiveness"

    batch_size: int
    learning_rates: Tensor
    center_losses: Tensor
    gradient_norms: Tensor
    losses: Tensor
    gradient_changes: Tensor
    distances: Tensor

    @property
    def smoothness(self) -> Tensor:
        """``(K,)``: the largest change of the gradient over the length of its step."""
        return (self.gradient_changes / self.distances).amax(1)

    @property
    def loss_range(self) -> Estimate:
        """The largest loss after a step less the smallest, the mean over the batches."""
        rounding = 2 * self._unit * self.losses.abs().amax(1)
        return _mean(self.losses.amax(1) - self.losses.amin(1), rounding)

    @property
    def gradient_range(self) -> Estimate:
        """The largest change of the gradient less the smallest, the mean over the batches."""
        changes = self.gradient_changes
        return _mean(changes.amax(1) - changes.amin(1), 2 * self._gradient_rounding.amax(1))

    @property
    def _unit(self) -> float:
        return torch.finfo(getattr(torch, self.provenance["objective"]["dtype"])).eps

    @property
    def _gradient_rounding(self) -> Tensor:
        """``(K, E)``, of the change: a unit of either gradient."""
        return self._unit * (2 * self.gradient_norms[:, None] + self.gradient_changes)

    def _circumstances(self) -> list[str]:
        low, high = float(self.learning_rates[0]), float(self.learning_rates[-1])
        return [f"steps of {low:g} to {high:g}", *super()._circumstances()]


def _mean(samples: Tensor, rounding: Tensor) -> Estimate:
    """Over batches ``(K,)``; one batch alone is all the examples, and exact."""
    K, mean = len(samples), samples.mean()
    error = samples.std() / math.sqrt(K) if K > 1 else torch.zeros_like(mean)
    return Estimate(mean, error, K - 1, rounding.mean(), support=(0.0, math.inf))


def gradient_predictiveness(
    objective: Objective,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    gradient: Gradient = "batch",
    batch_size: int | None = None,
    num_batches: int = 16,
    seed: int,
    progress: Progress | None = None,
) -> GradientPredictiveness:
    r"""Follow the loss and its gradient along the gradient step, over a range of learning rates eta.

    Of each batch B, from one point :math:`\theta`, with :math:`g = \nabla L_B(\theta)` and
    :math:`\theta_\eta = \theta - \eta g`:

    .. math::
        \max_\eta L_B(\theta_\eta) - \min_\eta L_B(\theta_\eta), \qquad
        \max_\eta \Delta_\eta - \min_\eta \Delta_\eta, \quad
        \Delta_\eta = \lVert \nabla L_B(\theta_\eta) - g \rVert, \qquad
        \max_\eta \frac{\Delta_\eta}{\lVert \theta_\eta - \theta \rVert},

    the loss range, the range of the gradient's change ("gradient predictiveness": the smaller, the further
    the gradient can be trusted) and the effective :math:`\beta`-smoothness. All maxima are over the rates
    given alone: in between they may be larger. On a quadratic the last is |H g| / |g|, whatever the rates.

    The ranges are of steps of one eta, the smoothness is by the distance gone: where two networks'
    gradients have other lengths, these are two questions. A network that has died, its gradient near nought,
    comes out as most predictable.

    In ``"batch"`` mode a batch is normalised by its own statistics wherever it is evaluated, which is the
    function that training descends; in ``"running"`` mode by the stored ones. In ``"recalibrated"`` mode
    statistics are those of the calibration data, taken anew at every point, and each point's gradient holds
    its own constant. The L2 term is in losses and gradients.

    The cost: E + 1 gradients of each batch.

    Parameters
    ----------
    objective
        The point, and the examples that batches are drawn from.
    learning_rates
        The steps eta, at least two, ascending. Default: those of Santurkar et al.
    gradient
        ``"batch"``: each of `num_batches` batches along its own gradient, drawn independently, without
        replacement. ``"full"``: the objective itself along its own, in ``"batch"`` mode over its partition;
        nothing is drawn then.
    batch_size
        B, at most N; of ``"batch"`` alone. Default: the objective's own, at most N.
    num_batches
        K, at least two; where one batch holds all the examples, that one is taken.
    seed
        Of the draws.
    progress
        Called with gradients done and gradients in all.

    Raises
    ------
    NonFiniteLossError
        If the loss or its gradient is not finite at the point or after a step, which it names.
    ValueError
        If an argument is out of range, the gradient of a batch is zero, or a step too short to move.

    References
    ----------
    Santurkar, Tsipras, Ilyas and Madry (2018), How Does Batch Normalization Help Optimization?, NeurIPS,
    figure 4.
    """
    check_objective("objective", objective)
    rates = _checked_rates(learning_rates)
    check_one_of("gradient", gradient, get_args(Gradient))
    check_count("num_batches", num_batches, 2)
    stream_seed(seed)
    size = _checked_size(objective, gradient, batch_size)
    N = objective.num_examples
    count = 1 if size == N else num_batches
    work = Work(progress, count * (len(rates) + 1))
    _ = objective.effective_buffers  # computed once here, shared by the batches
    rng = generator(seed, "gradient_predictiveness")
    followed: list[_Followed] = []
    for i in range(count):
        batch, name = objective, "all the examples"
        if gradient == "batch":
            batch = objective.select(torch.randperm(N, generator=rng)[:size].sort().values, size)
            name = f"batch {i} of {size} examples"
        followed.append(_follow(batch, rates, name, work))
    arguments = {
        "learning_rates": rates,
        "gradient": gradient,
        "batch_size": batch_size,
        "num_batches": num_batches,
        "seed": seed,
    }
    columns: dict[str, Any] = {
        f.name: torch.tensor([getattr(row, f.name) for row in followed], dtype=torch.float64)
        for f in fields(_Followed)
    }
    result = GradientPredictiveness(
        value=math.nan,  # made of the rest
        provenance={
            "function": "gradient_predictiveness",
            "arguments": arguments,
            "objective": objective.describe(),
        },
        batch_size=size,
        learning_rates=torch.tensor(rates, dtype=torch.float64),
        **columns,
    )
    smoothness = _mean(result.smoothness, (result._gradient_rounding / result.distances).amax(1))
    spread = StandardError(float(smoothness.standard_error), count - 1) if count > 1 else None
    error = ErrorBudget(solver=float(smoothness.solver), data=spread)
    return replace(result, value=float(smoothness), error=error)


@dataclass(frozen=True)
class _Followed:
    """One batch along its gradient; see `GradientPredictiveness`."""

    center_losses: float
    gradient_norms: float
    losses: list[float]
    gradient_changes: list[float]
    distances: list[float]


def _follow(batch: Objective, rates: Sequence[float], name: str, work: Work) -> _Followed:
    loss, gradient = value_and_gradient(batch)
    work.add(1)
    # Long sums, and small differences, belong in float64, which not every device has.
    start, g = batch.params.cpu().double(), gradient.cpu().double()
    norm = float(g.norm())
    if norm == 0:
        raise ValueError(
            f"`objective` must have a gradient that is not zero, but that of {name} is: it leads nowhere. "
            "Take larger batches, or another point."
        )
    losses, changes, distances = [], [], []
    for rate in rates:
        point = batch.at(batch.params - rate * gradient)
        moved = float((point.params.cpu().double() - start).norm())
        if moved == 0:
            raise ValueError(
                f"`learning_rates` must move the parameters, but {rate:g} along the gradient of {name} is "
                "lost in their rounding; take larger ones, or objective.to_dtype(torch.float64)."
            )
        try:
            loss_there, gradient_there = value_and_gradient(point)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"after a step of {rate:g} along the gradient of {name}: {error} Leave such steps out of "
                "`learning_rates`."
            ) from error
        losses.append(loss_there)
        changes.append(float((gradient_there.cpu().double() - g).norm()))
        distances.append(moved)
        work.add(1)
    return _Followed(loss, norm, losses, changes, distances)


def _checked_size(objective: Objective, gradient: Gradient, batch_size: int | None) -> int:
    if gradient == "batch":
        return checked_batch_size(objective, False, batch_size)
    if batch_size is not None:
        raise ValueError(
            f"`batch_size` belongs to gradient='batch', got {batch_size} with 'full': leave it out; in "
            "'batch' mode it is the objective's own."
        )
    return objective.num_examples


def _checked_rates(rates: Sequence[float]) -> list[float]:
    given = list(rates) if isinstance(rates, Sequence) and not isinstance(rates, str) else []
    numbers = all(is_number(rate) and 0 < rate < math.inf for rate in given)
    if len(given) < 2 or not numbers or any(b <= a for a, b in pairwise(given)):
        raise ValueError(
            "`learning_rates` must be at least two positive finite numbers, ascending, for a range needs two "
            f"steps, got {rates!r}."
        )
    return [float(rate) for rate in given]
