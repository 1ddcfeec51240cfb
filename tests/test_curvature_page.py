"""The example and the numbers of `docs/curvature.md`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs_page import DOCS, run_example
from tests.linalg.test_quadrature import SPECTRA, distance, run

PAGE = DOCS / "curvature.md"
NUM_SEEDS = 10


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("CurvatureProfile(")
    assert "tensor(1.0000, dtype=torch.float64)" in printed
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
