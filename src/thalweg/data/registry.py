"""Data sets by name: ``"fashion-mnist:train"``, ``"fashion-mnist:train:4096"`` or ``"module:callable"``.

What comes back is what `Objective` takes as `data`, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.core.imports import import_callable, naming
from thalweg.core.registry import Registry
from thalweg.data import fashion_mnist

SPLITS = ("train", "test")

# (split, root) -> a tuple of tensors of one length; root is the folder the user named, or None.
Loader = Callable[[str, "str | Path | None"], tuple[Tensor, ...]]


def _load_fashion_mnist(split: str, root: str | Path | None) -> tuple[Tensor, ...]:
    return fashion_mnist.load(split, root)  # type: ignore[arg-type]


_DATASETS: Registry[Loader] = Registry({"fashion-mnist": _load_fashion_mnist})


def register_dataset(name: str, loader: Loader) -> None:
    """Make a data set known by `name`.

    Parameters
    ----------
    name
        Without a colon, and not yet taken.
    loader
        ``loader(split, root)`` returns a tuple of tensors of one length, inputs first, for the split
        ``"train"`` or ``"test"``; `root` is the folder that the user named, or None.

    Raises
    ------
    ValueError
        If the name is empty, taken, or has a colon in it.
    """
    _DATASETS.add(name, loader)


def dataset_names() -> tuple[str, ...]:
    """Names of the registered data sets."""
    return _DATASETS.names


def load_data(spec: str, root: str | Path | None = None) -> Any:
    """Load one data set.

    Parameters
    ----------
    spec
        ``"NAME:SPLIT"`` with a registered name and the split ``train`` or ``test``; ``"NAME:SPLIT:n"`` for
        the first n examples in the data set's own order; or ``"module:callable"``, which is imported and
        called without arguments.
    root
        Folder of a registered data set's files.

    Returns
    -------
    data
        Whatever `Objective` takes: for a registered set a tuple of tensors, for a callable what it returned.

    Raises
    ------
    ValueError
        If the text has another form, names nothing, names what raises something, or asks for more examples
        than there are.
    DataError
        If the files of a registered data set are missing or broken.
    """
    name, _, rest = spec.partition(":")
    if name not in _DATASETS:
        return _call(spec)
    split, _, count = rest.partition(":")
    if split not in SPLITS:
        raise ValueError(
            f"`data` must name a split of {name}, such as {name}:train or {name}:test:1000, got {spec!r}."
        )
    size = None if not count and rest == split else _count(count, spec)
    return _first(_DATASETS[name](split, root), size, spec)


def load_train_test(spec: str, root: str | Path | None = None) -> tuple[Any, Any]:
    """Load the data to train and to test on.

    Parameters
    ----------
    spec
        ``"NAME"`` for both splits of a registered data set; ``"NAME:n"`` to train on its first n examples and
        test on the whole test set; or ``"module:callable"``, called without arguments, which returns
        the pair ``(train, test)`` or training data alone. A pair of tensors or arrays is training data
        (inputs and targets); a pair of anything else is train and test.
    root
        As in `load_data`.

    Returns
    -------
    train, test
        Each what `Objective` takes as `data`; `test` is None if there is none.

    Raises
    ------
    ValueError, DataError
        As `load_data` does.
    """
    name, _, count = spec.partition(":")
    if name in _DATASETS:
        size = None if spec == name else _count(count, spec)
        train = _first(_DATASETS[name]("train", root), size, spec)
        return train, _DATASETS[name]("test", root)
    data = _call(spec)
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    if is_pair and not any(isinstance(part, Tensor | np.ndarray) for part in data):
        return data[0], data[1]
    return data, None


def _count(text: str, spec: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"`data` must end in a number of examples of at least 1, got {text!r} in {spec!r}.")
    return int(text)


def _first(data: tuple[Tensor, ...], size: int | None, spec: str) -> tuple[Tensor, ...]:
    if size is None:
        return data
    if size > len(data[0]):
        raise ValueError(f"`data` asks for more than the {len(data[0]):,} examples there are: {spec!r}.")
    return tuple(tensor[:size] for tensor in data)


def _call(spec: str) -> Any:
    function = import_callable(spec, "data", [f"{name} with a split" for name in _DATASETS.names])
    with naming("data", spec):
        return function()
