"""The README's examples run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs_page import AS_IT_STANDS, Smaller, run_program

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\S*)( file=(\S+))?\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.mark.real_data
@pytest.mark.parametrize("smaller", [{"[:300]": "[:10]", "rtol=1e-2": "rtol=0.3"}, AS_IT_STANDS])
def test_the_library_example_runs(smaller: Smaller, tmp_path: Path) -> None:
    (program,) = [text for language, _, file, text in BLOCKS if language == "python" and not file]
    printed = run_program(program, tmp_path, smaller)
    assert "batch norm running" in printed
    assert "batch norm batch" in printed
    assert (tmp_path / "slice.png").read_bytes().startswith(b"\x89PNG")


def test_measuring_ones_own_network_runs(tmp_path: Path) -> None:
    for _, _, file, text in BLOCKS:
        if file:
            (tmp_path / file).write_text(text)
    (command,) = [text for _, _, _, text in BLOCKS if text.startswith("thalweg measure")]
    program = "from thalweg.cli.main import run; run()"
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("TopEigenvalues(")


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_watching_ones_own_run(tmp_path: Path) -> None:
    (program,) = [text for _, _, file, text in BLOCKS if file == "watch.py"]
    *readings, schedule = run_program(program, tmp_path).splitlines()
    assert [line.split()[0] for line in readings] == [f"{step}.0" for step in range(100, 600, 100)]
    # Not at each, but within so few steps.
    assert any(line.split()[2] != "None" for line in readings)
    assert "'gradient': 600" in schedule
