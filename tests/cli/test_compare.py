"""``thalweg compare`` as a user calls it."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tests.cli.test_measure import thalweg
from torch import nn

import thalweg as tw
from thalweg.cli.console import UNBOUNDED, output
from thalweg.cli.order_text import print_order

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3))

def by_recipe(recipe):
    return build() if recipe == "bn" else plain()

def data():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(50, 12, generator=rng), torch.randint(0, 3, (50,), generator=rng)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("user")
    (path / "nets.py").write_text(MODULE)
    namespace: dict = {}
    exec(MODULE, namespace)
    for recipe in ("bn", "plain"):
        (path / "ckpt" / recipe).mkdir(parents=True)
        for seed in range(4):
            torch.manual_seed(seed + 10 * (recipe == "bn"))
            torch.save(namespace["by_recipe"](recipe).state_dict(), path / f"ckpt/{recipe}/seed{seed}.pt")
    yield path
    sys.modules.pop("nets", None)


def compare(folder: Path, *arguments: str) -> SimpleNamespace:
    return thalweg(folder, "compare", *arguments, "--data", "nets:data", "--device", "cpu")


PAIR = ("ckpt/bn/seed0.pt", "ckpt/plain/seed0.pt", "--model", "nets:build", "--model-b", "nets:plain")
GROUPS = ("ckpt/{recipe}/seed{seed}.pt", "--by", "recipe", "--model", "nets:by_recipe")


def user_run(folder: Path, recipe: str, seed: int) -> tw.Run:
    namespace: dict = {}
    exec(MODULE, namespace)
    model: nn.Module = namespace["by_recipe"](recipe)
    model.load_state_dict(torch.load(folder / f"ckpt/{recipe}/seed{seed}.pt", weights_only=True))
    return tw.Run({"recipe": recipe, "seed": seed}, lambda: model, {"data": namespace["data"]()})


def test_two_files(folder: Path) -> None:
    done = compare(folder, *PAIR, "--measures", "sam_sharpness,trace", "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    expected = tw.compare(
        user_run(folder, "bn", 0),
        user_run(folder, "plain", 0),
        measures=["sam_sharpness", "trace"],
        names=("bn/seed0.pt", "plain/seed0.pt"),
        seed=3,
    )
    assert row["values"]["tensor"] == expected.values.tolist()
    assert row["names"] == ["bn/seed0.pt", "plain/seed0.pt"]
    assert [r["ordering"]["mode"] for r in row["rows"]] == ["running", "recalibrated", "batch"] * 2
    assert [r["changes"] for r in row["rows"]] == [r.changes for r in expected.rows]
    assert row["remarks"] == expected.remarks
    back = tw.Measurement.from_dict(row)
    assert isinstance(back, tw.Comparison)
    assert back.rows == expected.rows


def test_the_table_is_legible_at_100_columns_and_the_page_is_written(folder: Path) -> None:
    done = compare(folder, *PAIR, "--measures", "sam_sharpness,trace", "--out", "page")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = [line for line in lines if not line.endswith(".")]
    assert "…" not in done.stdout
    row = json.loads((folder / "page" / "result.json").read_text())
    marks = [
        line.startswith("≠") for line in table if "running" in line or "recal" in line or "batch  " in line
    ]
    assert marks == [r["changes"] for r in row["rows"]]
    assert all(remark in lines for remark in row["remarks"])
    assert (folder / "page" / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert done.stderr == "page: page/index.html\n"


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_no_name_is_broken_however_narrow_the_terminal(folder: Path, columns: int) -> None:
    arguments = ("--measures", "filter_sam_sharpness", "--modes", "batch")
    done = compare(folder, *PAIR, *arguments, "--json")
    out = io.StringIO()
    console = Console(file=out, width=columns, highlight=False, emoji=False, markup=False)
    print_order(tw.Measurement.from_dict(json.loads(done.stdout)), console)  # type: ignore[arg-type]
    table = out.getvalue().split("of 1 rows")[0].splitlines()
    assert any("filter_sam_sharpness" in line for line in table)
    assert max(map(len, table[:-1])) <= columns


def test_a_pipe_is_as_wide_as_columns_says_or_as_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output().width == UNBOUNDED
    monkeypatch.setenv("COLUMNS", "72")
    assert output().width == 72


def test_arguments_of_single_measures(folder: Path) -> None:
    settings = ("--set", "sam_sharpness.radius=0.2", "--set", "sam_sharpness.num_steps=2")
    done = compare(folder, *PAIR, "--measures", "sam_sharpness", "--modes", "batch", *settings, "--json")
    assert done.returncode == 0, done.stderr
    runs = (user_run(folder, "bn", 0), user_run(folder, "plain", 0))
    chosen = {"sam_sharpness": {"radius": 0.2, "num_steps": 2}}
    expected = tw.compare(*runs, measures=chosen, modes="batch", seed=0)
    assert json.loads(done.stdout)["values"]["tensor"] == expected.values.tolist()


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        (
            "radius=0.2",
            "`set` must be measure.argument=value with a measure among sam_sharpness, mode_connectivity, got "
            "'radius=0.2'; sam_sharpness.radius may be meant.",
        ),
        ("trace.rtol=0.2", "with a measure among sam_sharpness, mode_connectivity, got 'trace.rtol=0.2'."),
        ("plane_points=7", "got 'plane_points=7'; mode_connectivity.plane_points may be meant."),
        ("connectivity.plane_points=7", "; mode_connectivity.plane_points may be meant."),
        ("seed=7", "; sam_sharpness.seed may be meant."),
        ("sam_sharpness.width=2", "gives sam_sharpness 'width'; it takes radius"),
        ("sam_sharpness.radius=wide", "`radius` in --set must be a number, got 'wide'"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_loaded(
    folder: Path, setting: str, complaint: str
) -> None:
    done = compare(folder, "none.pt", "neither.pt", "--model", "nets:build", "--measures", "sam_sharpness",
                   "--set", setting)  # fmt: skip
    assert done.returncode == 2
    assert complaint in done.stderr


def test_weights_of_another_model_point_to_its_option(folder: Path) -> None:
    done = compare(folder, *PAIR[:4], "--measures", "sam_sharpness")
    assert done.returncode == 2
    assert "ckpt/plain/seed0.pt" in done.stderr
    assert "--model-b" in done.stderr


def test_a_missing_file_does_not(folder: Path) -> None:
    """Not even where the path of the other one is the end of its own."""
    (folder / "seed0.pt").write_bytes((folder / "ckpt/bn/seed0.pt").read_bytes())
    for files in (
        ("none/seed0.pt", "seed0.pt"),
        ("seed0.pt", "none/seed0.pt"),
        ("none.pt", "ckpt/bn/seed0.pt"),
    ):
        done = compare(folder, *files, "--model", "nets:build", "--measures", "sam_sharpness")
        assert done.returncode == 2
        assert done.stderr.endswith(" is not a file.\n")
        assert "--model-b" not in done.stderr


def test_groups_by_a_pattern(folder: Path) -> None:
    done = compare(
        folder, *GROUPS, "--groups", "plain,bn", "--paired-by", "seed", "--measures", "sam_sharpness",
        "--modes", "batch", "--correction", "holm", "--log", "--level", "0.8", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    expected = tw.contrast(
        tw.Runs(user_run(folder, recipe, seed) for recipe in ("bn", "plain") for seed in range(4)),
        by="recipe",
        groups=("plain", "bn"),
        paired_by="seed",
        measures=["sam_sharpness"],
        modes="batch",
        correction="holm",
        log=True,
        level=0.8,
    )
    assert row["values_a"]["tensor"] == expected.values_a.tolist()
    assert row["value"] == expected.value
    assert row["rows"][0]["p_holm"] == expected.rows[0].p_holm
    text = compare(folder, *GROUPS, "--measures", "sam_sharpness")
    assert text.returncode == 0, text.stderr
    assert text.stdout.count("n = 4") == 2
    assert "lower bounds)" in text.stdout


def test_that_nothing_can_be_decided_is_said_before_anything_is_measured(folder: Path) -> None:
    # The 50 examples are a single batch: no row.
    arguments = (*GROUPS, "--measures", "sam_sharpness,trace,m_sharpness")
    done = compare(folder, *arguments, "--correction", "holm", "--set", "m_sharpness.batch_size=64", "--json")
    complaint, *rest = done.stderr.splitlines()
    assert complaint == (
        "Nothing can be decided: with 4 runs against 4 and 9 rows no corrected p-value can be below 0.26. "
        "More runs, or fewer measures and modes, are needed."
    )
    assert rest == []
    # What fails is no row; what is left is counted anew.
    assert "4 runs against 4 and 6 rows" in json.loads(done.stdout)["remarks"][0]
    weights = folder / "broken"
    shutil.copytree(folder / "ckpt", weights)
    state = torch.load(weights / "plain" / "seed0.pt", weights_only=True)
    state["1.weight"].fill_(math.nan)
    torch.save(state, weights / "plain" / "seed0.pt")
    arguments = ("broken/{recipe}/seed{seed}.pt", *GROUPS[1:], "--measures", "sam_sharpness")
    failed = compare(folder, *arguments, "--level", "0.99")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Nothing can be decided: with 4 runs against 4 no corrected p-value")
    assert "recipe=plain, seed=0" in failed.stderr.splitlines()[-1]


def test_numbers_in_fields_are_groups_by_their_text(folder: Path) -> None:
    done = compare(folder, "ckpt/{recipe}/seed{seed}.pt", "--by", "seed", "--groups", "1,3",
                   "--model", "nets:by_recipe", "--measures", "sam_sharpness", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["groups"] == [1, 3]


BAD = {
    "no such file": ((PAIR[0], "none.pt", "--model", "nets:build"), "none.pt is not a file"),
    "another shape": (
        (PAIR[0], PAIR[1], "--model", "nets:build"),
        "ckpt/plain/seed0.pt does not fit Sequential: it lacks 2.weight",
    ),
    "one file": (
        (PAIR[0], "--model", "nets:build"),
        "`checkpoints` must be two files, or one pattern with --by, got 1",
    ),
    "three files": (
        (PAIR[0], PAIR[0], PAIR[0], "--model", "nets:build"),
        "two files, or one pattern with --by, got 3",
    ),
    "the same file": (
        (PAIR[0], PAIR[0], "--model", "nets:build"),
        "`checkpoints` must be two different files",
    ),
    "a pattern without by": ((GROUPS[0], "--model", "nets:build"), "`by` must name the pattern's field"),
    "an expanded pattern": (
        (PAIR[0], PAIR[1], "--by", "recipe", "--model", "nets:build"),
        "put it in quotes",
    ),
    "groups of files": ((*PAIR, "--groups", "a,b"), "`groups` is for groups of runs"),
    "pairs of files": ((*PAIR, "--paired-by", "seed"), "`paired_by` is for groups of runs"),
    "two models of groups": ((*GROUPS, "--model-b", "nets:plain"), "`model_b` is for two files"),
    "no match": (
        ("ckpt/{recipe}/w{seed}.pt", "--by", "recipe", "--model", "nets:build"),
        "matches no file: in ckpt/bn there is seed0.pt",
    ),
    "no such field": (
        ("ckpt/{recipe}/seed{seed}.pt", "--by", "lr", "--model", "nets:by_recipe"),
        "`by` must be one of the fields recipe, seed",
    ),
    "no such group": ((*GROUPS, "--groups", "bn,sam"), "`groups` must be two different values of recipe"),
    "no such measure": ((*PAIR, "--measures", "flatness"), "`measures` must be some of top_eigenvalue"),
    "nearly a measure": ((*PAIR, "--measures", "trase"), "got 'trase'; did you mean 'trace'?"),
    "a radius of nought": (
        (*PAIR, "--measures", "trace,sam_sharpness", "--set", "sam_sharpness.radius=0"),
        "`radius` must be positive",
    ),
    "no such mode": ((*PAIR, "--modes", "frozen"), "`modes` must be some of running"),
    "no such dtype": ((*PAIR, "--dtype", "int8"), "`dtype` must be one of float32, float64"),
    "no such correction": ((*GROUPS, "--correction", "none at all"), "`correction` must be one of joint"),
    "a level in per cent": ((*PAIR, "--level", "95"), "`level` must lie in (0, 1)"),
    "a builder that needs fields": (
        (PAIR[0], PAIR[1], "--model", "nets:by_recipe"),
        "`build` must take no argument, fields",
    ),
    "a micro-batch in words": (
        (*PAIR, "--micro-batch", "many"),
        "`micro_batch` must be auto or a whole number",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(folder: Path, case: str) -> None:
    arguments, words = BAD[case]
    done = compare(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("thalweg: ")
    assert words in done.stderr


def test_a_network_that_diverged_is_a_failed_measurement(folder: Path) -> None:
    weights = torch.load(folder / PAIR[1], weights_only=True)
    weights["1.weight"].fill_(float("nan"))
    torch.save(weights, folder / "diverged.pt")
    done = compare(folder, PAIR[0], "diverged.pt", *PAIR[2:])
    assert done.returncode == 1
    assert "diverged: " in done.stderr


def test_help_has_examples(folder: Path) -> None:
    done = thalweg(folder, "compare", "--help")
    assert done.returncode == 0
    assert "thalweg compare 'ckpt/{recipe}/seed{seed}.pt' --by recipe" in " ".join(done.stdout.split())
