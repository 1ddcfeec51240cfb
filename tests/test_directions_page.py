"""The example and the tables of `docs/directions.md`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from thalweg.solvers.direction_sources import NAMED
from thalweg.solvers.normalisation import Normalisation

PAGE = Path(__file__).parents[1] / "docs" / "directions.md"


def test_the_example_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("('random 0', 'top eigenvector 0')")
    assert "\nagrees\n" in done.stdout


def test_every_kind_and_normalisation_is_in_a_table() -> None:
    text = PAGE.read_text()
    rows = "\n".join(re.findall(r"^\| .*$", text, re.M))
    assert all(f'`"{name}"`' in rows for name in NAMED)
    assert tuple(re.findall(r'^\| `"(\w+)"`(?: \(default\))? \| (?:`|nothing)', text, re.M)) == get_args(
        Normalisation
    )
