"""The example and the names of `docs/invariance.md`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from thalweg.analyses.sharpness_family import TRANSFORMATIONS
from thalweg.report.audit_text import LEGEND

PAGE = Path(__file__).parents[1] / "docs" / "invariance.md"


def test_the_example_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("InvarianceAudit(0 of 2 measures unmoved by relu_rescaling, batch_norm_scaling")
    assert last == "not moved"
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_every_transformation_and_the_legend_are_explained() -> None:
    text = PAGE.read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == list(TRANSFORMATIONS)
    assert LEGEND in text
