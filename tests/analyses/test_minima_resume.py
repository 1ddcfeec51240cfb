"""`mode_connectivity`, `compare` and `contrast` that are killed and go on: the same bits, part by part."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tests.analyses.test_mode_connectivity import QUICK, two
from tests.killed import files, killed, needs_kill

import thalweg as tw
from thalweg.core.array_store import ArrayStore
from thalweg.core.errors import DataError
from thalweg.objective import resuming


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """And a visit to the store after each point and step."""
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stopping_at(share: float):
    """A progress that ends the call once so much of it is done."""

    def stop(done: int, total: int) -> None:
        if done > share * total:
            raise KeyboardInterrupt("stop")

    return stop


def test_an_interrupted_chain_goes_on_to_the_same_bits(tmp_path) -> None:
    call = partial(tw.mode_connectivity, *two(), **QUICK)
    expected = call()
    assert expected.curve is not None
    assert expected.plane is not None
    assert expected.topology is not None
    store, seen = ArrayStore(tmp_path), 0
    for share in (0.02, 0.1, 0.3, 0.45, 0.6, 0.8, 0.97):
        with pytest.raises(KeyboardInterrupt, match="stop"):
            call(store=store, progress=stopping_at(share))
        assert len(files(tmp_path)) >= seen
        seen = len(files(tmp_path))
    before = files(tmp_path)
    found = call(store=store)
    assert found == expected
    assert (found.lines, found.curve, found.plane) == (expected.lines, expected.curve, expected.plane)
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before, "kept, and not written again"
    assert call(store=store) == expected
    assert files(tmp_path) == after


def test_a_damaged_store_is_an_error_and_no_missing_part(tmp_path) -> None:
    tw.mode_connectivity(*two(), **QUICK, store=ArrayStore(tmp_path))
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="remove it, and it is computed anew"):
        tw.mode_connectivity(*two(), **QUICK, store=ArrayStore(tmp_path))
    asked: dict[str, Any] = {
        "measures": ["average_sharpness"],
        "seed": 0,
        "store": ArrayStore(tmp_path / "own"),
    }
    tw.compare(*two(), **asked)
    for path in files(tmp_path / "own"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="remove it, and it is computed anew"):
        tw.compare(*two(), **asked)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9])
def test_an_interrupted_comparison_goes_on_to_the_same_bits(share, tmp_path) -> None:
    measures = ["sam_sharpness", "average_sharpness", "top_eigenvalue", "line_slice"]
    call = partial(tw.compare, *two(), measures=measures, seed=0)
    expected, store = call(), ArrayStore(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        call(store=store, progress=stopping_at(share))
    before = files(tmp_path)
    assert call(store=store) == expected
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    assert len(before) < len(after)
    assert call(store=store) == expected
    assert files(tmp_path) == after
    changed = tw.compare(*two(seeds=(0, 2)), measures=measures, seed=0, store=store)
    assert changed == tw.compare(*two(seeds=(0, 2)), measures=measures, seed=0) != expected


SCRIPT = """
import time, torch
import thalweg as tw
from tests.analyses.test_mode_connectivity import QUICK, two
from thalweg.objective import resuming
torch.set_num_threads(1)
resuming.SECONDS = 0.0
store = tw.ArrayStore({folder!r})
tw.mode_connectivity(*two(), **QUICK, store=store, progress=lambda done, total: time.sleep(0.01))
"""


@needs_kill
def test_a_process_killed_twice_goes_on_to_the_same_bits(tmp_path) -> None:
    """kill -9 among the lines, and again on the plane."""
    for num_files in (9, 30):
        killed(["-c", SCRIPT.format(folder=str(tmp_path))], lambda n=num_files: len(files(tmp_path)) >= n)
    before = files(tmp_path)
    call = partial(tw.mode_connectivity, *two(), **QUICK)
    assert call(store=ArrayStore(tmp_path)) == call()
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)
