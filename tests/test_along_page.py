"""The example and the links of `docs/along_the_gradient.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

import thalweg as tw
from thalweg.study.study_file import read_study

PAGE = DOCS / "along_the_gradient.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("GradientPredictiveness(")
    assert "LargestStableLearningRate(" in printed
    for name in ("along.png", "rate.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for result in (tw.GradientPredictiveness, tw.LargestStableLearningRate):
        fields = {*result.__dataclass_fields__, *vars(result)}
        named = {"loss_range", "gradient_range", "smoothness", "gradient_norms", "losses", "trial_losses"}
        assert named & fields
        for name in named & fields:
            assert f"`{name}`" in page
    study = read_study("batch-norm")
    for name in ("effective_smoothness", "largest_stable_rate"):
        assert name in study.measures
        assert f"`{name}`" in page
    claims = {c.name for c in study.claims if c.measure.startswith(("effective_", "largest_"))}
    assert claims
    assert all(f"`{name}`" in page for name in claims)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
