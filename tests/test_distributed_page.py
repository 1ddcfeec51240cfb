"""The example of `docs/distributed.md`, started as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs_page import DOCS


def test_the_example_runs(tmp_path: Path) -> None:
    text = (DOCS / "distributed.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "measure.py").write_text(program)
    assert "torchrun --nproc-per-node 2 measure.py" in text
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "measure.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HessianTrace(")
    assert done.stdout.count("HessianTrace(") == 1
