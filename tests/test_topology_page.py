"""The example and the links of `docs/topology.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

import thalweg as tw

PAGE = DOCS / "topology.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("Persistence(at least ")
    assert (tmp_path / "shape.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text()
    fields = {*tw.Persistence.__dataclass_fields__, *vars(tw.Persistence), *vars(tw.MergeTree)}
    for name in ("births", "deaths", "birth_points", "death_points", "dimensions", "merge_tree", "num_walls"):
        assert name in fields
        assert f"`{name}`" in page
    for name in ("noise_band", "grid_error", "margin", "outlives_noise", "outlives_grid", "is_significant"):
        assert name in fields
        assert f"`{name}`" in page


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert all((PAGE.parent / link).exists() for link in links)
