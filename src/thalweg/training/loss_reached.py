"""The first time that training reaches a loss: a network to compare others with at the same loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from thalweg.core.arguments import check_count
from thalweg.core.measurement import Measurement
from thalweg.objective.evaluation import Evaluation
from thalweg.objective.losses import Loss
from thalweg.objective.objective import Objective
from thalweg.training.checkpoint import save_weights, weights_header
from thalweg.training.trainer import TrainingState, evaluated_now


class LossReached:
    """A callback of `train` that keeps the weights when a loss is first reached.

    Every so many steps the loss is evaluated with running statistics; for each of `losses` the weights of the
    first look at which it is no larger are kept in the folder. A run that was killed and resumed looks at the
    same steps and keeps the same bits.

    Parameters
    ----------
    losses
        What is to be reached.
    data, loss
        What the loss is measured on, and which: as in `Objective`.
    every
        Steps between looks.
    folder
        Where the weights go; see `reached_file`.
    """

    def __init__(
        self, losses: Sequence[float], data: Any, loss: Loss, *, every: int, folder: str | Path
    ) -> None:
        check_count("every", every)
        self._losses, self._data, self._loss = list(losses), data, loss
        self._every, self._folder = every, Path(folder)
        self._objective: Objective | None = None

    def __call__(self, state: TrainingState) -> None:
        """Look, if it is time."""
        if state.step % self._every and state.step != state.num_steps:
            return
        wanted = [loss for loss in self._losses if not self._kept_before(loss, state.step)]
        if not wanted:
            return
        now = self._evaluated(state).loss
        for loss in wanted:
            if now <= loss:
                header = {"step": state.step, "loss": now}
                save_weights(reached_file(self._folder, loss), state.model, header)

    def _kept_before(self, loss: float, step: int) -> bool:
        # A file from a later step is one that a killed run wrote after its last checkpoint: it comes again.
        there = reached_step(self._folder, loss)
        return there is not None and there <= step

    def _evaluated(self, state: TrainingState) -> Evaluation:
        flags = [(module, module.training) for module in state.model.modules()]
        try:
            state.model.eval()
            self._objective = self._objective or Objective(state.model, self._data, self._loss)
            return evaluated_now(self._objective, state.model)
        finally:
            for module, training in flags:
                module.training = training


def reached_file(folder: str | Path, loss: float) -> Path:
    """Where the weights lie of the first look at which the loss was no larger."""
    return Path(folder) / f"loss{loss:g}.safetensors"


def reached_step(folder: str | Path, loss: float) -> int | None:
    """The step of that look; None if the loss was not reached."""
    path = reached_file(folder, loss)
    return int(weights_header(path)["step"]) if path.exists() else None


@dataclass(frozen=True, kw_only=True)
class StepsToLoss(Measurement):
    """Steps of training until the first look at which the loss was no larger; infinite if none was.

    Exact for the looks that were taken; between two of them the loss may have been there before.

    Parameters
    ----------
    loss
        Which.
    look_every
        Steps between looks.
    """

    measure: ClassVar[str] = "steps_to_loss"

    loss: float
    look_every: int


def steps_to_loss(folder: str | Path, loss: float, *, look_every: int) -> StepsToLoss:
    """Read off what `LossReached` left in the folder of a run, one that ended or one that diverged.

    Parameters
    ----------
    folder, loss, look_every
        As they were given to it.
    """
    step = reached_step(folder, loss)
    provenance = {"function": "steps_to_loss", "loss": loss, "look_every": look_every}
    value = math.inf if step is None else float(step)
    return StepsToLoss(value=value, provenance=provenance, loss=loss, look_every=look_every)
