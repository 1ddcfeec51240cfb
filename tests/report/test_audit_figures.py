"""The audit as a picture and as text: every cell says its verdict, its change and its claim."""

from __future__ import annotations

import pytest
import torch

from thalweg.analyses.audit_result import InvarianceAudit
from thalweg.report.audit_figures import FILLS
from thalweg.report.audit_text import LEGEND, audit_rows, cell_text
from thalweg.report.plot import plot


@pytest.fixture
def audit() -> InvarianceAudit:
    """Made up: every verdict, a claim kept and a claim broken."""

    def budget(error: float | None = None) -> dict:
        probe = None if error is None else {"value": error, "dof": "inf"}
        return {"solver": None, "probe": probe, "data": None}

    return InvarianceAudit(
        value=0.0,
        provenance={"objective": {"batch_norm": "running", "num_examples": 21}},
        members=("trace", "sam_sharpness", "width"),
        transformations=("relu_rescaling", "permutation"),
        places={"relu_rescaling": ("0.weight: 6 units",), "permutation": ("0.weight: 6 units",)},
        refused={"query_key": "no attention"},
        dropped={},
        output_changes=torch.zeros(2, dtype=torch.float64),
        loss_changes=torch.zeros(2, dtype=torch.float64),
        proof_dtype="float64",
        proof_tolerance=2e-10,
        rounded_changes=torch.zeros(2, dtype=torch.float64),
        before=torch.tensor([2.0, 0.1, torch.nan], dtype=torch.float64),
        after=torch.tensor([[1.0, 2.1], [0.3, 0.1], [torch.nan] * 2], dtype=torch.float64),
        errors=((budget(), budget(), budget(0.4)), (budget(),) * 3, (budget(),) * 3),
        bounds=torch.full((3, 3, 2), torch.nan, dtype=torch.float64),
        verdicts=(("moved", "undecided"), ("moved", "not moved"), ("failed", "failed")),
        claims=((True, False), (False, True), (False, False)),
        failures={"width": "the loss never rises"},
        resolution=0.25,
        rounding=1e-3,
        thresholds=torch.full((2,), 1e-3, dtype=torch.float64),
    )


def test_rows_of_text(audit):
    assert [row.cells for row in audit_rows(audit)] == [
        ("≠ −50 % !", "? +5.0 ± 39 %"),
        ("≠ +200 %", "= 0 % *"),
        ("×", "×"),
    ]
    assert all(sign in LEGEND for sign in "≠=?×*!")
    assert cell_text(audit.cell("trace", "relu_rescaling")) == "≠ −50 % !"


def test_every_cell_is_in_the_picture(audit):
    figure = plot(audit)
    (axes,) = figure.axes
    texts = [(round(t.get_position()[0]), t.get_position()[1], t.get_text()) for t in axes.texts]
    signs = {(x, y): text for x, y, text in texts if text in ("≠", "=", "?", "×")}
    assert signs == {(0, 0): "≠", (1, 0): "?", (0, 1): "≠", (1, 1): "=", (0, 2): "×", (1, 2): "×"}
    assert {text for _, _, text in texts} >= {"−50 %", "+5.0 ± 39 %", "+200 %", "0 %", "!", "*"}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["relu rescaling", "permutation"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["trace", "sam sharpness", "width"]
    assert "in spite of the claim" in axes.get_xlabel()
    assert figure.get_suptitle() == "N = 21, batch norm: running"
    outlined = [p for p in axes.patches if not p.get_fill() and p.get_linestyle() == "solid"]
    assert [p.get_xy() for p in outlined] == [(-0.47, -0.44)], "the broken claim stands out"


def test_shades_are_told_apart_without_colour():
    from matplotlib.colors import to_rgb

    def grey(fill: str, alpha: float) -> float:
        r, g, b = (alpha * c + 1 - alpha for c in to_rgb(fill))
        return 0.299 * r + 0.587 * g + 0.114 * b

    shades = {verdict: grey(*fill) for verdict, fill in FILLS.items()}
    assert shades["not moved"] - shades["moved"] > 0.2
    assert shades["undecided"] == pytest.approx(1.0)
