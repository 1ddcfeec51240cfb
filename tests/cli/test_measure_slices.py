"""``thalweg measure`` of slices: directions and trajectories from files, a store, pages to turn."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tests.cli.test_measure import MODULE, measure, own, thalweg
from tests.killed import files, killed, needs_kill

import thalweg as tw
from thalweg.core.array_store import ArrayStore

SMALL = ("--set", "num_points=3", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A module, the weights of a run's end, and those along it: step 10 after step 9, not after step 1."""
    path = tmp_path_factory.mktemp("user")
    (path / "own.py").write_text(MODULE)
    namespace: dict[str, object] = {}
    exec(MODULE, namespace)
    torch.manual_seed(5)
    model = namespace["build"]()  # type: ignore[operator]
    torch.save(model.state_dict(), path / "w.pt")
    for step in (0, 1, 9, 10):
        moved = {
            k: v + (10 - step) * 0.01 * torch.randn_like(v) if v.is_floating_point() else v
            for k, v in model.state_dict().items()
        }
        save_file(moved, path / f"step-{step}.safetensors")
    yield path
    sys.modules.pop("own", None)


def objective(folder: Path, name: str = "w.pt") -> tw.Objective:
    model, data = own(folder)
    if name != "w.pt":
        from thalweg.training.checkpoint import load_weights

        load_weights(folder / name, model)
    return tw.Objective(model.eval(), data)


def row(done: SimpleNamespace) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_is_projected_in_the_order_of_its_steps(folder: Path) -> None:
    found = row(measure(
        folder, "plane_slice", "--checkpoint", "w.pt", "--directions", "trajectory", "--trajectory",
        "step-*.safetensors", "--trajectory", "w.pt", "--set", "span=trajectory", *SMALL, "--json",
    ))  # fmt: skip
    o = objective(folder)
    path = [objective(folder, f"step-{k}.safetensors").params for k in (0, 1, 9, 10)] + [o.params]
    expected = tw.plane_slice(
        o, num_points=3, directions=[path, path], trajectory=path, span="trajectory", seed=0
    )
    coordinates = found["trajectory"]["coordinates"]["tensor"]
    assert torch.tensor(coordinates, dtype=torch.float64).allclose(expected.trajectory.coordinates)
    assert found["provenance"]["trajectory"] == expected.provenance["trajectory"]
    assert found["losses"]["tensor"] == expected.losses.tolist()


def test_directions_are_named_or_lead_to_files(folder: Path) -> None:
    found = row(measure(
        folder, "plane_slice", "--checkpoint", "w.pt", "--directions", "step-0.safetensors,top",
        *SMALL, "--json",
    ))  # fmt: skip
    assert found["direction_names"] == ["to network 1", "top eigenvector 0"]
    other = objective(folder, "step-0.safetensors").value()
    assert found["losses"]["tensor"][2][1] == pytest.approx(other, rel=1e-6)
    one = row(measure(folder, "line_slice", "--directions", "gradient", *SMALL, "--json"))
    assert one["direction_names"] == ["gradient"]
    lines = row(measure(folder, "line_slice", "--directions", "top,bottom", *SMALL, "--json"))
    assert lines["direction_names"] == ["top eigenvector 0", "bottom eigenvector 0"]


def test_the_text_says_how_it_agrees_and_what_it_sees_of_the_run(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    done = measure(
        folder, "plane_slice", "--checkpoint", "w.pt", "--trajectory", "step-*.safetensors", *SMALL,
        "--plot", str(tmp_path / "plane.html"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert "curvature at the centre: Hessian " in first
    assert ": agrees" in first
    assert "trajectory: " in first
    assert "of its variance in the plane" in first
    assert any(line.startswith("agreement: QuadraticAgreement(") for line in rest)
    assert any(line.startswith("trajectory: Projection(explained variance ") for line in rest)
    assert (tmp_path / "plane.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_what_is_done_is_kept_where_it_is_said(folder: Path, tmp_path: Path) -> None:
    arguments = ("plane_slice", "--checkpoint", "w.pt", "--store", str(tmp_path / "kept"), *SMALL, "--json")
    first = measure(folder, *arguments)
    kept = list((tmp_path / "kept").iterdir())
    assert kept
    assert measure(folder, *arguments).stdout == first.stdout
    (path,) = kept
    path.write_bytes(b"")
    again = measure(folder, *arguments)
    assert again.returncode == 2
    assert "remove it, and it is computed anew" in again.stderr
    expected = tw.plane_slice(objective(folder), num_points=3, seed=0, store=ArrayStore(tmp_path / "other"))
    assert row(first)["losses"]["tensor"] == expected.losses.tolist()


@needs_kill
def test_a_killed_command_goes_on_to_the_same_text(folder: Path, tmp_path: Path) -> None:
    command = [
        *("measure", "plane_slice", "--model", "own:build", "--data", "own:data", "--checkpoint", "w.pt"),
        *("--set", "num_points=61,31", "--device", "cpu", "--store"),
    ]

    def here(store: Path) -> str:
        done = thalweg(folder, *command, str(store))
        assert done.returncode == 0, done.stderr
        return done.stdout

    whole, part = tmp_path / "whole", tmp_path / "part"
    expected = here(whole)
    killed(["-m", "thalweg", *command, str(part)], lambda: len(files(part)) >= 3, cwd=folder)
    before = files(part)
    assert len(before) < len(files(whole))
    assert here(part) == expected
    after = files(part)
    assert {path: after[path] for path in before} == before, "not done again"
    assert {path.name for path in after} == {path.name for path in files(whole)}


BAD = {
    "unknown direction": (("plane_slice", "--directions", "sideways"), "among random, gradient, top, bottom"),
    "no file": (("plane_slice", "--directions", "nowhere.pt,top"), "or files, got 'nowhere.pt'"),
    "no trajectory": (("plane_slice", "--directions", "trajectory"), "needs one: give `trajectory`"),
    "no files": (("plane_slice", "--trajectory", "epoch-*.pt"), "there is none like 'epoch-*.pt'"),
    "no trajectory for lines": (("line_slice", "--trajectory", "w.pt"), "nothing that line_slice takes"),
    "no store": (("hessian_trace", "--store", "kept"), "`store` is nothing that hessian_trace takes"),
    "three": (("plane_slice", "--directions", "top,top,top"), "`directions` must be 2"),
    "page of a line": (
        ("line_slice", "--plot", "line.html"),
        "`plot` must end in one of .png, .svg, .pdf",
    ),
    "span": (("plane_slice", "--set", "span=trajectory"), "needs one: give `trajectory`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(folder: Path, case: str) -> None:
    arguments, message = BAD[case]
    done = measure(folder, *arguments, "--device", "cpu")
    assert done.returncode == 2, done.stderr
    assert " ".join(message.split()) in " ".join(done.stderr.split())
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_the_help_names_what_slices_take(folder: Path) -> None:
    text = " ".join(thalweg(folder, "measure", "--help").stdout.split())
    for word in ("--directions", "--trajectory", "--store", "tolerance=None", "agreement=True"):
        assert word in text
