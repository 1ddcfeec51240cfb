"""The example, the names and the links of `docs/monitor.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

from thalweg.analyses.monitor import Monitor
from thalweg.analyses.monitor_choice import LEAST_EXAMPLES
from thalweg.analyses.monitor_readings import PROOF

PAGE = DOCS / "monitor.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path).splitlines()
    assert printed[0].startswith("{'step': 50.0, ")
    assert printed[-2].startswith("Monitor(step 600, ")
    assert printed[-1].startswith("CriticalSharpness(")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    # Every number it prints is in the table.
    page = PAGE.read_text(encoding="utf-8")
    names = {name for line in printed for name in re.findall(r"'([\w/]+)': ", line)}
    assert {"loss", "critical_sharpness", "threshold", "trace", "noise_scale"} <= names
    listed = set(re.findall(r"`([\w/]+)`", page))
    assert names - listed <= {f"preconditioned_sharpness_{part}" for part in ("residual", "upper")} | {"step"}


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert Monitor.__doc__ is not None
    for name in ("failures", "left_out", "history", "last", "overhead", "diverged_at"):
        assert name in Monitor.__doc__ or hasattr(Monitor, name)
        assert name in page
    for name in ("schedule", "result", "state_dict", "load_state_dict"):
        assert hasattr(Monitor, name)
        assert f"{name}(" in page
    for number in (str(LEAST_EXAMPLES), f"{PROOF:,.0f} passes"):
        assert number in page


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
