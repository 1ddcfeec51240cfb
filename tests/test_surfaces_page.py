"""The example, the names and the links of `docs/surfaces.md`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.docs_page import DOCS, run_example

import thalweg as tw
from thalweg.cli.measure import MEASURES_HELP
from thalweg.solvers.projection import Projection

PAGE = DOCS / "surfaces.md"


def test_the_example_runs(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("PlaneSlice(loss at the centre ")
    first = printed.splitlines()[0]
    for said in (
        "compared on ",
        "points interpolated",
        "curvature at the centre: Hessian ",
        "of its variance in the plane",
    ):
        assert said in first
    assert "torch.Size([51, 51])" in printed
    assert "\nQuadraticAgreement(" in printed
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")
    assert "Plotly" in (tmp_path / "plane.html").read_text(encoding="utf-8")
    with np.load(tmp_path / "plane.npz", allow_pickle=False) as file:
        assert file["losses"].shape == (51, 51)
        assert file["trajectory.coordinates"].shape == (11, 2)
    assert list((tmp_path / "plane").iterdir()), "what is kept"


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text()
    table = re.findall(r"^\| `(\w+)`", page[page.index("| `plane.trajectory`") :], re.M)
    fields = {*Projection.__dataclass_fields__, *vars(Projection)}
    assert len(table) == 5
    assert set(table) <= fields
    slices = {*tw.PlaneSlice.__dataclass_fields__, *dir(tw.PlaneSlice)}
    for name in ("agreement", "no_agreement", "evaluated", "interpolation_errors", "num_points_saved"):
        assert name in slices
        assert f"`{name}`" in page or f"plane.{name}" in page
    for argument in re.findall(r"--set (\w+)=", page):
        assert f"{argument}=" in MEASURES_HELP


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE.read_text())
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
