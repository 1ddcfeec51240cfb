"""The example and the links of `docs/stationary_law.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

import thalweg as tw

PAGE = DOCS / "stationary_law.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("StationaryLaw(occupancy of the widest well ")
    assert "BasinMass(free energy " in printed
    assert "LocalLearningCoefficient(learning coefficient " in printed
    for name in ("law.png", "mass.png", "learned.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    of_masses = {*tw.BasinMass.__dataclass_fields__, *vars(tw.BasinMass)}
    for name in ("negative_share", "rule_shift"):
        assert name in of_masses
        assert f"`{name}`" in page
    of_chains = {*tw.LocalLearningCoefficient.__dataclass_fields__, *vars(tw.LocalLearningCoefficient)}
    for name in ("num_burn_ins", "stiffness", "sharp_temperature", "temperature", "warnings"):
        assert name in of_chains
        assert f"`{name}`" in page


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
