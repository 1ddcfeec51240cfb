"""Runs that leave another one at some step: from there on the order of the data differs, or the rate.

Both share everything up to that step, to the bit: weights, statistics, momentum, learning rate, the state of
the global generators that layers such as dropout draw from, and which examples the epoch under way has left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import hash_tensors
from thalweg.core.rng import generator
from thalweg.training.checkpoint import Checkpoint
from thalweg.training.config import TrainConfig, shared_epochs


@dataclass(frozen=True)
class Branch:
    """Where a run leaves another.

    Parameters
    ----------
    path
        Checkpoint of the other run, kept by ``train(..., keep_steps=...)``; see `kept_checkpoint`.
    order_seed
        Of the data order from there on; None for the order that both have, where the other run has another
        schedule that has not told yet (`shared_epochs`). Such a run is, to the bit, what training from the
        start would give.
    """

    path: Path
    order_seed: int | None = None

    def load(self) -> Checkpoint:
        """The state there.

        Raises
        ------
        ValueError
            If the file is no checkpoint.
        """
        return Checkpoint.load(self.path)

    def state_for(self, config: TrainConfig, origin: Checkpoint, steps_per_epoch: int) -> Checkpoint:
        """What a run of this configuration goes on from; as if its own where both are still one run."""
        there = origin.header["provenance"]
        fields = [field.name for field in dataclasses.fields(TrainConfig)]
        theirs = TrainConfig(**{name: there[name] for name in fields if name in there})
        shared = shared_epochs(theirs, config) * steps_per_epoch
        if self.order_seed is not None or origin.header["step"] > shared:
            return origin
        schedule = {"step_size": config.step_size, "gamma": config.gamma}
        header = {
            **origin.header,
            "provenance": {**there, **schedule, "epochs": config.epochs},
            "scheduler": {**origin.header["scheduler"], **schedule},
        }
        return Checkpoint(origin.tensors, header)

    def fork(self, origin: Checkpoint) -> tuple[int, int] | None:
        """Step and seed of the other order; None if there is none."""
        return None if self.order_seed is None else (origin.header["step"], self.order_seed)

    def describe(self, origin: Checkpoint) -> dict[str, Any]:
        """What two identical branches share: step, state and order; nothing if as from the start."""
        if self.order_seed is None:
            return {}
        tensors = [origin.tensors[name] for name in sorted(origin.tensors)]
        step, state = origin.header["step"], hash_tensors(*tensors)
        return {"branch": {"step": step, "state": state, "order_seed": int(self.order_seed)}}


def kept_checkpoint(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step in ``keep_steps`` lies."""
    return Path(folder) / f"step{step}.safetensors"


def check_steps(argument: str, steps: Collection[int], num_steps: int) -> None:
    """Raise unless all are steps of a run of so many."""
    for step in steps:
        check_count(argument, step, least=0)
        if step > num_steps:
            raise ValueError(f"`{argument}` must be at most {num_steps}, the steps of a run, got {step}.")


def check_kept(folder: Path, keep_steps: Collection[int], done: int) -> None:
    """Raise unless the run in a folder has kept those of these steps that it has done."""
    for step in keep_steps:
        if 0 < done >= step and not kept_checkpoint(folder, step).exists():
            raise ValueError(
                f"`keep_steps` asks for step {step}, but the run in {folder} is at step {done} and did not "
                "keep it; name another folder."
            )


def data_order(num_examples: int, config: TrainConfig, epoch: int, fork: tuple[int, int] | None) -> Tensor:
    """Order of the examples ``(N,)`` in an epoch, from 1.

    A stream for each epoch, so that a run resumed in the middle draws the same order again.

    Parameters
    ----------
    num_examples
        N.
    config
        Seed and batch size.
    epoch
        Which one.
    fork
        Step of a branch and seed of its order: what the epoch has left after that step comes in another
        order, so that each epoch stays one pass over the data.
    """
    order = torch.randperm(num_examples, generator=generator(config.seed, "order", epoch))
    if fork is None:
        return order
    step, order_seed = fork
    steps_per_epoch = -(-num_examples // config.batch_size)
    seen = min(max(0, step - (epoch - 1) * steps_per_epoch) * config.batch_size, num_examples)
    left = order[seen:]
    again = torch.randperm(len(left), generator=generator(order_seed, "branch order", epoch))
    return torch.cat([order[:seen], left[again]])
