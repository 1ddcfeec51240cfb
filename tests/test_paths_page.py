"""The example of `docs/paths.md`."""

from __future__ import annotations

from pathlib import Path

from tests.docs_page import DOCS, run_example

PAGE = DOCS / "paths.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert [line.partition("(")[0] for line in printed.splitlines() if line[:1].isalpha()] == [
        "LinearPath",
        "BezierPath",
        "SeedSpread",
        "Instability",
    ]
    for name in ("curve.png", "instability.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
