"""The examples and the links of `docs/temperature.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

import thalweg as tw

PAGE = DOCS / "temperature.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("SGDTemperature(temperature ")
    assert "stationary, predicted " in printed.splitlines()[0]
    assert "TemperatureScaling(exponent of lr / B " in printed
    for name in ("temperature.png", "scaling.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    of_runs = {*tw.SGDTemperature.__dataclass_fields__, *vars(tw.SGDTemperature)}
    for name in ("predicted", "continuous", "effective_sizes", "position_drift", "noise_growth", "outcome"):
        assert name in of_runs
        assert f"`{name}`" in page
    of_grids = {*tw.TemperatureScaling.__dataclass_fields__, *vars(tw.TemperatureScaling)}
    for name in ("departures", "exponents", "breaks", "holds_up_to", "fits", "tolerance"):
        assert name in of_grids
        assert f"`{name}`" in page


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
