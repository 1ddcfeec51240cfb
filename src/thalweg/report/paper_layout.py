"""What the paper's figures have in common: their words, their names for things, their grids of panels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thalweg.report import figures as draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODE_NAMES = {"running": "running statistics", "recalibrated": "recalibrated", "batch": "batch statistics"}
MODEL_NAMES = {
    "A1": "A1 (batch norm, seed 1)",
    "A2": "A2 (batch norm, seed 2)",
    "B": "B (no batch norm, seed 3)",
}

# Inches; a page shows the narrow drawing, with its panels in one column, on small screens.
WIDE, NARROW = 9.0, 3.7


@dataclass(frozen=True)
class PaperFigure:
    """One figure: how to draw it (wide or narrow) and the words that go with it.

    `draw` takes ``narrow`` and is ``None`` where the study holds nothing to draw.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[bool], Figure] | None = None


def panels(rows: int, columns: int, narrow: bool, *, height: float) -> tuple[Figure, np.ndarray]:
    """A grid (rows, columns) of panels `height` inches high; narrow, the same panels in one column."""
    if not narrow:
        return draw.new_figure(rows, columns, width=WIDE, height=height * rows + 0.2)
    figure, axes = draw.new_figure(rows * columns, 1, width=NARROW, height=height * rows * columns)
    return figure, axes.reshape(rows, columns)
