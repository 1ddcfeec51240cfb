"""What a training run went through, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.measurement import Measurement


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class TrainingHistory(Measurement):
    """Loss and accuracy at initialisation and after epochs, on all the data, running statistics.

    `value` is the final test accuracy in [0, 1]; without test data the final training accuracy. Losses leave
    the L2 term out. Entries are NaN where there is nothing to measure: no test data, or a loss without
    classes.

    Parameters
    ----------
    epochs
        (E,) int64: 0 for the initialisation, then each epoch, or each ``evaluate_every``-th, and the last.
    train_loss, test_loss
        (E,) float64, mean loss over the examples.
    train_accuracy, test_accuracy
        (E,) float64, fraction of examples whose class is right.
    learning_rate
        (E,) float64, the rate that the epoch was trained with; at 0 the initial one.
    """

    epochs: Tensor
    train_loss: Tensor
    train_accuracy: Tensor
    test_loss: Tensor
    test_accuracy: Tensor
    learning_rate: Tensor

    measure: ClassVar[str] = "train"

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> TrainingHistory:
        """History of one dictionary an epoch, keyed by the fields' names in the singular; None is NaN."""

        def column(name: str) -> Tensor:
            entries = [math.nan if row[name] is None else row[name] for row in rows]
            return torch.tensor(entries, dtype=torch.float64)

        last = rows[-1]
        value = last["test_accuracy"] if last["test_loss"] is not None else last["train_accuracy"]
        return cls(
            value=math.nan if value is None else value,
            provenance=provenance,
            epochs=torch.tensor([row["epoch"] for row in rows]),
            train_loss=column("train_loss"),
            train_accuracy=column("train_accuracy"),
            test_loss=column("test_loss"),
            test_accuracy=column("test_accuracy"),
            learning_rate=column("learning_rate"),
        )
