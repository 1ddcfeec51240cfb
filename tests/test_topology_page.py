"""The example and the links of `docs/topology.md`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg as tw

PAGE = Path(__file__).parents[1] / "docs" / "topology.md"


@pytest.mark.skipif(not hasattr(tw, "plane_slice"), reason="the example takes a plane")
def test_the_example_runs(tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Persistence(at least ")
    assert (tmp_path / "shape.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text()
    fields = {*tw.Persistence.__dataclass_fields__, *vars(tw.Persistence), *vars(tw.MergeTree)}
    for name in ("births", "deaths", "birth_points", "death_points", "dimensions", "merge_tree", "num_walls"):
        assert name in fields
        assert f"`{name}`" in page
    for name in ("noise_band", "grid_error", "margin", "outlives_noise", "outlives_grid", "is_significant"):
        assert name in fields
        assert f"`{name}`" in page


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert all((PAGE.parent / link).exists() for link in links)
