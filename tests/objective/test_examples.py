"""Data in every form, read once, in its own order, without moving anything of the user's."""

import math

import numpy as np
import pytest
import torch
from tests.networks import cnn, images, mlp, vectors
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from thalweg.objective.examples import READ_CHUNK, Examples, read_examples
from thalweg.objective.objective import Objective


class Pairs(Dataset):
    """Items made one by one, a class a Python number."""

    def __init__(self, n=21):
        self.x, self.y = vectors(n)
        self.reads = []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.reads.append(i)
        return self.x[i], int(self.y[i])


class Named(Pairs):
    def __getitem__(self, i):
        return {"input": self.x[i], "labels": self.y[i]}


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*vectors(21), strict=True)


def tensors_of(data):
    batch = read_examples(data)[0].batch
    return list(batch.values()) if isinstance(batch, dict) else list(batch)


x, y = vectors(21)
FORMS = {
    "tensors": lambda: (x, y),
    "list": lambda: [x, y],
    "arrays": lambda: (x.numpy(), y.numpy()),
    "mixed": lambda: (x, y.tolist()),
    "tensor dataset": lambda: TensorDataset(x, y),
    "dataset": Pairs,
    "subset": lambda: Subset(Pairs(), range(21)),
    "list of pairs": lambda: [(x[i], y[i]) for i in range(21)],
    "loader": lambda: DataLoader(Pairs(), batch_size=4),
    "tensor loader": lambda: DataLoader(TensorDataset(x, y), batch_size=8),
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "loader of batches": lambda: DataLoader(
        [(x[i : i + 8], y[i : i + 8]) for i in range(0, 21, 8)], batch_size=None
    ),
    "batch sampler": lambda: DataLoader(
        Pairs(), batch_sampler=BatchSampler(SequentialSampler(Pairs()), 4, False)
    ),
    "collated by hand": lambda: DataLoader(
        Pairs(),
        batch_size=4,
        collate_fn=lambda items: [torch.stack([i[0] for i in items]), torch.tensor([i[1] for i in items])],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_the_same_in_the_same_order(form, unchanged):
    data = FORMS[form]()
    with unchanged(x, y):
        found_x, found_y = tensors_of(data)
    assert torch.equal(found_x, x)
    assert torch.equal(found_y, y)
    assert found_y.dtype == torch.int64
    value = Objective(mlp(), data, micro_batch=5).value()
    assert value == Objective(mlp(), (x, y), micro_batch=5).value()


@pytest.mark.parametrize(
    "data",
    [{"input": x, "labels": y}, {"input": x.numpy(), "labels": y.tolist()}, Named(), DataLoader(Named(), 4)],
)
def test_dictionaries_keep_their_keys_and_order(data):
    batch = read_examples(data)[0].batch
    assert isinstance(batch, dict)
    assert list(batch) == ["input", "labels"]
    assert torch.equal(batch["input"], x)
    assert torch.equal(batch["labels"], y)


@pytest.mark.parametrize("n", [1, READ_CHUNK, READ_CHUNK + 1])
def test_datasets_are_read_in_chunks_without_loss(n):
    values = torch.arange(n)
    assert torch.equal(tensors_of(TensorDataset(values))[0], values)


def test_a_subset_has_the_indices_it_says():
    indices = [5, 3, 20, 3]
    assert torch.equal(tensors_of(Subset(TensorDataset(x, y), indices))[0], x[indices])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_moves_no_generator(workers, unchanged):
    own = torch.Generator().manual_seed(5)
    before = own.get_state().clone()
    loader = DataLoader(TensorDataset(x, y), batch_size=4, num_workers=workers, generator=own)
    with unchanged(x, y):
        found = tensors_of(loader)
    assert torch.equal(found[0], x)
    assert torch.equal(own.get_state(), before), "the loader's own generator is the user's too"


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (DataLoader(TensorDataset(x, y), batch_size=6), 6),
        (DataLoader(TensorDataset(x, y), batch_sampler=BatchSampler(SequentialSampler(y), 6, False)), 6),
        (DataLoader(TensorDataset(x, y)), 1),
        (DataLoader([(x, y)], batch_size=None), 128),
        (TensorDataset(x, y), 128),
        ((x, y), 128),
    ],
)
def test_the_batch_size_is_the_loaders_unless_given(loader, expected):
    assert Objective(mlp(), loader).batch_size == expected
    assert Objective(mlp(), loader, batch_size=9).batch_size == 9


def test_the_partition_of_a_loader_is_what_batch_mode_measures():
    data = images(21)
    loader = DataLoader(TensorDataset(*data), batch_size=8)
    by_size = Objective(cnn(), data, batch_norm="batch", batch_size=8).value()
    assert Objective(cnn(), loader, batch_norm="batch").value() == by_size


def test_drop_last_measures_what_the_loader_yields():
    loader = DataLoader(TensorDataset(x, y), batch_size=8, drop_last=True)
    objective = Objective(mlp(), loader)
    assert objective.num_examples == 16
    assert objective.value() == Objective(mlp(), (x[:16], y[:16])).value()


@pytest.mark.parametrize(
    "data",
    [
        (),
        [],
        {},
        (x[:0], y[:0]),
        TensorDataset(x[:0], y[:0]),
        DataLoader(TensorDataset(x[:0], y[:0]), batch_size=4),
        DataLoader(TensorDataset(x, y), batch_size=30, drop_last=True),
    ],
)
def test_no_data_is_refused(data):
    with pytest.raises(ValueError, match="`data` must hold at least one example"):
        Objective(mlp(), data)


@pytest.mark.parametrize("data", [(x, y[:-1]), {"input": x[:-1], "labels": y}, (x, torch.tensor(3))])
def test_unequal_lengths_are_refused(data):
    with pytest.raises(ValueError, match=r"tensors of one length, got shapes \(2[01], 5\), "):
        Objective(mlp(), data)


@pytest.mark.parametrize("data", [3, None, "fashion-mnist:train", iter([1, 2]), Stream()])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(TypeError, match="`data`"):
        Objective(mlp(), data)


@pytest.mark.parametrize("data", [{"text": ["a"] * 21, "labels": y}, (x, ["a"] * 21)])
def test_text_is_refused(data):
    with pytest.raises(TypeError, match="`data` must hold tensors, arrays or numbers only"):
        Objective(mlp(), data)


def test_batches_that_do_not_fit_together_are_refused():
    ragged = [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 2), torch.zeros(4))]
    with pytest.raises(ValueError, match=r"items of one structure and shape.* Pad them to one size"):
        read_examples(DataLoader(ragged, batch_size=None))


class Ragged(Pairs):
    def __getitem__(self, i):
        return self.x[i, : 4 if i == 9 else 5], self.y[i]


class Missing(Pairs):
    def __getitem__(self, i):
        if i == 10:  # which no check for randomness reads
            raise KeyError("file10")
        return super().__getitem__(i)


def test_items_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"items of one structure and shape.* Pad them to one size"):
        read_examples(Ragged())


def test_what_an_item_raises_names_it():
    with pytest.raises(ValueError, match="`data` raised KeyError: 'file10' at item 10 of 21"):
        read_examples(Missing())
    with pytest.raises(ValueError, match="`data` raised KeyError: 'file10' at batch 2 of its loader"):
        read_examples(DataLoader(Missing(), batch_size=4))


def test_arrays_are_not_changed_and_read_only_ones_are_taken():
    array = x.numpy().copy()
    before = array.tobytes()
    Objective(mlp(), (array, y.numpy())).gradient()
    assert array.tobytes() == before


# -- the class itself --------------------------------------------------------------------------------


def test_slices_are_views_and_take_keeps_the_order():
    examples = Examples((x, y))
    assert examples.num_examples == 21
    assert examples.slice(3, 7)[0].data_ptr() == x[3:].data_ptr()
    taken = examples.take(torch.tensor([7, 2, 2]))
    assert torch.equal(taken.batch[0], x[[7, 2, 2]])
    assert torch.equal(taken.batch[1], y[[7, 2, 2]])


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_changes_strides_and_no_number(channels):
    pictures = torch.randn(5, channels, 4, 6)
    examples = Examples((pictures, torch.arange(5)))
    last = examples.in_channels_last()
    assert torch.equal(last.batch[0], pictures)
    assert last.batch[0].stride(1) == 1
    assert last.batch[0].is_contiguous(memory_format=torch.channels_last)
    assert last.hash == examples.hash, "the contents are the same"
    assert last.batch[1] is examples.batch[1]


def test_the_hash_follows_the_contents():
    hashes = [
        Examples(b).hash
        for b in [(x, y), (x + 1, y), (x.float(), y), (x.flip(0), y), (y, x), (x,), (x.clone(), y.clone())]
    ]
    assert hashes[0] == hashes[-1]
    assert len(set(hashes[:-1])) == 6
    nan = x.clone()
    nan[0] = math.nan
    assert Examples((nan,)).hash == Examples((nan.clone(),)).hash


def test_strided_and_numpy_data_give_the_same_numbers():
    wide = torch.randn(21, 10, dtype=torch.float64)
    strided = Objective(mlp(), (wide[:, ::2], y)).value()
    assert strided == Objective(mlp(), (wide[:, ::2].contiguous(), y)).value()
    assert strided == Objective(mlp(), (np.ascontiguousarray(wide[:, ::2].numpy()), y)).value()
