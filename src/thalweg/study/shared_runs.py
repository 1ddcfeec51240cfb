"""Runs of a study that are one run until their schedules part: what they share is trained once."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thalweg.core.atomic import replacing
from thalweg.training.branch import Branch, kept_checkpoint
from thalweg.training.checkpoint import Checkpoint
from thalweg.training.config import TrainConfig, shared_epochs
from thalweg.training.loss_reached import reached_file, reached_step
from thalweg.training.trainer import CHECKPOINT_FILE


@dataclass(frozen=True)
class Origin:
    """Which run another one leaves.

    Parameters
    ----------
    run
        Its identity.
    epochs
        After so many of them.
    """

    run: str
    epochs: int


def origins(configs: Mapping[str, tuple[str, TrainConfig]]) -> dict[str, Origin]:
    """By its identity, where each run leaves another one; of those alike the first is trained whole.

    Parameters
    ----------
    configs
        By the runs' identities, in order: what besides the training decides the weights, and the training.
    """
    first: dict[tuple[str, TrainConfig], str] = {}
    found = {}
    for run, (rest, config) in configs.items():
        origin = first.setdefault((rest, config.without_schedule()), run)
        shared = shared_epochs(configs[origin][1], config)
        if origin != run and shared:
            found[run] = Origin(origin, shared)
    return found


def branch_off(
    origin: Path, folder: Path, step: int, *, keep_steps: Collection[int], losses: Sequence[float]
) -> Branch | None:
    """Where a run goes on from; what the other had kept by then is put into its folder.

    Parameters
    ----------
    origin, folder
        Of the other run, and of this one.
    step
        Until which they are one.
    keep_steps, losses
        What is kept of this one: see `train` and `LossReached`.

    Returns
    -------
    Branch
        None if this run is under way by itself, or there is nothing to go on from: it then trains from the
        start, to the same bits.
    """
    kept = [kept_checkpoint(origin, s) for s in {*keep_steps, step} if s <= step]
    if (folder / CHECKPOINT_FILE).exists() or not all(path.exists() for path in kept):
        return None
    try:
        for path in kept:
            Checkpoint.load(path)
        steps = {loss: reached_step(origin, loss) for loss in losses}
    except ValueError:
        return None  # damaged
    reached = [reached_file(origin, loss) for loss, at in steps.items() if at is not None and at <= step]
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*reached, *(kept_checkpoint(origin, s) for s in keep_steps if s <= step)]:
        with replacing(folder / path.name) as partial:
            shutil.copyfile(path, partial)
    return Branch(kept_checkpoint(origin, step))
