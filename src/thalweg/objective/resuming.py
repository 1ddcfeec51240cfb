"""What long measures with a store ask of an objective: how much to do between two visits, and whose bits.

A kill costs what was done since the last visit: a minute at most on a slow machine, by a rule on the
configuration, for the clock decides nothing here. A visit takes some ten milliseconds, most of them for the
disk, so that on a fast machine, where the same work is seconds, the visits are still next to nothing.
"""

from __future__ import annotations

from typing import Any

import torch

from thalweg.core.array_store import check_store
from thalweg.core.measurement import hash_tensors
from thalweg.objective.compilation import first_micro_batch, forward_flops
from thalweg.objective.isolation import isolated
from thalweg.objective.objective import Objective
from thalweg.objective.ranks import refuse_ranks
from thalweg.objective.value_and_gradient import GRADIENT_PASSES

# The most that may be lost, and operations a second of a slow machine of its kind: what one old core makes of
# small layers; an old accelerator.
SECONDS = 60.0
RATE, RATE_OF_ACCELERATOR = 1e10, 1e12


def check_store_for(store: Any, *subjects: Any) -> None:
    """Raise unless it is a store, or none, and no objective among the subjects is shared by processes."""
    check_store(store)
    for subject in subjects:
        if store is not None and isinstance(subject, Objective):
            refuse_ranks(subject, "store", "keeps what one process evaluates")


def points_at_risk(objective: Objective) -> int:
    """Points of the objective's data that are evaluated between two visits to a store, one at least."""
    return _most(objective, _flops(objective) * (1 + _recalibrations(objective)))


def steps_at_risk(objective: Objective, batch_size: int) -> int:
    """Steps of training on batches of the objective's data between two visits, one at least."""
    share = min(1.0, batch_size / objective.num_examples)
    return _most(objective, GRADIENT_PASSES * share * _flops(objective))


def arithmetic(objective: Objective) -> str:
    """A hash of the first examples' losses to the last bit, which differ where a machine rounds differently.

    So they do with another number of threads, or another build of torch: stored numbers are not mixed.
    """
    with isolated(objective.device), torch.no_grad():
        return hash_tensors(first_micro_batch(objective).losses())


def _most(objective: Objective, flops: float) -> int:
    rate = RATE if objective.device.type == "cpu" else RATE_OF_ACCELERATOR
    return max(1, int(SECONDS * rate / max(1.0, flops)))


def _flops(objective: Objective) -> float:
    """Of a pass over the data: those counted, and at least a product and a sum for each parameter.

    Of some layers, recurrent ones for one, the operations are not counted.
    """
    return max(forward_flops(objective), 2.0 * objective.space.dim * objective.num_examples)


def _recalibrations(objective: Objective) -> float:
    """Passes over the data that statistics take at each point: one to the depth of every batch norm."""
    if not objective._recalibrates:
        return 0.0
    num_norms = len(objective._network.norm_layers)
    return (num_norms + 1) / 2 * objective._calibration.num_examples / objective.num_examples
