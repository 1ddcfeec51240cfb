"""``thalweg study``: plan, run, status, report and export of the toy study, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.study.toy import write_study

from thalweg.cli import main
from thalweg.study.study import Study

Thalweg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def thalweg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], toy_folder: Path) -> Thalweg:
    """Run the command beside the toy study: ``thalweg(...) -> (exit code, stdout, stderr)``."""
    monkeypatch.chdir(toy_folder)
    write_study(toy_folder)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["thalweg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main.run()
        output = capsys.readouterr()
        return int(caught.value.code or 0), output.out, output.err

    return run


def test_plan_run_status_report_export(
    thalweg: Thalweg, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = thalweg("study", "plan", "toy.toml", "--workers", 1)
    assert code == 0
    # What so many seeds can show comes first.
    assert out.index("flatter: 2 runs against 2 can decide nothing") < out.index("4 runs:")
    assert not (toy_folder / "runs").exists(), "a plan does nothing"

    code, out, err = thalweg("study", "run", "toy.toml", "--workers", 1, "--out", "there")
    assert code == 0, err
    study = Study.open("there")
    lines = [line for line in err.splitlines() if " elapsed " in line]
    assert len(lines) == len(study.tasks)
    assert f"toy: {len(study.tasks)} done" in out
    assert "undecided" in out
    page = Path("there/report.html")
    text = page.read_text()
    assert "Does it work?" in text

    code, out, _ = thalweg("study", "plan", "toy.toml", "--workers", 1, "--out", "there", "--json")
    planned = json.loads(out)
    assert (planned["num_open"], planned["num_tasks"]) == (0, len(study.tasks))
    assert planned["power"][0]["spread"] > 0

    code, out, _ = thalweg("study", "status", "there", "--json")
    assert json.loads(out) == {"counts": study.status(), "failures": []}
    page.unlink()
    assert thalweg("report", "there")[0] == 0
    assert page.read_text() == text, "from the records alone"
    assert thalweg("export", "csv", "there", "--to", "numbers.csv")[0] == 0
    assert Path("numbers.csv").read_text().startswith("run,model,seed,name,")

    kept: dict[str, bytes] = {}
    exporting = "thalweg.study.mlflow_export.export_mlflow"
    monkeypatch.setattr(exporting, lambda study, to, figures: kept.update(figures) or to)
    assert thalweg("export", "mlflow", "there")[0] == 0
    assert kept.pop("report.html").decode() == text
    assert {*kept} >= {
        f"figures/toy-{name}.svg" for name in ("training", "values-gap", "values-sam_sharpness")
    }
    for name, figure in kept.items():
        drawn = ElementTree.fromstring(figure)
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg", name
        assert len(list(drawn.iter())) > 10, f"{name} is drawn"


def test_a_changed_file_is_told_before_and_after(
    thalweg: Thalweg, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = {"seeds": "seeds = 1", "moments": 'moments = ["end"]', "modes": 'modes = ["running"]'}
    write_study(toy_folder, **little)
    assert "changed" not in thalweg("study", "run", "toy.toml", "--workers", 1, "--out", "there")[2]
    write_study(toy_folder, **little, margin="margin = 2.0")

    def edited_meanwhile(*_: object, **__: object) -> None:
        write_study(toy_folder, **little, margin="margin = 3.0")

    monkeypatch.setattr("thalweg.cli.study.run_study", edited_meanwhile)
    _, _, err = thalweg("study", "run", "toy.toml", "--workers", 1, "--out", "there")
    lines = err.splitlines()
    changed = lines.index(
        "the study file has changed since this folder was last run: claims.flatter.margin 1.5 -> 2.0"
    )
    assert lines[changed + 1] == "0 tasks are new, 0 no longer asked for"
    assert any(line.startswith("the study file was changed meanwhile: ") for line in lines[changed:])


def test_bad_input_is_told_in_a_line(thalweg: Thalweg, toy_folder: Path) -> None:
    refused = {
        ("study", "run", "none.toml"): "`study` must be a .toml file or one of batch-norm",
        ("study", "run", "toy.toml", "--preset", "big"): "`preset` must be one of those in toy.toml (three)",
        ("study", "run", "toy.toml", "--shard", "3/2"): "`shard` must be I/N with I from 1 to N",
        ("study", "run", "toy.toml", "--engine", "slurm"): "`engine` must be local or ray, got 'slurm'",
        ("study", "run", "toy.toml", "--address", "auto"): "`address` is for --engine ray",
        ("study", "status", "."): "has no study.json; `thalweg study run` makes one",
        ("export", "xml", "."): "`kind` must be one of csv, parquet, mlflow",
    }
    for arguments, message in refused.items():
        code, _, err = thalweg(*arguments)
        assert code == 2, arguments
        assert message in err
        assert len(err.splitlines()) == 1


def test_a_study_with_a_crash_exits_with_1_and_says_what_it_was(
    thalweg: Thalweg, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr("thalweg.study.plan.generalization_gap", out_of_memory)
    write_study(toy_folder, seeds="seeds = 1")
    code, out, _ = thalweg("study", "run", "toy.toml", "--workers", 1, "--out", "there")
    assert code == 1
    assert "crashed: bn 1 gap epoch 1 running and 5 more: MemoryError: no memory left" in out


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch-norm", "generalisation", "why-sgd", "early-curvature"])
def test_the_smoke_presets_run_on_real_data(thalweg: Thalweg, name: str) -> None:
    code, _, err = thalweg("study", "run", name, "--preset", "smoke", "--out", "smoke")
    assert code == 0, err
    study = Study.open("smoke")
    assert study.status()["done"] == len(study.tasks)
    assert Path("smoke/report.html").exists()
