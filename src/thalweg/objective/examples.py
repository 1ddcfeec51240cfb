"""The examples an objective averages over: whatever the user has, as tensors in memory in one fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from thalweg.core.imports import in_words
from thalweg.core.measurement import hash_tensors
from thalweg.core.rng import preserved_global_rng
from thalweg.objective.checksum import checksum
from thalweg.objective.data_guards import refuse_random_items, refuse_shuffling
from thalweg.objective.losses import Batch

# Data of up to so many bytes go to an accelerator once, larger ones batch by batch in every pass.
RESIDENT_BYTES = 2 << 30

# A dataset is read this many items at a time.
READ_CHUNK = 1024


class Examples:
    """N examples as tensors with a common first dimension; immutable by convention.

    Parameters
    ----------
    batch
        A tuple or a dictionary of tensors, each ``(N, ...)``.
    weights
        ``(N,)`` float64: what each example's loss is multiplied by. ``None`` is one for all.
    origin
        A number for how they were taken from those that were read, nought for all of these.
    """

    def __init__(self, batch: Batch, weights: Tensor | None = None, origin: int = 0) -> None:
        tensors = list(batch.values()) if isinstance(batch, dict) else list(batch)
        lengths = {len(t) if t.ndim else 0 for t in tensors}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(
                "`data` must hold at least one example and tensors of one length, got shapes "
                f"{', '.join(str(tuple(t.shape)) for t in tensors) or 'none'}."
            )
        self.batch, self.weights, self.origin = batch, weights, origin
        self.num_examples = lengths.pop()
        self._hash: str | None = None

    def slice(self, start: int, stop: int) -> Batch:
        """Examples `start` to `stop`, as views."""
        return self._map(lambda t: t[start:stop])

    def take(self, index: Tensor, weights: Tensor | None = None) -> Examples:
        """The chosen examples, in the order of `index` (n,), with `weights` (n,) on top of their own."""
        own = None if self.weights is None else self.weights[index.to(self.weights.device)]
        both = own if weights is None else weights if own is None else own * weights
        origin = checksum(torch.tensor(self.origin), index, *([] if weights is None else [weights]))
        return Examples(self._map(lambda t: t[index.to(t.device)]), both, origin)

    def in_channels_last(self) -> Examples:
        """The same numbers with 4-D floating tensors stored channels last: convolutions run faster on them.

        For one channel the two layouts hold the same bytes and only the strides differ, yet torch picks
        its kernels by the strides, so they are set outright and nothing is copied.
        """

        def restride(t: Tensor) -> Tensor:
            if t.ndim != 4 or not t.is_floating_point():
                return t
            _, c, h, w = t.shape
            if c == 1 and t.is_contiguous():
                return t.as_strided(t.shape, (h * w, 1, w, 1))
            return t.to(memory_format=torch.channels_last)

        return self._same(self._map(restride))

    def beside(self, device: torch.device) -> Examples:
        """The same numbers in the memory of an accelerator, up to `RESIDENT_BYTES`.

        On an H100, copies from the host took a third of an evaluation of the paper's network, and of its
        Hessian's product with one column.
        """
        num_bytes = sum(t.numel() * t.element_size() for t in self._tensors)
        if device.type == "cpu" or num_bytes > RESIDENT_BYTES:
            return self
        return self._same(self._map(lambda t: t.to(device)))

    @property
    def _tensors(self) -> list[Tensor]:
        return list(self.batch.values() if isinstance(self.batch, dict) else self.batch)

    def _same(self, batch: Batch) -> Examples:
        other = Examples(batch, self.weights, self.origin)
        other._hash = self._hash
        return other

    @property
    def hash(self) -> str:
        """Hash of the contents, whatever the memory layout."""
        if self._hash is None:
            self._hash = hash_tensors(*self._tensors)
        return self._hash

    def _map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        if isinstance(self.batch, dict):
            return {k: fn(v) for k, v in self.batch.items()}
        return tuple(fn(v) for v in self.batch)


def read_examples(data: Any) -> tuple[Examples, int | None]:
    """Read the user's data once into memory, in its own order, without moving any global generator.

    Parameters
    ----------
    data
        A tensor, a tuple or dictionary of tensors (or arrays), a `Dataset`, or a `DataLoader` that
        neither shuffles nor augments.

    Returns
    -------
    examples, batch_size
        The batch size is the loader's, where there is one.
    """
    if isinstance(data, Examples):
        return data, None
    if isinstance(data, DataLoader):
        return _read_loader(data), data.batch_size or getattr(data.batch_sampler, "batch_size", None)
    if isinstance(data, Tensor | np.ndarray | Mapping) or (
        isinstance(data, tuple | list) and (not data or any(isinstance(t, Tensor | np.ndarray) for t in data))
    ):
        return Examples(_as_batch(data)), None
    if isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return _read_dataset(data), None
    raise TypeError(
        f"`data` must be tensors, a tuple or dictionary of tensors, a Dataset or a DataLoader, "
        f"got {type(data).__name__}."
    )


def _read_loader(loader: DataLoader) -> Examples:
    refuse_shuffling(loader)
    dataset, collate = loader.dataset, loader.collate_fn
    if not isinstance(dataset, IterableDataset) and len(dataset):  # type: ignore[arg-type]
        # Without batches of its own, a loader collates item by item.
        batched = loader.batch_sampler is not None
        refuse_random_items(
            lambda i: _as_batch(collate([_item(dataset, i)] if batched else _item(dataset, i))),
            len(dataset),  # type: ignore[arg-type]
        )
    state = None if loader.generator is None else loader.generator.get_state()
    try:
        with preserved_global_rng():
            return Examples(_concatenate([_as_batch(b) for b in _batches(loader)]))
    finally:
        # A loader draws its workers' seed even when it shuffles nothing.
        if loader.generator is not None and state is not None:
            loader.generator.set_state(state)


def _read_dataset(dataset: Any) -> Examples:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            "`data` as a Dataset needs __getitem__ and __len__, got "
            f"{type(dataset).__name__}; pass a DataLoader over it."
        )
    size = len(dataset)
    if size:
        refuse_random_items(lambda i: _collated([_item(dataset, i)]), size)
    with preserved_global_rng():
        chunks = [range(i, min(i + READ_CHUNK, size)) for i in range(0, size, READ_CHUNK)]
        return Examples(_concatenate([_collated([_item(dataset, i) for i in c]) for c in chunks]))


def _item(dataset: Any, i: int) -> Any:
    try:
        return dataset[i]
    except Exception as error:
        raise ValueError(f"`data` raised {in_words(error)} at item {i} of {len(dataset)}.") from error


def _batches(loader: DataLoader) -> Iterator[Any]:
    batches, number = iter(loader), 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            raise ValueError(f"`data` raised {in_words(error)} at batch {number} of its loader.") from error
        yield batch
        number += 1


def _collated(items: list[Any]) -> Batch:
    try:
        together = default_collate(items)
    except (KeyError, ValueError, RuntimeError) as error:
        raise _ragged(error) from error
    return _as_batch(together)


def _ragged(error: Exception) -> ValueError:
    return ValueError(
        f"`data` must have items of one structure and shape, but for the length of batches: "
        f"{str(error).removesuffix('.')}. Pad them to one size."
    )


def _as_batch(data: Any) -> Batch:
    try:
        if isinstance(data, Mapping):
            return {str(k): torch.as_tensor(v) for k, v in data.items()}
        if isinstance(data, Tensor | np.ndarray):
            return (torch.as_tensor(data),)
        return tuple(torch.as_tensor(t) for t in data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`data` must hold tensors, arrays or numbers only: {error}.") from error


def _concatenate(batches: list[Batch]) -> Batch:
    if not batches:
        raise ValueError("`data` must hold at least one example, got an empty loader or dataset.")
    try:
        first = batches[0]
        if isinstance(first, dict):
            return {k: torch.cat([b[k] for b in batches]) for k in first}  # type: ignore[call-overload]
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    except (KeyError, ValueError, RuntimeError) as error:
        raise _ragged(error) from error
