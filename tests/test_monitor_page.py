"""The example, the names and the links of `docs/monitor.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

from thalweg.analyses.monitor import Monitor

PAGE = DOCS / "monitor.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path).splitlines()
    assert printed[0].startswith("{'step': 50.0, ")
    assert printed[-2].startswith("Monitor(step 600, ")
    assert printed[-1].startswith("CriticalSharpness(")
    # Every number it prints is in the table.
    page = PAGE.read_text(encoding="utf-8")
    names = {name for line in printed for name in re.findall(r"'([\w/]+)': ", line)}
    assert {"loss", "critical_sharpness", "threshold"} <= names
    listed = set(re.findall(r"`([\w/]+)`", page))
    assert {n for n in names if not n.startswith(("skipped/", "failed/", "step")) and n not in listed} <= {
        "preconditioned_sharpness_residual"
    }


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in ("failures", "left_out", "history", "last", "num_steps", "overhead"):
        assert name in Monitor.__doc__ or hasattr(Monitor, name)
    for name in ("failures", "left_out", "history", "overhead"):
        assert name in page


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
