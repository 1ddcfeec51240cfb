"""The example and the links of `docs/gradient_noise.md`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs_page import DOCS, run_example

import thalweg as tw

PAGE = DOCS / "gradient_noise.md"


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert printed.startswith("GradientNoise(tr C ")
    assert "NoiseAlignment(cosine of C and the curvature " in printed
    assert (tmp_path / "noise.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_names_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    fields = {*tw.GradientNoise.__dataclass_fields__, *vars(tw.GradientNoise)}
    for name in ("batch_trace", "batch_trace_without_replacement", "noise_scale_interval", "kurtosis"):
        assert name in fields
        assert f"`{name}`" in page
    of_alignments = {*tw.NoiseAlignment.__dataclass_fields__, *vars(tw.NoiseAlignment)}
    for name in ("noise_along", "angles", "subspace_overlap", "eigenvalues"):
        assert name in of_alignments
        assert f"`{name}`" in page


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
