"""``thalweg audit`` as a user calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.test_measure import thalweg

import thalweg as tw

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))

def linear():
    return nn.Linear(12, 3)

def data():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(50, 12, generator=rng), torch.randint(0, 3, (50,), generator=rng)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder: a module and weights."""
    path = tmp_path_factory.mktemp("audited")
    (path / "mine.py").write_text(MODULE)
    namespace: dict = {}
    exec(MODULE, namespace)
    torch.manual_seed(5)
    save_file(namespace["build"]().state_dict(), path / "w.safetensors")
    yield path
    sys.modules.pop("mine", None)


def audit(folder: Path, *more: str) -> SimpleNamespace:
    return thalweg(folder, "audit", "--model", "mine:build", "--data", "mine:data", *more)


CHEAP = ("--checkpoint", "w.safetensors", "--members", "top_eigenvalue,sam_sharpness")


def test_the_table_and_its_legend(folder):
    done = audit(folder, *CHEAP, "--dtype", "float64")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first.startswith("InvarianceAudit(0 of 2 measures unmoved by relu_rescaling, batch_norm_scaling")
    table = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    assert table["measure"] == ["value", "relu_rescaling", "batch_norm_scaling", "permutation"]
    assert table["sam_sharpness"][1] == table["top_eigenvalue"][1] == "≠"
    assert table["sam_sharpness"][-4:] == ["=", "0", "%", "*"]
    assert sum(line.startswith("≠ moved   = not moved") for line in lines) == 1
    assert sum(line.startswith("proof, on 50 examples in float64: largest") for line in lines) == 1
    assert "query_key: no attention: no two activations are multiplied" in lines


def test_json_is_the_result(folder):
    done = audit(folder, *CHEAP, "--json", "--seed", "7", "--strength", "2", "--resolution", "0.5")
    assert done.returncode == 0
    result = tw.Measurement.from_dict(json.loads(done.stdout))
    assert isinstance(result, tw.InvarianceAudit)
    assert result.provenance["arguments"] == {
        "members": ["top_eigenvalue", "sam_sharpness"],
        "strength": 2.0,
        "resolution": 0.5,
        "seed": 7,
    }
    assert result.provenance["objective"]["dtype"] == "float32"


def test_arguments_of_single_measures_and_measures_beyond_the_family(folder):
    chosen = ("--members", "sam_sharpness,top_eigenvalues", "--set", "sam_sharpness.radius=0.2")
    done = audit(folder, "--checkpoint", "w.safetensors", *chosen, "--json")
    assert done.returncode == 0, done.stderr
    result = tw.Measurement.from_dict(json.loads(done.stdout))
    assert isinstance(result, tw.InvarianceAudit)
    sam, top = (result.provenance["arguments"]["members"][name] for name in result.members)
    assert sam["arguments"] == {"radius": 0.2}
    assert top["arguments"] == {}
    (objective,) = (tw.Objective(m, d) for m, d in [weights_and_data(folder)])
    assert float(result.before[0]) == tw.sam_sharpness(objective, radius=0.2, seed=0).value


def weights_and_data(folder):
    namespace: dict = {}
    exec(MODULE, namespace)
    model = namespace["build"]()
    model.load_state_dict(load_file(folder / "w.safetensors"))
    return model, namespace["data"]()


def test_the_figure(folder, tmp_path):
    done = audit(folder, *CHEAP, "--plot", str(tmp_path / "audit.png"))
    assert done.returncode == 0
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
    assert "figure: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--members", "flatness"), "`members` must be some of top_eigenvalue"),
        (("--members", ","), "`members` must name at least one measure, got none"),
        (("--strength", "1"), "`strength` must be a finite number of at least 2, got 1.0"),
        (("--plot", "audit.txt"), "`plot` must end in one of .png, .svg, .pdf, got 'audit.txt'"),
        (("--model", "mine:linear"), "`objective` must have a symmetry to audit"),
        (("--weight-decay", "-1"), "`weight_decay` must be a finite number >= 0"),
        (("--dtype", "int8"), "`dtype` must be one of float32, float64"),
    ],
)
def test_bad_input_is_told_in_a_line(folder, arguments, complaint):
    done = audit(folder, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_help_has_an_example(folder):
    done = thalweg(folder, "audit", "--help")
    assert done.returncode == 0
    assert "Example: `thalweg audit --model small_cnn_bn" in done.stdout
