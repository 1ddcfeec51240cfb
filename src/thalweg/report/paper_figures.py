"""The paper's Figures 1 to 4 redrawn from the records, and what they leave unsaid: spread, modes, bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thalweg.report.paper_curves import comparison_figure, paths_figure, slices_figure, training_figure
from thalweg.report.paper_intervals import eigenvalues_figure, sharpness_figure, single_batches_figure
from thalweg.report.paper_layout import PaperFigure
from thalweg.study.paper_evidence import PaperRecords

if TYPE_CHECKING:
    from thalweg.study.store import Record


def paper_figures(records: Sequence[Record]) -> list[PaperFigure]:
    """All figures of the report, in the order shown; 1 to 4 are there even if nothing was measured."""
    study = PaperRecords(records)
    figures = [
        training_figure(study, "A1", "fig1_training_a1", "Figure 1. Training and test curves of A1"),
        training_figure(study, "B", "fig2_training_b", "Figure 2. Training and test curves of B"),
        training_figure(study, "A2", "training_a2", "Training and test curves of A2"),
        comparison_figure(study),
        slices_figure(study),
        paths_figure(study),
        eigenvalues_figure(study),
        sharpness_figure(study),
        single_batches_figure(study),
    ]
    return [f for f in figures if f.draw is not None or f.title.startswith("Figure")]
