"""The example of `docs/paths.md`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "paths.md"


def test_the_example_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition("(")[0] for line in done.stdout.splitlines() if line[:1].isalpha()] == [
        "LinearPath",
        "BezierPath",
        "SeedSpread",
        "Instability",
    ]
    for name in ("curve.png", "instability.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
