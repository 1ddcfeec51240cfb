"""The example of `docs/paths.md`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs_page import AS_IT_STANDS, DOCS, Smaller, run_example

PAGE = DOCS / "paths.md"
QUICK = {"epochs=40": "epochs=5", "num_steps=1000": "num_steps=50", "num_steps=300": "num_steps=20"}


@pytest.mark.parametrize("smaller", [QUICK, AS_IT_STANDS])
def test_the_example_runs(tmp_path: Path, smaller: Smaller) -> None:
    printed = run_example(PAGE, tmp_path, smaller)
    assert [line.partition("(")[0] for line in printed.splitlines() if line[:1].isalpha()] == [
        "LinearPath",
        "BezierPath",
        "SeedSpread",
        "Instability",
    ]
    for name in ("curve.png", "instability.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
