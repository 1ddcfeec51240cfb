"""The store of parts of long work: whole or absent, and never taken for what it is not."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from thalweg.core.array_store import ArrayStore, key_of
from thalweg.core.errors import DataError

ARRAYS = {"a": torch.arange(3.0), "b": torch.tensor([[1, 2]]), "c": torch.tensor([float("nan")])}


@pytest.fixture
def store(tmp_path) -> ArrayStore:
    return ArrayStore(tmp_path / "new" / "folder")


def test_what_was_put_comes_back_to_the_bit(store) -> None:
    assert store.get("k") is None
    store.put("k", ARRAYS)
    found = ArrayStore(store.folder).get("k")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert torch.equal(found[name].nan_to_num(7), array.nan_to_num(7))
    assert store.get("other") is None
    assert [p.name for p in store.folder.iterdir()] == ["k.safetensors"]


def test_a_truncated_file_is_named(store) -> None:
    store.put("k", ARRAYS)
    path = store.folder / "k.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"k\.safetensors cannot be read .*; remove it, and it is"):
        store.get("k")


def test_a_changed_byte_is_seen(store) -> None:
    store.put("k", ARRAYS)
    path = store.folder / "k.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"k\.safetensors is not what was stored under that name"):
        store.get("k")


def test_a_foreign_file_and_one_of_another_key_are_refused(store) -> None:
    store.put("k", ARRAYS)
    save_file({"a": torch.zeros(1)}, store.folder / "foreign.safetensors")
    (store.folder / "text.safetensors").write_text("no tensors at all")
    shutil.copy(store.folder / "k.safetensors", store.folder / "renamed.safetensors")
    for key in ("foreign", "renamed", "text"):
        with pytest.raises(DataError, match=key):
            store.get(key)


def test_a_file_is_no_folder(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`folder` must be a folder or not exist yet"):
        ArrayStore(tmp_path / "file")


def test_keys_tell_values_apart_and_not_their_order() -> None:
    assert key_of(a=1, b=[2.0, "x"]) == key_of(b=[2.0, "x"], a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(b=1), key_of(a="1")}) == 4
