"""Where long work puts its parts as they are done, so that a killed run goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thalweg.core.atomic import replacing
from thalweg.core.errors import DataError
from thalweg.core.measurement import hash_tensors

# Of the files; a later layout of them gets another number.
SCHEMA = "thalweg arrays 1"


class Store(Protocol):
    """What a measure asks of a store. The key is a hash of all that decides the arrays."""

    def get(self, key: str) -> Mapping[str, Tensor] | None:
        """The arrays put under the key, or ``None``."""
        ...

    def put(self, key: str, arrays: Mapping[str, Tensor]) -> None:
        """Keep the arrays, instead of any under that key; once this returns, no kill undoes it."""
        ...


def key_of(**determinants: Any) -> str:
    """A key: the first 32 hex digits of the hash of JSON-safe values that decide the arrays."""
    text = json.dumps(determinants, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_store(store: Any) -> None:
    """Raise unless it is a store, or none."""
    if store is not None and not (hasattr(store, "get") and hasattr(store, "put")):
        raise TypeError(
            f"`store` must keep arrays by key, got {type(store).__name__}; of a folder make "
            "tw.ArrayStore(folder)."
        )


def recalled(
    store: Store | None, key: str, compute: Callable[[], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """What is stored under the key; else what `compute` gives, which is stored first."""
    arrays = None if store is None else store.get(key)
    if arrays is None:
        arrays = compute()
        if store is not None:
            store.put(key, arrays)
    return arrays


def array_of(text: str) -> Tensor:
    """A text as a store can hold it."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def text_of(array: Tensor) -> str:
    """Inverse of `array_of`."""
    return bytes(array.tolist()).decode()


class ArrayStore:
    """A `Store` in a folder: one safetensors file a key, each whole or absent.

    The folder may be shared by any number of surfaces, curves and others, and by processes at work at the
    same time: the same key means the same arrays, or more of the same training. Nothing in it is ever
    removed; when the results are safe, remove the folder.

    Parameters
    ----------
    folder
        Made with the first file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"`folder` must be a folder or not exist yet, got the file {self.folder}.")

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The arrays put under the key, or ``None``.

        Raises
        ------
        DataError
            If the file of that name is truncated, changed, or was not written here under this key.
        """
        path = self._path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} cannot be read ({error}); remove it, and it is computed anew.") from None
        if metadata != _metadata(key, arrays):
            raise DataError(
                f"{path} is not what was stored under that name: it was changed, or comes from elsewhere; "
                "remove it, and it is computed anew."
            )
        return arrays

    def put(self, key: str, arrays: Mapping[str, Tensor]) -> None:
        """Keep the arrays under the key, instead of any there; they are on disk once this returns."""
        kept = {name: array.detach().cpu().contiguous() for name, array in arrays.items()}
        with replacing(self._path(key)) as partial:
            save_file(kept, partial, metadata=_metadata(key, kept))

    def __repr__(self) -> str:
        return f"ArrayStore({str(self.folder)!r})"

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _metadata(key: str, arrays: Mapping[str, Tensor]) -> dict[str, str]:
    names = sorted(arrays)
    contents = json.dumps([names, hash_tensors(*(arrays[name] for name in names))])
    return {"schema": SCHEMA, "key": key, "contents": contents}
