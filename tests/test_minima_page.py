"""The example and the links of `docs/minima.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

import thalweg as tw

PAGE = DOCS / "minima.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("ModeConnectivity(lowest barrier found ")
    assert "Running statistics between two networks are interpolated" in printed
    assert (tmp_path / "between.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "page" / "index.html").exists()


def test_what_it_names_is_there() -> None:
    fields = {*tw.ModeConnectivity.__dataclass_fields__, *vars(tw.ModeConnectivity)}
    for name in ("value", "reasons", "remarks", "rows", "lines", "alignment", "curve", "topology"):
        assert name in fields


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
