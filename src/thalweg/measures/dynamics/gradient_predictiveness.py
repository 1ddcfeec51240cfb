"""Along the gradient: how far loss and gradient change within a range of steps, and how smooth that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_one_of, is_number
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator, stream_seed
from thalweg.measures.dynamics.batch_draws import checked_batch_size
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.objective.value_and_gradient import value_and_gradient

Gradient = Literal["batch", "full"]
Headline = Literal["smoothness", "gradient_range", "loss_range"]

# Santurkar et al. go up to 0.4 along the gradient, four times the rate they train with.
LEARNING_RATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)

WORDS = {"smoothness": "effective smoothness", "gradient_range": "gradient range", "loss_range": "loss range"}


@dataclass(frozen=True, kw_only=True, repr=False)
class GradientPredictiveness(Measurement):
    """Loss and gradient along the steps -eta g of K batches; `value` is the mean of one of three numbers.

    ``error.data`` is its standard error as an estimate of the mean over all batches of that size that could
    be drawn from the objective's examples; ``None``, exact, where there is one gradient, of them all.
    ``error.solver`` is what a unit of rounding in the losses or gradients makes of it.

    Parameters
    ----------
    headline
        Which number it is: ``"smoothness"``, in loss / parameter^2; ``"gradient_range"``, in
        loss / parameter; ``"loss_range"``, in loss.
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

    headline: str
    batch_size: int
    learning_rates: Tensor
    center_losses: Tensor
    gradient_norms: Tensor
    losses: Tensor
    gradient_changes: Tensor
    distances: Tensor

    @property
    def loss_ranges(self) -> Tensor:
        """``(K,)``: the largest loss after a step less the smallest."""
        return self.losses.amax(1) - self.losses.amin(1)

    @property
    def gradient_ranges(self) -> Tensor:
        """``(K,)``: the largest change of the gradient less the smallest."""
        return self.gradient_changes.amax(1) - self.gradient_changes.amin(1)

    @property
    def smoothness(self) -> Tensor:
        """``(K,)``: the largest change of the gradient over the length of its step."""
        return (self.gradient_changes / self.distances).amax(1)

    def by(self, headline: Headline) -> GradientPredictiveness:
        """The same steps with another of the three numbers as their value."""
        check_one_of("headline", headline, get_args(Headline))
        # Of two gradients, and of two losses, a unit of rounding each.
        unit = torch.finfo(getattr(torch, self.provenance["objective"]["dtype"])).eps
        gradients = unit * (2 * self.gradient_norms[:, None] + self.gradient_changes)
        samples, rounding = {
            "smoothness": (self.smoothness, (gradients / self.distances).amax(1)),
            "gradient_range": (self.gradient_ranges, 2 * gradients.amax(1)),
            "loss_range": (self.loss_ranges, 2 * unit * self.losses.abs().amax(1)),
        }[headline]
        K = len(samples)
        spread = StandardError(float(samples.std()) / math.sqrt(K), K - 1) if K > 1 else None
        arguments = {**self.provenance["arguments"], "headline": headline}
        return replace(
            self,
            value=float(samples.mean()),
            error=ErrorBudget(solver=float(rounding.mean()), data=spread),
            provenance={**self.provenance, "arguments": arguments},
            headline=headline,
        )

    def _circumstances(self) -> list[str]:
        low, high = float(self.learning_rates[0]), float(self.learning_rates[-1])
        return [f"{WORDS[self.headline]} for steps of {low:g} to {high:g}", *super()._circumstances()]


def gradient_predictiveness(
    objective: Objective,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    gradient: Gradient = "batch",
    batch_size: int | None = None,
    num_batches: int = 16,
    headline: Headline = "smoothness",
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

    One number compares steps of one eta, the smoothness changes of one distance: where two networks'
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
    headline
        Which of the three is `value`: ``"smoothness"``, ``"gradient_range"`` or ``"loss_range"``. The result
        holds all.
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
    check_one_of("headline", headline, get_args(Headline))
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
        "headline": headline,
        "seed": seed,
    }
    result = GradientPredictiveness(
        value=math.nan,  # until `by` says which
        provenance={
            "function": "gradient_predictiveness",
            "arguments": arguments,
            "objective": objective.describe(),
        },
        headline=headline,
        batch_size=size,
        learning_rates=torch.tensor(rates, dtype=torch.float64),
        **{
            f.name: torch.tensor([getattr(row, f.name) for row in followed], dtype=torch.float64)
            for f in fields(_Followed)
        },
    )
    return result.by(headline)


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
