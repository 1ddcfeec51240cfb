"""Runs: which models go with which weights, loaded when they are measured and not before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.networks import Residual, images, mlp, residual, vectors
from torch import nn

import thalweg as tw

DATA = vectors(21)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for recipe in "ab":
        for seed in range(3):
            torch.save(mlp(seed + 10 * (recipe == "b")).state_dict(), tmp_path / f"{recipe}-{seed}.pt")
    return tmp_path


def test_each_run_is_its_checkpoint(folder):
    runs = tw.Runs.from_checkpoints(folder / "{recipe}-{seed}.pt", build=mlp, data=DATA)
    assert len(runs) == 6
    assert runs.fields == ("recipe", "seed")
    assert repr(runs) == "Runs(6; recipe: a, b; seed: 0, 1, 2)"
    (run,) = runs.where(recipe="b", seed=2)
    assert run.objective().value() == tw.Objective(mlp(12), DATA).value()
    assert run.label == "recipe=b, seed=2"
    assert runs.table()[0] == {"recipe": "a", "seed": 0, "path": str(folder / "a-0.pt")}
    assert [r.fields["seed"] for r in runs.where(seed=[0, 2])] == [0, 2, 0, 2]
    assert [r.fields for r in runs[1:3]] == [{"recipe": "a", "seed": s} for s in (1, 2)]


def test_the_mode_is_chosen_when_it_is_measured(tmp_path):
    torch.save(residual(1).state_dict(), tmp_path / "w1.pt")
    data = images(21)
    runs = tw.Runs.from_checkpoints(
        tmp_path / "w{seed}.pt", lambda: Residual().double(), data, batch_size=8, weight_decay=0.1
    )
    for mode in ("running", "recalibrated", "batch"):
        expected = tw.Objective(residual(1), data, batch_norm=mode, batch_size=8, weight_decay=0.1)
        assert runs[0].objective(mode).describe() | {"model_code": 0} == expected.describe() | {
            "model_code": 0
        }


def test_builders_get_the_fields_they_ask_for(folder):
    def dictionary(fields):
        seen.append(fields)
        return mlp()

    def by_name(recipe, *, seed, width=5):
        seen.append((recipe, seed))
        return mlp(width=width)

    seen: list = []
    for build in (dictionary, by_name):
        tw.Runs.from_checkpoints(folder / "{recipe}-{seed}.pt", build, DATA)[4].network()
    assert seen == [{"recipe": "b", "seed": 1}, ("b", 1)]


def test_what_a_builder_returns_is_never_changed(folder, unchanged):
    own = mlp(99).train()
    runs = tw.Runs.from_checkpoints(folder / "{recipe}-{seed}.pt", build=lambda: own, data=DATA)
    with unchanged(own, DATA):
        values = {run.objective().value() for run in runs}
    assert len(values) == 6


def test_builders_that_draw_move_no_generator_and_draw_the_same(folder, unchanged):
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()
            self.register_buffer("shift", torch.rand(5, dtype=torch.float64), persistent=False)

        def forward(self, x):
            return self.inner(x + self.shift)

    torch.save({f"inner.{k}": v for k, v in mlp(3).state_dict().items()}, folder / "n1.pt")
    (run,) = tw.Runs.from_checkpoints(folder / "n{i}.pt", build=Noise, data=DATA)
    with unchanged():
        values = {run.objective().value() for _ in range(2)}
    assert len(values) == 1


def test_nothing_is_loaded_before_it_is_measured(folder):
    (folder / "a-1.pt").write_bytes(b"broken")
    torch.save(mlp(width=6).state_dict(), folder / "b-0.pt")
    runs = tw.Runs.from_checkpoints(folder / "{recipe}-{seed}.pt", build=mlp, data=DATA)
    with pytest.raises(ValueError, match=r"`checkpoint` .*a-1\.pt cannot be read as a torch file"):
        runs[1].network()
    with pytest.raises(
        ValueError, match=r"b-0\.pt does not fit Sequential: it has 0\.weight of shape \(6, 6\)"
    ):
        runs[3].network()


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (
            lambda: {}["width"],
            ValueError,
            r"`build` .*lambda.* for recipe=a, seed=0 raised KeyError: 'width'",
        ),
        (
            lambda: 3,
            TypeError,
            r"`build` must build a torch.nn.Module, but .*recipe=a, seed=0.* returned int",
        ),
        (
            lambda width, depth: 3,
            ValueError,
            r"fields by their names \(recipe, seed\), .* needs width, depth",
        ),
    ],
)
def test_builders_that_fail_are_named(folder, build, error, words):
    runs = tw.Runs.from_checkpoints(folder / "{recipe}-{seed}.pt", build=build, data=DATA)
    with pytest.raises(error, match=words):
        runs[0].network()


def test_fields_and_values_that_are_not_there(folder):
    runs = tw.Runs.from_checkpoints(folder / "{recipe}-{seed}.pt", build=mlp, data=DATA)
    with pytest.raises(ValueError, match="`where` must be one of the fields recipe, seed, got 'epoch'"):
        runs.where(epoch=3)
    with pytest.raises(ValueError, match="`where` finds no run with seed=7; there are 0, 1, 2"):
        runs.where(seed=[1, 7])
    with pytest.raises(ValueError, match="`field` must be one of the fields recipe, seed, got 'epoch'"):
        runs.values("epoch")


def test_what_runs_are_made_of(folder):
    run = tw.Run({"seed": 1}, mlp, {"data": DATA})
    with pytest.raises(ValueError, match="at least one run"):
        tw.Runs([])
    with pytest.raises(ValueError, match="must differ in their fields, but two are seed=1"):
        tw.Runs([run, run])
    with pytest.raises(ValueError, match="must have the same fields, got seed and recipe"):
        tw.Runs([run, tw.Run({"recipe": "a"}, mlp, {"data": DATA})])
