"""The example and the numbers of `docs/curvature.md`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.linalg.test_quadrature import SPECTRA, distance, run

PAGE = Path(__file__).parents[1] / "docs" / "curvature.md"
NUM_SEEDS = 10


def test_the_example_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CurvatureProfile(")
    assert "tensor(1.0000, dtype=torch.float64)" in done.stdout
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def measured(name: str) -> list[float]:
    """Mean distances in the order of the table's columns."""
    apart = [run(SPECTRA[name], seed=seed, probes_together=1) for seed in range(NUM_SEEDS)]
    together = [run(SPECTRA[name], seed=seed) for seed in range(NUM_SEEDS)]
    return [
        sum(distance(SPECTRA[name], found, raw) for found in runs) / NUM_SEEDS
        for runs, raw in ((apart, True), (together, True), (together, False))
    ]


@pytest.mark.parametrize("name", SPECTRA)
def test_distances(name: str) -> None:
    (line,) = re.findall(rf"^\| {name} \|(.*)\|$", PAGE.read_text(), re.M)
    stated = [float(cell) for cell in line.split("|")]
    assert measured(name) == pytest.approx(stated, rel=0.1)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
