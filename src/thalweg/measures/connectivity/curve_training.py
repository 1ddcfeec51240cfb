"""Training the bends of a curve: stochastic gradient descent on the mean loss over the curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from thalweg.core.arguments import check_count, check_positive, is_number
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.rng import generator
from thalweg.measures.connectivity.curve import Curve
from thalweg.measures.connectivity.path import buffers_between
from thalweg.objective.batch_statistics import with_batch_statistics
from thalweg.objective.objective import Objective
from thalweg.objective.value_and_gradient import value_and_gradient

# Garipov et al.'s schedule: the whole rate for half of the steps, then down a straight line to a hundredth
# of it at nine tenths of them.
FULL_UNTIL, LOW_FROM, LOW = 0.5, 0.9, 0.01

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class CurveTraining:
    """How to train the bends; see `thalweg.bezier_path` for the arguments."""

    num_steps: int
    learning_rate: float
    momentum: float
    batch_size: int

    def __post_init__(self) -> None:
        check_count("num_steps", self.num_steps, least=0)
        check_positive("learning_rate", self.learning_rate, "about that which trained the ends is a good one")
        if not is_number(self.momentum) or not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1), got {self.momentum!r}; 0.9 is customary.")
        check_count("batch_size", self.batch_size)

    def share_of_rate(self, step: int) -> float:
        """What part of the learning rate step number `step`, from 0, is taken with."""
        done = step / self.num_steps
        falling = (done - FULL_UNTIL) / (LOW_FROM - FULL_UNTIL)
        return 1 + (LOW - 1) * min(1.0, max(0.0, falling))


def trained(
    curve: Curve,
    a: Objective,
    b: Objective,
    training: CurveTraining,
    *,
    seed: int,
    on_step: Callable[[], None],
) -> tuple[Curve, Tensor, Tensor]:
    r"""Minimise :math:`E_t L(\varphi(t))`, t uniform, over the bends; the ends stay.

    A step takes one t and one mini-batch of the objective's data, as Garipov et al.'s does. Their t are
    independent; ours are spread evenly over the steps, see `_positions`, which leaves the mean as it is and
    takes out most of the noise that the t bring.

    Parameters
    ----------
    curve
        Where to begin; not changed.
    a, b
        The objectives at its ends.
    training
        How.
    seed
        Of the t and of the mini-batches, each a stream of its own.
    on_step
        Called after each step.

    Returns
    -------
    curve, losses, positions
        And ``(S,)`` float64 each: the mini-batch's mean loss, without an L2 term, before each step; its t.

    Raises
    ------
    NonFiniteLossError
        If the loss or its gradient becomes NaN or infinite, naming the step.
    """
    positions = _positions(training.num_steps, seed)
    if not training.num_steps:
        return curve, positions, positions
    function = with_batch_statistics(a).without_decay()
    first, *bends, last = curve.points
    bends = [w.clone() for w in bends]
    here = Curve(curve.kind, [first, *bends, last])
    optimizer = SGD(bends, lr=training.learning_rate, momentum=training.momentum)
    schedule = LambdaLR(optimizer, training.share_of_rate)
    batches = _batches(a.num_examples, training.batch_size, seed)
    losses: list[float] = []
    for step, (t, index) in enumerate(zip(positions.tolist(), batches, strict=False)):
        params = here.at(t)
        batch = function.select(index, batch_size=len(index)).at(params, buffers_between(a, b, t))
        try:
            loss, gradient = value_and_gradient(batch)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"training of the curve diverged at step {step + 1} of {training.num_steps}, t = {t:.3g}; a "
                f"smaller `learning_rate` than {training.learning_rate:g} is the usual remedy: {error}"
            ) from error
        gradient = gradient + a.weight_decay * params
        for bend, c in zip(bends, here.coefficients(t)[1:-1], strict=True):
            bend.grad = c * gradient
        optimizer.step()
        schedule.step()
        losses.append(loss)
        on_step()
    for bend in bends:
        bend.grad = None
    return here, torch.tensor(losses, dtype=torch.float64), positions


def _positions(num_steps: int, seed: int) -> Tensor:
    """Where on the curve each step is taken ``(S,)``: multiples of the golden ratio mod 1, shifted at random.

    Each is uniform on [0, 1), and n steps in a row leave no gap wider than some 2 / n (Kronecker's sequence).
    """
    shift = torch.rand((), generator=generator(seed, "curve", "position"), dtype=torch.float64)
    return (shift + GOLDEN * torch.arange(num_steps, dtype=torch.float64)) % 1


def _batches(num_examples: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless mini-batches of one size, cut from one shuffled pass over the data after another."""
    size = min(batch_size, num_examples)
    pool, epoch = torch.empty(0, dtype=torch.int64), 0
    while True:
        while len(pool) < size:
            order = torch.randperm(num_examples, generator=generator(seed, "curve", "order", epoch))
            pool, epoch = torch.cat([pool, order]), epoch + 1
        yield pool[:size]
        pool = pool[size:]
