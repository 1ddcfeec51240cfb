"""The store: nothing lost, nothing doubled, and a clear word about trouble."""

from __future__ import annotations

import gzip
import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from thalweg.core.measurement import ErrorBudget
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues
from thalweg.study.store import SCHEMA, Record, Store, run_id


def eigenvalues(value: float = 2.0, dim: int = 5000, seed: str = "t") -> TopEigenvalues:
    """A result whose eigenvector is too large for the JSON text."""
    return TopEigenvalues(
        value=value,
        error=ErrorBudget(solver=0.5),
        provenance={"function": "top_eigenvalues", "seed": seed, "objective": {"batch_norm": "batch"}},
        eigenvalues=torch.tensor([value], dtype=torch.float64),
        eigenvectors=torch.arange(dim, dtype=torch.float32)[:, None],
        residuals=torch.tensor([0.5], dtype=torch.float64),
        num_matvecs=3,
        num_subset_matvecs=4,
        lower_bound=value,
        upper_bound=float("inf"),
        confidence=0.99,
    )


def record(store: Store, task: str = "t", value: float = 2.0) -> Record:
    return Record(
        run="r",
        task=task,
        content=eigenvalues(value, seed=task).to_dict(store.arrays),
        labels={"model": "A1"},
        seconds=1.5,
        host="h",
        versions={"torch": "2"},
        num_threads=3,
        arrays=store.arrays,
    )


def test_what_is_appended_is_read_back_with_its_arrays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing():
        store.append(record(store))
    (read,) = Store(tmp_path).records()
    assert (read.run, read.task, read.measure, read.batch_norm) == ("r", "t", "top_eigenvalues", "batch")
    assert (dict(read.labels), read.seconds, read.host) == ({"model": "A1"}, 1.5, "h")
    assert (dict(read.versions), read.num_threads) == ({"torch": "2"}, 3)
    found = read.measurement
    assert isinstance(found, TopEigenvalues)
    assert found.eigenvectors is not None
    assert torch.equal(found.eigenvectors[:, 0], torch.arange(5000, dtype=torch.float32))
    assert found.value == 2.0
    assert found.error.solver == 0.5


def test_no_two_records_share_run_measure_and_provenance(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing():
        store.append(record(store, "one"))
        with pytest.raises(ValueError, match=r"top_eigenvalues of run r with this very provenance; remove"):
            store.append(record(store, "one", value=3.0))
        store.append(record(store, "two"))
    again = Store(tmp_path)
    with again.writing(), pytest.raises(ValueError, match="`record` must differ from every other"):
        again.append(record(again, "two"))
    assert [r.task for r in again.records()] == ["one", "two"]


def test_the_name_of_a_new_file_reaches_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("thalweg.study.store.sync_folder", synced.append)
    store = Store(tmp_path)
    with store.writing():
        store.append(record(store, "one"))
        store.append(record(store, "two"))
    assert synced == [tmp_path]


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.arrays.mkdir(parents=True)
    left = [tmp_path / ".page.html.123.partial", store.arrays / ".a.safetensors.4567.partial"]
    kept = [tmp_path / ".notes.partial", tmp_path / "x.12.partial", store.arrays / "a.safetensors"]
    for path in (*left, *kept):
        path.write_text("x")
    store.records()
    assert all(path.exists() for path in left), "reading changes nothing"
    with store.writing():
        assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_a_line_begins_with_the_promised_keys_and_is_strict_json(tmp_path: Path) -> None:
    store = Store(tmp_path)
    line = record(store).to_line()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(row)[:5] == ["run", "measure", "value", "error", "provenance"]
    assert row["schema"] == SCHEMA
    assert row["upper_bound"] == "inf", "JSON has no infinity: it is text"


def test_a_torn_last_line_is_ignored_then_cut_off(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing():
        store.append(record(store, "whole"))
    whole = store.file.read_bytes()
    store.file.write_bytes(whole + record(store, "torn").to_line().encode()[:-20])
    assert [r.task for r in store.records()] == ["whole"]
    assert len(store.file.read_bytes()) > len(whole), "reading changes nothing"
    with store.writing():
        store.append(record(store, "next"))
    assert [r.task for r in store.records()] == ["whole", "next"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense\n", "line 1 is not a record"),
        ("[1]\n", "line 1 is not a record"),
        ('{"schema": 99}\n', "schema 99"),
        ('{"schema": "one"}\n', "is not a record"),
    ],
)
def test_a_whole_line_that_is_no_record_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    store = Store(tmp_path)
    store.file.write_text(line)
    with pytest.raises(ValueError, match=message):
        store.records()


def test_records_that_were_packed_are_read_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing():
        store.append(record(store))
    plain = tmp_path / "records.jsonl"
    (tmp_path / "records.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert len(Store(tmp_path).records()) == 1  # unpacked, and the packed one kept
    plain.unlink()
    packed = Store(tmp_path)
    assert [r.task for r in packed.records()] == ["t"]
    with packed.writing():
        with pytest.raises(ValueError, match="must differ from every other"):
            packed.append(record(packed))
        packed.append(record(packed, value=3.0, task="u"))
    assert [r.task for r in Store(tmp_path).records()] == ["t", "u"], "nothing is lost by going on"


def test_a_missing_store_is_empty_and_reading_makes_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").records() == []
    assert not (tmp_path / "none").exists()


def _hold(
    path: Path, ready: multiprocessing.synchronize.Event, leave: multiprocessing.synchronize.Event
) -> None:
    with Store(path).writing():
        ready.set()
        leave.wait(30)


def test_a_second_writer_is_told_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, leave))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(ValueError, match="another one is at work"), Store(tmp_path).writing():
            pytest.fail("two writers at once")
    finally:
        leave.set()
        other.join()
    with Store(tmp_path).writing():
        pass  # free again


def test_run_ids_tell_configurations_apart_and_ignore_order() -> None:
    assert run_id({"a": 1, "b": 2}) == run_id({"b": 2, "a": 1})
    assert run_id({"a": 1}) != run_id({"a": 2})
