"""What the options of a verb say of an objective, in the arguments of `Objective` itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thalweg.cli.options import resolve_loss
from thalweg.data.registry import dataset_names, load_data


def objective_options(
    data: str,
    *,
    loss: str,
    batch_size: int | None,
    micro_batch: str,
    weight_decay: float,
    calibration_data: str | None,
    data_root: Path | None,
    recalibrates: bool,
) -> dict[str, Any]:
    """All arguments but the model and the mode; the data are loaded.

    Where statistics are recalibrated, those of a named test split are by default the training split's.
    """
    if micro_batch != "auto" and not micro_batch.isdecimal():
        raise ValueError(f"`micro_batch` must be auto or a whole number of at least 1, got {micro_batch!r}.")
    dataset, _, split = data.partition(":")
    if calibration_data is None and recalibrates and dataset in dataset_names():
        # Statistics are those of training: test data do not calibrate themselves.
        calibration_data = f"{dataset}:train" if split.startswith("test") else None
    return {
        "data": load_data(data, data_root),
        "loss": resolve_loss(loss),
        "batch_size": batch_size,
        "micro_batch": "auto" if micro_batch == "auto" else int(micro_batch),
        "weight_decay": weight_decay,
        "calibration_data": None if calibration_data is None else load_data(calibration_data, data_root),
    }
