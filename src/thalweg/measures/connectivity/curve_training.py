"""Training the bends of a curve: stochastic gradient descent on the mean loss over the curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.optim import SGD

from thalweg.core.arguments import check_count, check_positive, is_number
from thalweg.core.array_store import Store, key_of
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import hash_tensors
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


@dataclass(frozen=True)
class KeptTraining:
    """Where a training is kept on its way.

    Parameters
    ----------
    store
        Gets the bends, their momentum and the losses so far.
    decided_by
        A hash of what the training hangs on beside its own arguments: how this machine rounds.
    every
        So many steps, and at the end.
    """

    store: Store
    decided_by: str
    every: int

    def key(self, curve: Curve, a: Objective, b: Objective, training: CurveTraining, seed: int) -> str:
        """Of a training: it says how far that has come."""
        return key_of(
            training=asdict(training),
            curve=[curve.kind, hash_tensors(*curve.points)],
            a=a.describe(),
            b=b.describe(),
            seed=seed,
            decided_by=self.decided_by,
        )


def trained(
    curve: Curve,
    a: Objective,
    b: Objective,
    training: CurveTraining,
    *,
    seed: int,
    kept: KeptTraining | None,
    on_steps: Callable[[int], None],
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
    kept
        Where it goes on from a kill, to the same bits; what it draws, it draws anew.
    on_steps
        Called with the number of steps done since the last call.

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
    losses: list[float] = []
    key = "" if kept is None else kept.key(curve, a, b, training, seed)
    if kept and (state := kept.store.get(key)):
        _restore(state, bends, optimizer)
        losses = state["losses"].tolist()
        on_steps(len(losses))
    begun = len(losses)
    batches = islice(_batches(a.num_examples, training.batch_size, seed), begun, None)
    for step, (t, index) in enumerate(zip(positions[begun:].tolist(), batches, strict=False), begun):
        optimizer.param_groups[0]["lr"] = training.learning_rate * training.share_of_rate(step)
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
        losses.append(loss)
        if kept and (not len(losses) % kept.every or len(losses) == training.num_steps):
            kept.store.put(key, _state(bends, optimizer, losses))
        on_steps(1)
    for bend in bends:
        bend.grad = None
    return here, torch.tensor(losses, dtype=torch.float64), positions


def _state(bends: Sequence[Tensor], optimizer: SGD, losses: Sequence[float]) -> dict[str, Tensor]:
    """All that the rest of a training hangs on; what it draws hangs on the seed and the step alone."""
    found = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for j, bend in enumerate(bends):
        found[f"bend {j}"] = bend
        if (momentum := optimizer.state[bend].get("momentum_buffer")) is not None:
            found[f"momentum {j}"] = momentum
    return found


def _restore(state: Mapping[str, Tensor], bends: Sequence[Tensor], optimizer: SGD) -> None:
    for j, bend in enumerate(bends):
        bend.copy_(state[f"bend {j}"])
        if f"momentum {j}" in state:
            optimizer.state[bend]["momentum_buffer"] = state[f"momentum {j}"].to(bend)


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
