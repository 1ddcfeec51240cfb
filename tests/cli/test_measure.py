"""``thalweg measure`` as a user calls it: its output, its errors, its exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from torch import nn

import thalweg as tw
from thalweg.cli.main import run
from thalweg.cli.measure import MEASURES_HELP
from thalweg.core.registry import Registry
from thalweg.data import registry

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))

def data():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(50, 12, generator=rng), torch.randint(0, 3, (50,), generator=rng)

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)

def broken():
    return {}["width"]

def fourth_class():
    x, y = data()
    y[40] = 3
    return x, y

class Files(torch.utils.data.Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, i):
        return {"file": torch.zeros(12)}[f"file{i}"[: 6 if i > 48 else 4]], 0

class Ragged(Files):
    def __getitem__(self, i):
        return torch.zeros(11 + (i < 49)), 0

def broken_loss(outputs, targets):
    raise LookupError("no such\\nloss")

def broken_loss_of_torch(outputs, targets):
    return outputs @ targets

def late_loss(outputs, targets):
    if len(targets) < 16:
        raise ZeroDivisionError("at the end")
    return loss(outputs, targets)

not_callable = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder: a module, and weights in both formats."""
    path = tmp_path_factory.mktemp("user")
    (path / "own.py").write_text(MODULE)
    namespace: dict[str, object] = {}
    exec(MODULE, namespace)
    torch.manual_seed(5)
    model = namespace["build"]()  # type: ignore[operator]
    assert isinstance(model, nn.Module)
    save_file(model.state_dict(), path / "w.safetensors")
    torch.save(model.state_dict(), path / "w.pt")
    torch.manual_seed(6)
    other = namespace["build"]()  # type: ignore[operator]
    assert isinstance(other, nn.Module)
    save_file(other.state_dict(), path / "v.safetensors")
    save_file({k: v for k, v in model.state_dict().items() if k != "1.bias"}, path / "short.safetensors")
    wrong = {**model.state_dict(), "1.bias": torch.zeros(7)}
    save_file(wrong, path / "wrong.safetensors")
    (path / "broken.safetensors").write_bytes(b"\x08\x00\x00")
    yield path
    sys.modules.pop("own", None)


def thalweg(folder: Path, *arguments: str) -> SimpleNamespace:
    """Run the command in `folder`, in this process: a new one takes seconds to import torch."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["thalweg", *arguments]),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        os.environ.pop("COLUMNS", None)  # tests in parallel have it
        try:
            run()
        except SystemExit as stop:
            code = stop.code
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def measure(folder: Path, name: str, *more: str) -> SimpleNamespace:
    return thalweg(folder, "measure", name, "--model", "own:build", "--data", "own:data", *more)


def own(folder: Path) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    namespace: dict[str, object] = {}
    exec(MODULE, namespace)
    model = namespace["build"]()  # type: ignore[operator]
    assert isinstance(model, nn.Module)
    model.load_state_dict(torch.load(folder / "w.pt", weights_only=True))
    return model.eval(), namespace["data"]()  # type: ignore[operator]


def test_it_prints_what_the_library_returns(folder: Path) -> None:
    done = measure(
        folder, "top_eigenvalues", "--checkpoint", "w.safetensors",
        "--batch-norm", "batch", "--batch-size", "16",
        "--set", "k=2", "--seed", "3", "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    model, data = own(folder)
    expected = tw.top_eigenvalues(tw.Objective(model, data, batch_norm="batch", batch_size=16), 2, seed=3)
    assert row["value"] == expected.value
    assert row["eigenvalues"]["tensor"] == expected.eigenvalues.tolist()
    assert row["provenance"]["objective"]["batch_norm"] == "batch"


def test_both_formats_of_weights_give_one_value_and_text_is_readable(folder: Path) -> None:
    outputs = [
        measure(folder, "sam_sharpness", "--checkpoint", name, "--device", "cpu").stdout
        for name in ("w.safetensors", "w.pt")
    ]
    assert outputs[0] == outputs[1]
    assert "SamSharpness(" in outputs[0]
    assert "interval at 95 % or more" in outputs[0]


def test_a_path_takes_two_checkpoints_and_a_figure_is_drawn(folder: Path) -> None:
    done = measure(
        folder, "linear_path", "--checkpoint", "w.safetensors", "--checkpoint", "v.safetensors",
        "--set", "num_points=5", "--plot", "path.png", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["alphas"]["tensor"]) == 5
    assert (folder / "path.png").read_bytes().startswith(b"\x89PNG")


def test_an_own_loss_is_imported(folder: Path) -> None:
    done = measure(folder, "line_slice", "--loss", "own:loss", "--set", "num_points=3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["objective"]["loss"] == "loss"


BAD = {
    "missing key": (("--checkpoint", "short.safetensors"), "1.bias"),
    "wrong shape": (("--checkpoint", "wrong.safetensors"), "1.bias"),
    "unreadable file": (("--checkpoint", "broken.safetensors"), "broken.safetensors"),
    "no such file": (("--checkpoint", "none.safetensors"), "none.safetensors"),
    "too many checkpoints": (("--checkpoint", "w.pt", "--checkpoint", "w.pt"), "`checkpoint`"),
    "bad batch size": (("--batch-size", "0"), "`batch_size`"),
    "batch size not a number": (("--batch-size", "many"), "--batch-size"),
    "bad micro-batch": (("--micro-batch", "-3"), "`micro_batch`"),
    "batch of one": (("--batch-norm", "batch", "--batch-size", "7"), "`batch_size`"),
    "unknown mode": (("--batch-norm", "frozen"), "`batch_norm`"),
    "unknown loss": (("--loss", "hinge"), "`loss`"),
    "not callable": (("--loss", "own:not_callable"), "`loss`"),
    "unknown argument": (("--set", "depth=3"), "depth"),
    "bad argument": (("--set", "k=1000"), "`k`"),
    "argument of the wrong type": (("--set", "rtol=abc"), "`rtol`"),
    "argument that may be None of the wrong type": (
        ("--set", "certify_rtol=tight"),
        "`certify_rtol` in --set must be a number or None, got 'tight'",
    ),
    "model that raises": (("--model", "own:broken"), "`model` own:broken raised KeyError: 'width'"),
    "data that raise": (("--data", "own:broken"), "`data` own:broken raised KeyError: 'width'"),
    "a class the model does not have": (
        ("--data", "own:fourth_class", "--micro-batch", "16"),
        "but example 40 has 3",
    ),
    "an item that raises": (("--data", "own:Files"), "`data` raised KeyError: 'file49' at item 49 of 50"),
    "items of two shapes": (("--data", "own:Ragged"), "`data` must have items of one structure and shape"),
    "loss that raises": (
        ("--loss", "own:broken_loss"),
        "`loss` own:broken_loss raised LookupError: no such loss",
    ),
    "loss that raises what torch does": (
        ("--loss", "own:broken_loss_of_torch"),
        "own:broken_loss_of_torch gave RuntimeError: ",
    ),
    "loss that raises on a later batch": (
        ("--loss", "own:late_loss", "--micro-batch", "16"),
        "`loss` own:late_loss raised ZeroDivisionError: at the end",
    ),
    "argument not a sequence": (
        ("--set", "levels=5"),
        "`levels` in --set must be a list of whole numbers or None, got '5'",
    ),
    "argument of the wrong kind inside a list": (("--set", "levels=[512, 'x']"), "got \"[512, 'x']\""),
    "argument that is none of a few": (
        ("--set", "which=left"),
        "`which` in --set must be 'top', 'bottom' or 'both', got 'left'",
    ),
    "part of a whole number": (("--set", "k=1.5"), "`k` in --set must be a whole number, got '1.5'"),
    "figure of no known format": (("--plot", "x.txt"), "`plot`"),
    "device that holds no numbers": (("--device", "meta"), "`device`"),
    "unknown device": (("--device", "abacus"), "abacus"),
    "unknown dtype": (("--dtype", "int8"), "`dtype`"),
    "unknown option": (("--colour", "red"), "--colour"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(folder: Path, case: str) -> None:
    arguments, word = BAD[case]
    done = measure(folder, "top_eigenvalues", *arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("thalweg: ")
    assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("measure", "flatness", "--model", "own:build", "--data", "own:data"), "flatness"),
        (("measure", "line_slice", "--model", "own:nothing", "--data", "own:data"), "own:nothing"),
        (("measure", "line_slice", "--model", "own:build", "--data", "nowhere:data"), "nowhere"),
        (("measure", "line_slice", "--model", "own:build"), "--data"),
        (
            ("measure", "fisher_rao_norm", "--model", "own:no", "--data", "own:data", "--plot", "x.png"),
            "`plot`",
        ),
        (("fly",), "fly"),
    ],
)
def test_wrong_names_are_one_clear_line(folder: Path, arguments: tuple[str, ...], word: str) -> None:
    done = thalweg(folder, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert word in done.stderr


def test_a_failed_measurement_exits_with_1(folder: Path) -> None:
    done = measure(folder, "top_eigenvalues", "--set", "rtol=1e-5", "--set", "max_matvecs=2")
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("verb", ["data", "train", "measure", "reproduce"])
def test_every_verb_has_help_with_an_example(folder: Path, verb: str) -> None:
    done = thalweg(folder, verb, "--help")
    assert done.returncode == 0
    assert f"thalweg {verb}" in done.stdout
    assert "Example" in done.stdout


def test_as_a_process_it_touches_nothing_and_says_the_same(folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    arguments = ("measure", "sam_sharpness", "--model", "own:build", "--data", "own:data", "--json")
    process = subprocess.run(
        # Isolated, so that only the command itself makes the current folder importable.
        [sys.executable, "-P", "-m", "thalweg", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == "", "no progress bar where there is no terminal"
    assert process.stdout == thalweg(folder, *arguments).stdout
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_short_arrays_are_shown(folder: Path) -> None:
    shown = measure(folder, "top_eigenvalues", "--set", "k=3").stdout
    row = json.loads(measure(folder, "top_eigenvalues", "--set", "k=3", "--json").stdout)
    values = ", ".join(f"{v:.6g}" for v in row["eigenvalues"]["tensor"])
    assert f"eigenvalues: {values}\n" in shown


def outwards(text: str, bound: float, sign: int) -> None:
    """The text is of the bound, and beyond it on that side by less than a unit of its sixth digit."""
    assert 0 <= sign * (float(text) - bound) <= 1e-5 * abs(bound) + 1e-12, (text, bound)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bounds_are_rounded_away_from_what_they_bound(folder: Path, seed: int) -> None:
    more = ("--checkpoint", "w.safetensors", "--seed", str(seed))
    objective = tw.Objective(*own(folder))

    def said(shown: str, key: str) -> str:
        (line,) = (line for line in shown.splitlines() if line.startswith(f"{key}: "))
        return line.removeprefix(f"{key}: ")

    profile = tw.curvature_profile(objective, max_matvecs=24, seed=seed)
    shown = measure(folder, "curvature_profile", "--set", "max_matvecs=24", *more).stdout
    outwards(said(shown, "lambda_max, at least"), profile.lambda_max, -1)
    outwards(said(shown, "lambda_max_upper"), profile.lambda_max_upper, 1)
    outwards(said(shown, "lambda_min, at most"), profile.lambda_min, 1)
    outwards(said(shown, "lambda_min_lower"), profile.lambda_min_lower, -1)
    ends = said(shown, "interval at 95 % or more").split(" to ")
    for text, end, sign in zip(ends, profile.interval(0.95), (-1, 1), strict=True):
        outwards(text, end, sign)

    eigenvalues = tw.top_eigenvalues(objective, 2, which="both", seed=seed)
    shown = measure(folder, "top_eigenvalues", "--set", "k=2", "--set", "which=both", *more).stdout
    for key, sign in (("lower_bound", -1), ("upper_bound", 1)):
        outwards(said(shown, key), getattr(eigenvalues, key), sign)
        outwards(said(shown, f"smallest_{key}"), getattr(eigenvalues, f"smallest_{key}"), sign)
    for text, residual in zip(said(shown, "residuals").split(", "), eigenvalues.residuals, strict=True):
        outwards(text, float(residual), 1)


def test_what_a_profile_knows_is_shown(folder: Path) -> None:
    arguments = ("curvature_profile", "--checkpoint", "w.safetensors", "--set", "max_matvecs=24")
    shown = measure(folder, *arguments).stdout
    model, data = own(folder)
    profile = tw.curvature_profile(tw.Objective(model, data), max_matvecs=24, seed=0)
    for name in ("trace", "frobenius_norm", "negative_mass", "effective_rank"):
        assert f"\n{name}: {getattr(profile, name)}\n" in shown
    damping = float(f"{max(profile.lambda_max, -profile.lambda_min):.2g}")
    assert f"\nlog_det, damping {damping:g}: {profile.log_det(damping)}\n" in shown
    rows = [line.split() for line in shown.splitlines()]
    quantile = float(stats.t.ppf(0.975, profile.num_probes - 1))
    for layer, trace, error in zip(
        profile.layers, profile.layer_traces.tolist(), profile.layer_trace_errors.tolist(), strict=True
    ):
        (row,) = (row for row in rows if row[:1] == [layer])
        assert row[1:3] + row[4:5] == [f"{trace:.6g}", f"{error:.6g}", "to"]
        outwards(row[3], trace - quantile * error, -1)
        outwards(row[5], trace + quantile * error, 1)
    derived = json.loads(measure(folder, *arguments, "--json").stdout)["derived"]
    low, high = profile.trace.interval(0.95)
    assert derived["trace"] == {"value": float(profile.trace), "low": float(low), "high": float(high)}
    assert derived["lambda_min"] == profile.lambda_min
    ends = [end.tolist() for end in profile.layer_trace_estimate.interval(0.95)]
    assert [derived["layer_trace_estimate"][end] for end in ("low", "high")] == ends
    for row in derived["log_det"]:
        assert row["damping"] > -profile.lambda_min_lower
        assert row["value"] == float(profile.log_det(row["damping"]))


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        ("curvature_profile", "CurvatureProfile(trace "),
        ("spectral_density", "SpectralDensity(mean eigenvalue "),
        ("block_curvature", "BlockCurvature(share of ||H||² off the blocks "),
        ("hessian_trace", "HessianTrace("),
    ],
)
def test_the_first_line_says_what_the_value_is(folder: Path, name: str, quantity: str) -> None:
    done = measure(folder, name)
    value = json.loads(measure(folder, name, "--json").stdout)["value"]
    assert done.stdout.startswith(f"{quantity}{value:.6g} "), done.stdout


def test_a_table_holds_what_belongs_to_the_parts(folder: Path) -> None:
    shown = measure(folder, "hessian_trace", "--set", "rtol=0.9", "--set", "population=True").stdout
    (header,) = (line for line in shown.splitlines() if line.startswith("layers"))
    assert header.split("  ") == ["layers", "layer_traces", "layer_trace_errors", "95 % interval"]
    assert "\nfold_traces: " in shown
    arguments = ("--checkpoint", "w.safetensors", "--set", "num_probes=3", "--set", "num_steps=2")
    shown = measure(folder, "block_curvature", *arguments).stdout
    (header,) = (line for line in shown.splitlines() if line.startswith("blocks"))
    assert [word.strip() for word in header.split("  ") if word] == [
        "blocks",
        "sizes",
        "traces",
        "95 % interval",
        "lambda_max, at least",
        "lambda_min, at most",
    ]
    model, data = own(folder)
    result = tw.block_curvature(tw.Objective(model, data), num_probes=3, num_steps=2, seed=0)
    (row,) = (line for line in shown.splitlines() if line.startswith(f"{result.blocks[0]} "))
    found = re.search(r"(\S+) to (\S+)", row)
    assert found
    for text, end, sign in zip(found.groups(), result.densities[0].trace.interval(), (-1, 1), strict=True):
        outwards(text, float(end), sign)
    assert "\ntraces: " not in shown


def test_a_data_sets_name_is_no_picture(folder: Path) -> None:
    done = thalweg(folder, "measure", "line_slice", "--model", "own:build", "--data", "fashion-mnist:train:0")
    assert done.returncode == 2
    assert "'fashion-mnist:train:0'" in done.stderr


def test_out_of_memory_is_one_clear_line(folder: Path) -> None:
    done = measure(folder, "line_slice", "--set", "num_points=1000000000001")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("thalweg: out of memory; fewer examples")


def test_a_flag_is_read_as_a_flag(folder: Path) -> None:
    done = measure(folder, "line_slice", "--set", "num_points=3", "--set", "population=False", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["provenance"]["arguments"]["population"] is False
    assert row["error"]["data"] is None


def test_data_that_do_not_fit_the_model_are_one_clear_line(folder: Path) -> None:
    (folder / "wide.py").write_text(MODULE.replace("nn.Linear(12, 4)", "nn.Linear(13, 4)"))
    done = thalweg(folder, "measure", "line_slice", "--model", "wide:build", "--data", "own:data")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "`data` must fit `model`" in done.stderr


def test_test_data_are_calibrated_on_the_training_split(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(1)
    sets = {
        split: (shift + torch.randn(n, 12, generator=rng), torch.randint(0, 3, (n,), generator=rng))
        for split, n, shift in (("train", 40, 0.0), ("test", 30, 2.0))
    }
    stand_in = Registry({"fashion-mnist": lambda split, root: sets[split]})
    monkeypatch.setattr(registry, "_DATASETS", stand_in)

    def value(data: str, *more: str) -> float:
        done = thalweg(
            folder,
            *("measure", "line_slice", "--model", "own:build", "--checkpoint", "w.pt", "--data", data),
            *("--batch-norm", "recalibrated", "--set", "num_points=3", "--device", "cpu", "--json", *more),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["value"]

    model, _ = own(folder)
    x, y = (t[:20] for t in sets["test"])

    def expected(calibration: object) -> float:
        return tw.Objective(model, (x, y), batch_norm="recalibrated", calibration_data=calibration).value()

    assert value("fashion-mnist:test:20") == expected(sets["train"]) != expected(None)
    assert value("fashion-mnist:test:20", "--calibration-data", "fashion-mnist:test:20") == expected(None)


def test_what_a_measure_needs_is_asked_for(folder: Path) -> None:
    done = measure(folder, "sgd_temperature", "--device", "cpu")
    assert done.returncode == 2
    assert "`set` must give lr for sgd_temperature: --set lr=VALUE." in done.stderr
    done = measure(
        folder, "sgd_temperature", "--device", "cpu", "--set", "lr=0.01", "--set", "num_steps=16", "--set",
        "burn_in=0", "--set", "num_directions=1", "--set", "sampling=epochs", "--set", "batch_size=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SGDTemperature(temperature " in done.stdout
    assert re.search(r"^eigenvalues +temperatures +.*predicted +continuous$", done.stdout, re.M)
    assert "outcome: " in done.stdout
    assert "lr (needed), batch_size=None" in MEASURES_HELP
    done = measure(
        folder, "temperature_scaling", "--device", "cpu", "--set", "lrs=[0.01, 0.03]",
        "--set", "batch_sizes=[8]", "--set", "num_steps=20", "--set", "burn_in=0",
        "--set", "num_directions=1", "--set", "drift_level=1e-9", "--set", "min_effective_size=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TemperatureScaling(exponent of lr / B " in done.stdout
