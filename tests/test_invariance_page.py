"""The example and the names of `docs/invariance.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

from thalweg.report.audit_text import LEGEND
from thalweg.solvers.symmetries.places import TRANSFORMATIONS

PAGE = DOCS / "invariance.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    first, *_, last = printed.splitlines()
    assert first.startswith("InvarianceAudit(0 of 2 measures unmoved by relu_rescaling, batch_norm_scaling")
    assert last == "not moved"
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_every_transformation_and_the_legend_are_explained() -> None:
    text = PAGE.read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == list(TRANSFORMATIONS)
    assert LEGEND in text
