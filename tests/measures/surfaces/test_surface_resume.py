"""Surfaces that are killed and go on: the same bits, nothing computed twice, nothing taken for another."""

from __future__ import annotations

import pytest
import torch
from tests.killed import files, killed, needs_kill

from thalweg.core.array_store import ArrayStore
from thalweg.core.errors import DataError
from thalweg.measures.surfaces.line import line_slice
from thalweg.measures.surfaces.plane import plane_slice
from thalweg.objective.evaluation import PointEvaluator
from thalweg.objective.objective import Objective
from thalweg.solvers import row_table

CHUNKED = """
import torch
from tests.networks import images, residual
import thalweg as tw
from thalweg.solvers import row_table
row_table.CHUNK_POINTS = 4
torch.set_num_threads(1)
objective = tw.Objective(residual(0), images(1500), batch_norm="recalibrated", micro_batch=256)
"""
ARGUMENTS = {"num_points": (17, 9), "span": 0.5, "atol": 0.05, "tolerance": 0.05, "seed": 0}


def evaluated_points(monkeypatch) -> list[int]:
    """Grows by the number of points of each call from here on."""
    counts: list[int] = []
    original = PointEvaluator.__call__

    def counting(self, points, *args, **kwargs):
        given = list(points)
        counts.append(len(given))
        return original(self, given, *args, **kwargs)

    monkeypatch.setattr(PointEvaluator, "__call__", counting)
    return counts


@pytest.fixture
def objective(toys) -> Objective:
    return Objective(toys.convnet(), toys.images(40))


@pytest.mark.parametrize("measure", [plane_slice, line_slice])
def test_an_interrupted_surface_goes_on_to_the_same_bits(objective, measure, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(row_table, "CHUNK_POINTS", 4)
    arguments = {"num_points": 9, "population": True, "agreement": False, "seed": 0}
    expected = measure(objective, **arguments)
    store, total = ArrayStore(tmp_path / "surface"), 9 * 9 if measure is plane_slice else 9

    def stop(done: int, _total: int) -> None:
        if done > max(total // 2, 5):  # in the second chunk or later
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        measure(objective, **arguments, store=store, progress=stop)
    kept = len(list(store.folder.iterdir()))
    assert kept
    counts = evaluated_points(monkeypatch)
    assert measure(objective, **arguments, store=store) == expected
    assert sum(counts) == 1 + (total - 1) - 4 * kept, "the centre, and what was missing"
    counts.clear()
    assert measure(objective, **arguments, store=store) == expected
    assert counts == [1], "only the centre"


def test_any_mapping_with_get_and_put_is_a_store(objective) -> None:
    class Memory(dict):
        put = dict.__setitem__

    memory = Memory()
    first = plane_slice(objective, num_points=3, seed=0, store=memory)
    assert memory
    assert plane_slice(objective, num_points=3, seed=0, store=memory) == first


@pytest.mark.parametrize("change", ["point", "data", "mode", "seed", "span", "weight_decay", "subset"])
def test_what_decides_the_numbers_decides_the_key(toys, change, tmp_path, monkeypatch) -> None:
    store, arguments = ArrayStore(tmp_path), {"num_points": 3, "agreement": False, "seed": 0}
    options = {"batch_norm": "running", "weight_decay": 0.0}
    net, data = toys.convnet(), toys.images(40)
    plane_slice(Objective(net, data, **options), **arguments, store=store)
    if change == "data":
        data = toys.images(40, seed=2)
    elif change in ("seed", "span"):
        arguments |= {change: 2}
    elif change in ("mode", "weight_decay"):
        options |= {"batch_norm": "recalibrated"} if change == "mode" else {"weight_decay": 0.1}
    o = Objective(toys.convnet(1) if change == "point" else net, data, **options)
    o = o.subset(20) if change == "subset" else o
    counts = evaluated_points(monkeypatch)
    found = plane_slice(o, **arguments, store=store)
    assert sum(counts) == 9, "nothing was reused"
    assert found == plane_slice(o, **arguments)


def test_a_truncated_file_of_the_store_is_named(objective, tmp_path) -> None:
    store = ArrayStore(tmp_path)
    plane_slice(objective, num_points=3, seed=0, store=store)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=path.name):
        plane_slice(objective, num_points=3, seed=0, store=store)


@needs_kill
def test_a_killed_process_goes_on_to_the_same_bits(tmp_path) -> None:
    """kill -9 in the middle of a surface that samples, refines and recalibrates."""
    script = CHUNKED + (
        "def slow(done, total):\n"
        "    import time; time.sleep(0.02)\n"
        f"tw.plane_slice(objective, **{ARGUMENTS!r}, store=tw.ArrayStore({str(tmp_path)!r}), progress=slow)\n"
    )
    killed(["-c", script], lambda: len(files(tmp_path)) >= 3)
    scope: dict = {}
    threads, chunk = torch.get_num_threads(), row_table.CHUNK_POINTS
    try:
        exec(CHUNKED, scope)
        store = ArrayStore(tmp_path)
        before = files(tmp_path)
        resumed = plane_slice(scope["objective"], **ARGUMENTS, store=store)
        after = files(tmp_path)
        assert {p: after[p] for p in before} == before, "kept, and not written again"
        assert len(after) > len(before)
        assert resumed == plane_slice(scope["objective"], **ARGUMENTS)
        assert 0 < resumed.num_examples < 1500
        assert resumed.num_points_saved > 0
    finally:
        torch.set_num_threads(threads)
        row_table.CHUNK_POINTS = chunk
