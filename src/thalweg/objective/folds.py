"""Disjoint folds of an objective's examples, as equal as they can be."""

from __future__ import annotations

import torch

from thalweg.core.arguments import check_count
from thalweg.core.rng import generator
from thalweg.objective.objective import Objective
from thalweg.objective.sampling import examples_of


def random_folds(objective: Objective, num_folds: int, seed: int) -> list[Objective]:
    """Cut the examples at random into folds, each an objective at the same point.

    In ``"batch"`` mode whole batches are dealt out and the partition stays as it is, so that the mean over
    the folds, weighted by their sizes, is the objective itself; elsewhere single examples are. Recalibrated
    statistics stay those of the whole calibration data.

    Raises
    ------
    ValueError
        If there are fewer than two folds, or not an example (in ``"batch"`` mode, a batch) for each.
    """
    check_count("num_folds", num_folds)
    in_batches = objective.batch_norm == "batch" and objective.has_batch_norm
    size = objective.batch_size if in_batches else 1
    num_units = -(-objective.num_examples // size)
    if not 2 <= num_folds <= num_units:
        raise ValueError(
            f"`num_folds` must lie between 2 and the {num_units} {'batches' if in_batches else 'examples'} "
            f"there are, got {num_folds}; folds are disjoint and one shows no spread."
        )
    _ = objective.effective_buffers  # computed once here, shared by the folds
    order = torch.randperm(num_units, generator=generator(seed, "folds"))
    return [
        objective.select(examples_of(units, size, objective.num_examples))
        for units in order.tensor_split(num_folds)
    ]
