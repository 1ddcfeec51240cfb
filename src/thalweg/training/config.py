"""How to train: the numbers of a run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from thalweg.core.arguments import check_count
from thalweg.core.rng import stream_seed


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; the defaults are the paper's where it says, and a documented choice where it does not.

    Parameters
    ----------
    seed
        Of the data order and of whatever the model draws while it trains (dropout). Initialisation is
        `build_model`'s, on another stream.
    epochs
        Passes over the training data.
    lr, momentum, weight_decay
        Of SGD in torch's convention: ``v = momentum * v + g + weight_decay * w; w = w - lr * v``.
    batch_size
        Examples a step, B; the last batch of an epoch is smaller where B does not divide N.
    step_size, gamma
        StepLR: the rate is multiplied by `gamma` after every `step_size` epochs. The paper says StepLR and
        neither number; 2 and 0.5 are our choice.
    evaluate_every
        Epochs between looks at the loss and accuracy on all the data, which a history is made of; the last
        epoch always has one. Above 1 where epochs are short: of gradient descent on all the data, a look at
        each costs half as much as the training.
    """

    seed: int
    epochs: int = 6
    lr: float = 0.01
    momentum: float = 0.9
    batch_size: int = 128
    weight_decay: float = 0.0
    step_size: int = 2
    gamma: float = 0.5
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "step_size", "evaluate_every"):
            check_count(name, getattr(self, name))
        stream_seed(self.seed)  # refuses what is no integer
        if not 0 < self.lr < math.inf:
            raise ValueError(f"`lr` must be a finite number above 0, got {self.lr}; the paper's is 0.01.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1), got {self.momentum}; 0.9 is customary.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"`weight_decay` must be a finite number >= 0, got {self.weight_decay}.")
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"`gamma` must be a finite number above 0, got {self.gamma}; 1 keeps the rate.")

    def describe(self) -> dict[str, Any]:
        """Its fields, as they identify a run: JSON-safe, without what came later and is at its default."""
        fields = dataclasses.asdict(self)
        if self.evaluate_every == 1:
            del fields["evaluate_every"]
        return fields

    def without_schedule(self) -> TrainConfig:
        """The same for all that differ only in when and how the rate comes down, and how long they go on."""
        return dataclasses.replace(self, epochs=1, step_size=1, gamma=1.0)


def shared_epochs(a: TrainConfig, b: TrainConfig) -> int:
    """Epochs after which a run of the one and a run of the other are in one state, to the bit.

    Before the end of either, so that the history is one as well; 0 if more than schedules differs.
    """
    if a.without_schedule() != b.without_schedule():
        return 0
    before_end = min(a.epochs, b.epochs) - 1
    if (a.step_size, a.gamma) == (b.step_size, b.gamma):
        return before_end
    # The state after an epoch holds the next one's rate.
    return min([before_end, *(c.step_size - 1 for c in (a, b) if c.gamma != 1)])
