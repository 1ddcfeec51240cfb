"""Objectives as the options of a verb describe them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thalweg.cli.options import DTYPES, resolve_device, resolve_loss
from thalweg.data.registry import dataset_names, load_data
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
    """One objective for each checkpoint, or for the model as it is built where that is None."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    size = "auto" if micro_batch == "auto" else _whole_number("micro_batch", micro_batch)
    dataset, _, split = data.partition(":")
    if calibration_data is None and batch_norm == "recalibrated" and dataset in dataset_names():
        # Statistics are those of training: test data do not calibrate themselves.
        calibration_data = f"{dataset}:train" if split.startswith("test") else None
    examples = load_data(data, data_root)
    calibration = None if calibration_data is None else load_data(calibration_data, data_root)
    place = resolve_device(device)
    objectives = []
    for checkpoint in checkpoints:
        network = build_model(model, seed)
        if checkpoint:
            load_weights(checkpoint, network)
        objectives.append(
            Objective(
                network.to(place, DTYPES[dtype]).eval(),
                examples,
                loss=resolve_loss(loss),
                batch_norm=batch_norm,  # type: ignore[arg-type]
                batch_size=batch_size,
                micro_batch=size,
                weight_decay=weight_decay,
                calibration_data=calibration,
            )
        )
    return objectives


def _whole_number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"`{name}` must be auto or a whole number of at least 1, got {text!r}.")
    return int(text)
