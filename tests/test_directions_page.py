"""The example and the tables of `docs/directions.md`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from tests.docs_page import DOCS, run_example

from thalweg.solvers.direction_sources import NAMED
from thalweg.solvers.normalisation import Normalisation

PAGE = DOCS / "directions.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("('random 0', 'top eigenvector 0')")
    assert "\nagrees\n" in printed


def test_every_kind_and_normalisation_is_in_a_table() -> None:
    text = PAGE.read_text()
    rows = "\n".join(re.findall(r"^\| .*$", text, re.M))
    assert all(f'`"{name}"`' in rows for name in NAMED)
    assert tuple(re.findall(r'^\| `"(\w+)"`(?: \(default\))? \| (?:`|nothing)', text, re.M)) == get_args(
        Normalisation
    )
