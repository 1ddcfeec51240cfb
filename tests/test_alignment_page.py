"""The example and the names of `docs/alignment.md`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from thalweg.measures.connectivity.permutation import Method

PAGE = Path(__file__).parents[1] / "docs" / "alignment.md"


def test_the_example_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith("PermutationAlignment(distance after alignment ")
    assert set(re.findall(r"'(\d)'", second)) == {"0", "5"}
    assert third.startswith("barrier ")
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_every_method_is_explained() -> None:
    assert re.findall(r'^\| `"(\w+)"` \|', PAGE.read_text(), re.M) == list(get_args(Method))
