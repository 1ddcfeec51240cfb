"""The largest learning rate at which SGD still trains from a point, found by training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_fraction, check_positive
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator, stream_seed
from thalweg.core.rounding import at_least, at_most
from thalweg.measures.dynamics.batch_draws import BatchDraws, checked_batch_size
from thalweg.measures.dynamics.constant_rate import ConstantRate
from thalweg.measures.dynamics.constant_rate_walk import constant_rate_walk
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

# Of the scan, before its last gap is halved.
GROWTH = 2.0

# A gradient costs about three values.
GRADIENT_COST = 3


@dataclass(frozen=True, kw_only=True, repr=False)
class LargestStableLearningRate(Measurement):
    """The geometric mean, over orders of the data, of the rate up to which SGD trains.

    ``error.solver`` is what the brackets leave of it; ``error.probe`` its standard error over the orders.
    From another initialisation it is another number: that spread is between networks.

    Parameters
    ----------
    stable, unstable
        ``(K,)`` float64, one an order: the largest rate that trained and the next one tried, which did not.
    batch_size
        Examples a step, B.
    start_loss, level
        Over all the examples before the first step, and what a run must end at or below to have trained.
    trial_orders, trial_rates, trial_losses
        ``(T,)`` int64, float64 and float64: all runs as they were made, which order of the data, from 0, at
        which rate, and the loss over all the examples at the end; NaN of a run that diverged.
    """

    measure: ClassVar[str] = "largest_stable_learning_rate"

    stable: Tensor
    unstable: Tensor
    batch_size: int
    start_loss: float
    level: float
    trial_orders: Tensor
    trial_rates: Tensor
    trial_losses: Tensor

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval at confidence `level`: Student's on the logarithm, about the brackets' ends."""
        assert self.error.probe is not None
        half = StandardError(self.error.probe.value / self.value, self.error.probe.dof).half_width(level)
        low, high = (float(ends.log().mean()) for ends in (self.stable, self.unstable))
        return math.exp(low - half), math.exp(high + half)

    def __repr__(self) -> str:
        low, high = self.interval(0.95)
        number = f"{self.value:.3g}, {at_least(low, 2)} to {at_most(high, 2)} (95 %)"
        return f"{type(self).__name__}({', '.join([number, *self._circumstances()])})"

    @property
    def trained(self) -> Tensor:
        """``(T,)``, whether the run did."""
        return self.trial_losses <= self.level


def largest_stable_learning_rate(
    objective: Objective,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    batch_size: int | None = None,
    num_steps: int = 100,
    loss_ratio: float = 0.9,
    lowest: float = 1e-3,
    highest: float = 1e3,
    rtol: float = 0.1,
    num_orders: int = 4,
    seed: int,
    progress: Progress | None = None,
) -> LargestStableLearningRate:
    r"""Bracket the largest constant rate at which SGD brings the loss down, by short runs from one point.

    A run of `num_steps` steps has *trained* if the loss over all the examples ends at no more than
    `loss_ratio` times that of the start. It has not if it ends above that, which a network that died does
    without ever diverging, or if loss or gradient became infinite: an outcome, no error. For each of several
    orders of the data, rates are doubled from the lowest on; the first that trains begins the stable ones,
    the next that does not ends them, and the gap between is halved in the logarithm. Rates below the first
    may be stable and too slow for so few steps. Beyond the end others may train by luck: they are not looked
    for.

    On a quadratic and with all the examples in each batch it is the classical threshold, 2 / lambda_max
    without momentum and (2 + 2 mu) / lambda_max for heavy ball, as far as `num_steps` shows slow growth.

    It is about so many steps from this point at a constant rate, mostly those of the start of training, and
    not about what a schedule or later curvature would allow.

    Steps are those of ``torch.optim.SGD`` on the objective's own function, in shuffled passes over its
    examples: in ``"batch"`` mode each batch of B is normalised by its own statistics, as in training;
    elsewhere with the statistics of the start, constant.

    Parameters
    ----------
    objective
        The point, a fresh network say, and the examples to train on.
    momentum, nesterov
        As in ``torch.optim.SGD``; no dampening.
    batch_size
        B, at most N. Default: the objective's own, at most N.
    num_steps
        Steps of each run.
    loss_ratio
        Of the loss at the end to that at the start, in (0, 1): below what a network reaches that predicts the
        same whatever its input.
    lowest, highest
        Between which rates are tried.
    rtol
        Width of each bracket over its lower end, in (0, 1).
    num_orders
        K, at least two.
    seed
        Of the orders.
    progress
        Called with work done and an estimate of the whole, in examples.

    Raises
    ------
    ConvergenceError
        If no rate trains, or the highest still does.
    NonFiniteLossError
        If the loss is not finite at the start.
    ValueError
        If an argument is out of range, or the loss at the start is not above nought, so that it has no ratio.

    References
    ----------
    Bjorck, Gomes, Selman and Weinberger (2018), Understanding Batch Normalization, NeurIPS: networks without
    batch norm diverge at rates at which those with it train.
    """
    check_objective("objective", objective)
    check_positive("lowest", lowest, "0.001 is usual")
    check_positive("highest", highest, "1000 is usual")
    if not lowest < highest:
        raise ValueError(f"`highest` must be above `lowest`, {lowest:g}, got {highest:g}.")
    ConstantRate(lowest, momentum, nesterov)  # refuses what is out of range
    size = checked_batch_size(objective, False, batch_size)
    for name, count, least in (("num_steps", num_steps, 1), ("num_orders", num_orders, 2)):
        check_count(name, count, least)
    check_fraction("loss_ratio", loss_ratio, "0.9 asks for a loss down by a tenth")
    check_fraction("rtol", rtol, "0.1 brackets the rate to 10 %")
    stream_seed(seed)
    held, N = objective.frozen(), objective.num_examples
    start_loss = held.value()
    if not start_loss > 0:
        raise ValueError(
            f"`objective` must have a loss above nought where training starts, got {start_loss:.4g}: a loss "
            "ratio needs one. Add a constant to the loss."
        )
    level = loss_ratio * start_loss
    draws = BatchDraws(N, size, sampling="epochs")
    cost = GRADIENT_COST * num_steps * size + N
    # Doublings over a third of the way, on a guess, and halvings of one gap.
    guess = math.ceil(math.log2(highest / lowest) / 3) + math.ceil(math.log2(1 / math.log2(1 + rtol)))
    work = Work(progress, num_orders * guess * cost)
    trials: list[tuple[int, float, float]] = []
    brackets = []
    for order in range(num_orders):

        def trains(rate: float, order: int = order) -> bool:
            walk = constant_rate_walk(
                held.params,
                held.params.new_zeros(held.space.dim, 0),
                ConstantRate(rate, momentum, nesterov),
                lambda params, index: held.select(index, size).at(params).gradient(),
                lambda params: start_loss if params is held.params else held.at(params).value(),
                draws(generator(seed, "largest_stable_learning_rate", order)),
                burn_in=0,
                num_steps=num_steps,
                loss_every=num_steps,
            )
            loss = float(walk.losses[-1]) if walk.diverged_at is None else math.nan
            trials.append((order, rate, loss))
            work.add(cost)
            return loss <= level

        brackets.append(_bracket(trains, lowest, highest, rtol))
    work.finish()
    orders, rates, losses = (torch.tensor(c, dtype=torch.float64) for c in zip(*trials, strict=True))
    stable, unstable = torch.tensor(brackets, dtype=torch.float64).T
    middles = (stable * unstable).sqrt().log()
    value = float(middles.mean().exp())
    spread = float(middles.std()) / math.sqrt(num_orders)
    return LargestStableLearningRate(
        value=value,
        error=ErrorBudget(
            # The geometric mean of the brackets' upper ends is further off than that of the lower ones.
            solver=float(unstable.log().mean().exp()) - value,
            probe=StandardError(value * spread, num_orders - 1),
        ),
        provenance={
            "function": "largest_stable_learning_rate",
            "arguments": {
                "momentum": momentum,
                "nesterov": nesterov,
                "batch_size": batch_size,
                "num_steps": num_steps,
                "loss_ratio": loss_ratio,
                "lowest": lowest,
                "highest": highest,
                "rtol": rtol,
                "num_orders": num_orders,
                "seed": seed,
            },
            "objective": objective.describe(),
        },
        stable=stable,
        unstable=unstable,
        batch_size=size,
        start_loss=start_loss,
        level=level,
        trial_orders=orders.long(),
        trial_rates=rates,
        trial_losses=losses,
    )


def _bracket(
    trains: Callable[[float], bool], lowest: float, highest: float, rtol: float
) -> tuple[float, float]:
    """The end of the first rates that train, as they are doubled: one that does and one that does not."""
    stable, rate = None, lowest
    while True:
        if trains(rate):
            stable = rate
        elif stable is not None:
            break
        if rate >= highest:
            found = "no rate trains" if stable is None else "the highest rate still trains"
            remedy = "give more `num_steps`, or other ends" if stable is None else "raise `highest`"
            raise ConvergenceError(
                f"{found}, of those doubled from {lowest:g} to {highest:g}, so that the largest stable one "
                f"has no bracket: {remedy}."
            )
        rate = min(GROWTH * rate, highest)
    unstable = rate
    while unstable > (1 + rtol) * stable:
        middle = math.sqrt(stable * unstable)
        if trains(middle):
            stable = middle
        else:
            unstable = middle
    return stable, unstable
