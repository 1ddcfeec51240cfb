"""Objectives as the options of a verb describe them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thalweg.cli.objective_options import objective_options
from thalweg.cli.options import DTYPES, resolve_device
from thalweg.cli.ranks import RANKS
from thalweg.core.arguments import check_one_of
from thalweg.models.registry import build_model
from thalweg.objective.objective import Objective
from thalweg.training.checkpoint import load_weights


def build_objectives(
    model: str,
    checkpoints: Sequence[Path | None],
    data: str,
    *,
    loss: str,
    batch_norm: str,
    batch_size: int | None,
    micro_batch: str,
    weight_decay: float,
    calibration_data: str | None,
    seed: int,
    dtype: str,
    device: str,
    data_root: Path | None,
) -> list[Objective]:
    """One objective for each checkpoint, or for the model as it is built where that is None.

    Shared by the ranks, if `torchrun` started several.
    """
    check_one_of("dtype", dtype, DTYPES)
    options = objective_options(
        data,
        loss=loss,
        batch_size=batch_size,
        micro_batch=micro_batch,
        weight_decay=weight_decay,
        calibration_data=calibration_data,
        data_root=data_root,
        recalibrates=batch_norm == "recalibrated",
    )
    place = resolve_device(device)
    RANKS.check_device(device, place)
    objectives = []
    for checkpoint in checkpoints:
        network = build_model(model, seed)
        if checkpoint:
            load_weights(checkpoint, network)
        network.to(place, DTYPES[dtype]).eval()
        objective = Objective(network, batch_norm=batch_norm, **options)  # type: ignore[arg-type]
        objectives.append(RANKS.share(objective))
    return objectives
