"""Data that would change under a measurement, refused: loaders that shuffle, items augmented at random."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from thalweg.core.rng import preserved_global_rng
from thalweg.objective.losses import Batch

# Items that are read again, spread over the data, and the readings of all of them together. A coin-flip
# augmentation escapes 32 readings of 16 items once in 65,000 times, one that acts on a tenth of the items
# once in 25.
ITEMS_READ_AGAIN = 16
READINGS = 32


def refuse_shuffling(loader: DataLoader) -> None:
    if isinstance(loader.dataset, IterableDataset):
        return
    batches = loader.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        kind = f"draws batches through {type(batches).__name__}"
    else:
        sampler = loader.sampler if batches is None else batches.sampler
        if isinstance(sampler, SequentialSampler):
            return
        kind = "shuffles" if isinstance(sampler, RandomSampler) else f"draws through {type(sampler).__name__}"
    raise ValueError(
        f"`data` must keep one order, but this loader {kind}: the objective would change under the "
        "measurement. Pass the dataset itself, `data=loader.dataset`, or a `torch.utils.data.Subset` of it "
        "with the indices you mean."
    )


def refuse_random_items(read: Callable[[int], Batch], num_items: int) -> None:
    """Raise if an item comes out differently under another state of the global generators.

    Parameters
    ----------
    read
        Reads one item by its number.
    """
    chosen = sorted({round(i) for i in np.linspace(0, num_items - 1, min(num_items, ITEMS_READ_AGAIN))})
    firsts: dict[int, list[torch.Tensor]] = {}
    with preserved_global_rng():
        for seed in range(max(2, READINGS // len(chosen))):
            for i in chosen:
                # An own seed each: items that draw the same number differ in nothing but luck.
                torch.manual_seed(seed * num_items + i)
                np.random.seed((seed * num_items + i) % 2**32)  # noqa: NPY002 - what transforms draw from
                random.seed(seed * num_items + i)
                batch = read(i)
                tensors = list(batch.values() if isinstance(batch, dict) else batch)
                first = firsts.setdefault(i, tensors)
                if len(first) != len(tensors) or any(
                    not torch.equal(a.nan_to_num(), b.nan_to_num())
                    for a, b in zip(first, tensors, strict=True)
                ):
                    raise ValueError(
                        f"`data` must be the same each time it is read, but item {i} came out differently "
                        "twice: it is augmented at random. Pass the dataset without the random transform."
                    )
