"""``thalweg compare --paths`` as a user calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.cli.test_compare import MODULE, compare
from tests.cli.test_measure import thalweg
from tests.killed import files, killed, needs_kill

import thalweg as tw

CHEAP = ("--set", "mode_connectivity.num_points=5", "--set", "mode_connectivity.num_steps=5",
         "--set", "mode_connectivity.plane_points=7")  # fmt: skip
FILES = ("seed0.pt", "seed1.pt", "--model", "nets:build")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("minima")
    (path / "nets.py").write_text(MODULE)
    namespace: dict = {}
    exec(MODULE, namespace)
    for seed in range(3):
        torch.manual_seed(seed)
        torch.save(namespace["build"]().state_dict(), path / f"seed{seed}.pt")
    yield path
    sys.modules.pop("nets", None)


def test_two_files_and_what_lies_between_them(folder: Path) -> None:
    asked = ("--measures", "sam_sharpness", "--paths", "yes", "--start", "seed2.pt", "--batch-size", "10")
    done = compare(folder, *FILES, *asked, *CHEAP, "--json", "--out", "page")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["measure"] == "compare"
    between = tw.Measurement.from_dict(record["mode_connectivity"])
    assert isinstance(between, tw.ModeConnectivity)
    assert between.names == ("seed0", "seed1")
    assert between.modes == ("running", "recalibrated", "batch")
    assert between.start_angle > 0
    assert record["mode_connectivity"]["remarks"] == between.remarks
    assert [row["quantity"] for row in record["mode_connectivity"]["rows"]][:3] == [
        "distance",
        "angle at the origin (°)",
        "angle at the start (°)",
    ]
    cost, *lines, page = done.stderr.splitlines()
    assert lines == []
    assert cost.startswith("What lies between the two takes some ")
    assert "--paths no leaves it out" in cost
    assert page == "page: page/index.html"
    text = (folder / "page" / "index.html").read_text()
    assert "What lies between them" in text
    assert json.loads((folder / "page" / "result.json").read_text()) == record


def test_only_what_lies_between_them(folder: Path) -> None:
    done = compare(folder, *FILES, "--paths", "only", "--modes", "batch", *CHEAP, "--out", "alone")
    assert done.returncode == 0, done.stderr
    assert "Lowest barrier found: " in done.stdout
    assert "sharper" not in done.stdout
    assert "Between seed0 and seed1" in (folder / "alone" / "index.html").read_text()
    assert json.loads((folder / "alone" / "result.json").read_text())["measure"] == "mode_connectivity"
    # One batch of all the examples has no spread: a reason, and not the end.
    assert "not there: population batch: `population=True` needs at least two" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "is_measured"),
    [
        ((), True),
        (("--paths", "no"), False),
        (("--measures", "sam_sharpness"), False),
        (("--model-b", "nets:build"), False),
    ],
)
def test_by_default_it_goes_with_the_whole_family_of_one_model(
    folder: Path, arguments: tuple[str, ...], is_measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is asked is when, not what comes out.
    measured: list[object] = []

    def instead(*_: object, **__: object) -> None:
        measured.append(True)
        raise tw.NonFiniteLossError("not now")

    monkeypatch.setattr("thalweg.cli.compare.mode_connectivity", instead)
    monkeypatch.setattr("thalweg.cli.compare.compare_networks", lambda *_, **__: object())
    monkeypatch.setattr("thalweg.cli.compare.print_order", lambda _: None)
    monkeypatch.setattr("thalweg.cli.compare._json", lambda *_: {})
    done = compare(folder, *FILES, *arguments)
    assert done.returncode == 0, done.stderr
    assert bool(measured) == is_measured
    assert ("What lies between the two was not measured: not now" in done.stderr) == is_measured


BAD = {
    "no such time": (("--paths", "perhaps"), "`paths` must be one of yes, no, only, got 'perhaps'"),
    "no such argument": (
        ("--set", "mode_connectivity.width=2"),
        "`set` gives mode_connectivity 'width'; it takes method",
    ),
    "no such value": (
        ("--set", "mode_connectivity.num_steps=many"),
        "`num_steps` in --set must be a whole number, got 'many'",
    ),
    "a setting of nothing": (
        ("--measures", "trace", "--set", "mode_connectivity.num_steps=0"),
        "`set` asks for what lies between two files",
    ),
    "a start of nothing": (("--measures", "trace", "--start", "seed2.pt"), "`start` asks for what lies"),
    "another file": (("--paths", "only", "--start", "none.pt"), "none.pt is not a file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(folder: Path, case: str) -> None:
    arguments, words = BAD[case]
    done = compare(folder, *FILES, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def test_groups_have_nothing_between_them(folder: Path) -> None:
    done = compare(folder, "seed{seed}.pt", "--by", "seed", "--model", "nets:build", "--paths", "yes")
    assert done.returncode == 2
    assert "`paths` is for two files" in done.stderr


def test_it_is_a_measure_of_two_checkpoints_in_one_mode_as_well(folder: Path) -> None:
    done = thalweg(
        folder, "measure", "mode_connectivity", "--model", "nets:build", "--data", "nets:data",
        "--checkpoint", "seed0.pt", "--checkpoint", "seed1.pt", "--batch-norm", "recalibrated",
        "--set", "num_points=5", "--set", "num_steps=5", "--set", "plane_points=0", "--plot", "it.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "barrier, straight line" in done.stdout
    assert "not there: plane, topology: not asked for (plane_points=0)" in done.stdout
    assert (folder / "it.png").exists()


@needs_kill
def test_a_killed_command_goes_on_from_its_store(folder: Path) -> None:
    """kill -9 among what lies between the two, then again among the measures: the same answer."""
    asked = (*FILES, "--measures", "sam_sharpness,average_sharpness", "--paths", "yes", *CHEAP, "--json")
    asked = (*asked, "--batch-size", "10")
    expected = compare(folder, *asked)
    assert expected.returncode == 0, expected.stderr
    kept = folder / "kept"
    for num_files in (4, 13):
        command = ["-m", "thalweg", "compare", *asked, "--data", "nets:data", "--device", "cpu"]
        killed([*command, "--store", "kept"], lambda n=num_files: len(files(kept)) >= n, cwd=folder)
    before = files(kept)
    done = compare(folder, *asked, "--store", "kept")
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected.stdout
    after = files(kept)
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)
    next(iter(after)).write_bytes(b"no tensors")
    damaged = compare(folder, *asked, "--store", "kept")
    assert damaged.returncode == 2
    assert "remove it, and it is computed anew" in damaged.stderr
