"""Loaders that shuffle and datasets that augment at random are refused, each with the remedy."""

import random

import numpy as np
import pytest
import torch
from tests.networks import mlp, vectors
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from thalweg.objective.objective import Objective

x, y = vectors(21)
ITEMS = TensorDataset(x, y)


class Backwards(Sampler):
    def __iter__(self):
        return iter(range(20, -1, -1))

    def __len__(self):
        return 21


class Buckets(Sampler):
    """A batch sampler that shuffles and has no attribute to tell."""

    def __iter__(self):
        order = torch.randperm(21).tolist()
        return iter([order[i : i + 4] for i in range(0, 21, 4)])

    def __len__(self):
        return 6


class ShufflingBatches(BatchSampler):
    """A subclass that says it is sequential and is not."""

    def __iter__(self):
        batches = list(super().__iter__())
        random.shuffle(batches)
        return iter(batches)


@pytest.mark.parametrize(
    ("loader", "how"),
    [
        (DataLoader(ITEMS, batch_size=4, shuffle=True), "shuffles"),
        (DataLoader(ITEMS, batch_size=4, sampler=RandomSampler(ITEMS)), "shuffles"),
        (DataLoader(ITEMS, sampler=SubsetRandomSampler(range(9))), "draws through SubsetRandomSampler"),
        (DataLoader(ITEMS, sampler=WeightedRandomSampler([1.0] * 21, 21)), "draws through WeightedRandom"),
        (DataLoader(ITEMS, sampler=Backwards()), "draws through Backwards"),
        (DataLoader(ITEMS, sampler=[3, 1, 2]), "draws through list"),
        (DataLoader(ITEMS, batch_size=None, shuffle=True), "shuffles"),
        (DataLoader(ITEMS, batch_sampler=Buckets()), "draws batches through Buckets"),
        (DataLoader(ITEMS, batch_sampler=BatchSampler(RandomSampler(ITEMS), 4, False)), "shuffles"),
        (
            DataLoader(ITEMS, batch_sampler=ShufflingBatches(SequentialSampler(ITEMS), 4, False)),
            "draws batches through ShufflingBatches",
        ),
    ],
)
def test_loaders_without_one_order_are_refused(loader, how, unchanged):
    with unchanged(x, y), pytest.raises(ValueError, match=rf"this loader {how}.*`data=loader.dataset`, or a"):
        Objective(mlp(), loader)


class Augmented(Dataset):
    """Each item passes through a transform."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 21

    def __getitem__(self, i):
        return self.transform(x[i]), y[i]


AUGMENTATIONS = {
    "torch noise": lambda v: v + 0.1 * torch.randn(5),
    "numpy noise": lambda v: v + torch.as_tensor(np.random.randn(5)),  # noqa: NPY002 - as old transforms do
    "python flip": lambda v: v.flip(0) if random.random() < 0.5 else v,
    "rare": lambda v: torch.zeros(5).double() if torch.rand(()) < 0.25 else v,
}


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: DataLoader(d, batch_size=4)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_random_augmentation_is_refused(name, wrap, unchanged):
    with (
        unchanged(x, y),
        pytest.raises(ValueError, match=r"item \d+ came out differently .* random transform"),
    ):
        Objective(mlp(), wrap(Augmented(AUGMENTATIONS[name])))


class OnlySomeItems(Augmented):
    """Augments the classes other than that of the first item."""

    def __getitem__(self, i):
        return (x[i] if y[i] == y[0] else self.transform(x[i])), y[i]


def test_augmentation_that_spares_the_first_item_is_refused():
    with pytest.raises(ValueError, match="augmented at random"):
        Objective(mlp(), OnlySomeItems(AUGMENTATIONS["torch noise"]))


def test_a_random_collation_is_refused():
    def mixed(items):
        a, b = torch.stack([i[0] for i in items]), torch.stack([i[1] for i in items])
        return a * (1 + torch.rand(())), b

    with pytest.raises(ValueError, match="augmented at random"):
        Objective(mlp(), DataLoader(ITEMS, batch_size=4, collate_fn=mixed))


class Texts(Dataset):
    """Items that only the loader's own collation can read."""

    def __len__(self):
        return 21

    def __getitem__(self, i):
        return {"text": "ab" * (i + 1), "label": int(y[i])}


def test_the_loaders_own_collation_is_used():
    def collate(items):
        lengths = torch.tensor([float(len(i["text"])) for i in items]).double()
        return lengths[:, None] * torch.ones(5).double(), torch.tensor([i["label"] for i in items])

    objective = Objective(mlp(), DataLoader(Texts(), batch_size=4, collate_fn=collate))
    lengths = 2 * torch.arange(1.0, 22).double()
    assert objective.value() == Objective(mlp(), (lengths[:, None] * torch.ones(5).double(), y)).value()


@pytest.mark.parametrize("n", [1, 2, 21])
def test_fixed_transforms_and_nan_are_fine(n):
    values = x[:n].clone()
    values[0, 0] = float("nan")
    Objective(mlp(), TensorDataset(values, y[:n]), loss=lambda outputs, targets: targets.double())


def test_calibration_data_are_checked_too():
    with pytest.raises(ValueError, match="this loader shuffles"):
        Objective(mlp(), (x, y), calibration_data=DataLoader(ITEMS, batch_size=4, shuffle=True))
