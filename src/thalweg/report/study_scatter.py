"""Claims over all runs, run by run: what a measure ranks, and what was predicted against what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thalweg.report import figures as draw
from thalweg.report.page import svg_uri
from thalweg.report.paper_layout import panels
from thalweg.report.study_figures import group_colours, group_field, group_name
from thalweg.study.claim_cells import Cell
from thalweg.study.claims import ContrastClaim, CorrelationClaim, PredictionClaim
from thalweg.study.evidence import Value
from thalweg.study.spec import StudySpec
from thalweg.study.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Beyond the largest finite value, in parts of the axis, where infinite ones are drawn.
BEYOND = 0.08


def run_figure(verdict: Verdict, spec: StudySpec) -> dict[str, str] | None:
    """The runs behind a claim's own cell as a figure, wide and narrow, with its words; None of a contrast."""
    claim, cell = verdict.claim, verdict.cell
    if isinstance(claim, ContrastClaim) or cell.reason:
        return None
    by = group_field(spec)
    colours = {group_name(by, group): colour for group, colour in group_colours(spec).items()}
    groups = [group_name(by, str(v.fields[by])) for v in cell.values_a]
    if isinstance(claim, CorrelationClaim):
        figures = [scatter_figure(claim, cell, groups, colours, narrow) for narrow in (False, True)]
        alt = f"{claim.ranks} of {cell.num_a} runs against {claim.measure}."
        words = f"Every run is a dot, {claim.measure} at {cell.matching} against {claim.ranks}"
        never = sum(not np.isfinite(v.value) for v in cell.values_b)
        nought = int(_places(cell.values_b)[1].sum()) - never
        edge = [f"{never} without a finite {claim.ranks}"] if never else []
        edge += [f"{nought} of a {claim.ranks} of nought"] if nought else []
        words += f"; triangles at the edge: {', '.join(edge)}." if edge else "."
    else:
        found = cell.prediction
        assert found is not None
        figures = [prediction_figure(claim, cell, groups, colours, narrow) for narrow in (False, True)]
        settings = found.num_configurations
        errors = f"{found.baseline_error:.3f} from the hyperparameters alone, {found.error:.3f} with features"
        alt = f"{claim.outcome} of left-out settings against its prediction; errors: {errors}."
        words = (
            f"Every run is a dot: its quantile of {claim.outcome} among the runs of the other {settings - 1} "
            f"settings, against what these foretold. Root mean squared errors: {errors}; "
            f"{found.constant_error:.3f} without either, by the middle."
        )
    wide, narrow = (svg_uri(draw.figure_bytes(figure, ".svg")) for figure in figures)
    return {"wide": wide, "narrow": narrow, "alt": alt, "words": words}


def scatter_figure(
    claim: CorrelationClaim, cell: Cell, groups: Sequence[str], colours: Mapping[str, str], narrow: bool
) -> Figure:
    """The measure against what it is to rank; what has no place on an axis as triangles at its edge."""
    with draw.house_style():
        figure, grid = panels(1, 1, narrow, height=3.2)
        axes = grid[0, 0]
        x, x_open, x_log = _places(cell.values_a)
        y, y_open, y_log = _places(cell.values_b)
        for group in dict.fromkeys(groups):
            mine = np.array([g == group for g in groups])
            for is_open, marker in ((False, "o"), (True, "^")):
                rows = mine & ((x_open | y_open) == is_open)
                axes.scatter(
                    x[rows], y[rows], s=18, marker=marker, alpha=0.7, color=_colour(colours, group), lw=0
                )
        _legend(axes, groups, colours)
        if x_log:
            axes.set_xscale("log")
        if y_log:
            axes.set_yscale("log")
        axes.set_xlabel(f"{claim.measure} at {cell.matching}")
        axes.set_ylabel(claim.ranks)
    return figure


def prediction_figure(
    claim: PredictionClaim, cell: Cell, groups: Sequence[str], colours: Mapping[str, str], narrow: bool
) -> Figure:
    """Outcomes of left-out settings against predictions: by the hyperparameters alone, then with features."""
    found = cell.prediction
    assert found is not None
    beside = "hyperparameters and features" if claim.beside else "features alone"
    sides = [
        ("hyperparameters alone", found.baseline_predictions, found.baseline_error),
        (beside, found.predictions, found.error),
    ]
    with draw.house_style():
        figure, grid = panels(1, 2, narrow, height=3.2)
        for axes, (name, predicted, error) in zip(grid[0], sides, strict=True):
            axes.plot([0, 1], [0, 1], color=draw.GREY, lw=0.8, zorder=0)
            for group in dict.fromkeys(groups):
                mine = np.array([g == group for g in groups])
                axes.scatter(
                    predicted[mine],
                    found.outcomes[mine],
                    s=18,
                    alpha=0.7,
                    color=_colour(colours, group),
                    lw=0,
                )
            axes.set_title(f"{name}: error {error:.3f}", fontsize=9)
            axes.set_xlabel("predicted quantile")
            axes.set_ylabel(f"quantile of {claim.outcome}")
        _legend(grid[0, 0], groups, colours)
    return figure


def _places(values: Sequence[Value]) -> tuple[NDArray[np.float64], NDArray[np.bool_], bool]:
    """Where values are drawn, which of them stand at an edge, and whether the axis is logarithmic.

    Infinite ones stand at an edge, and on a logarithmic axis noughts, as of a temperature without noise.
    """
    x = np.array([v.value for v in values])
    finite = x[np.isfinite(x)]
    above = finite[finite > 0]
    is_log = bool(len(above)) and finite.min() >= 0 and above.max() / above.min() > draw.LOG_RATIO
    shown = above if is_log else finite
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
    if is_log:
        step = max((high / low) ** BEYOND, 1.1)
        edges = low / step, high * step
    else:
        step = BEYOND * ((high - low) or abs(high) or 1.0)
        edges = low - step, high + step
    is_open = ~np.isfinite(x) | (is_log & (x == 0))
    return np.where(is_open, np.where(x > 0, edges[1], edges[0]), x), is_open, is_log


def _colour(colours: Mapping[str, str], group: str) -> str:
    return colours.get(group, draw.GREY)


def _legend(axes: Axes, groups: Sequence[str], colours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    marks: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 5}
    names = list(dict.fromkeys(groups))
    if len(names) > 1:
        axes.legend(
            handles=[Line2D([], [], color=_colour(colours, g), label=g, **marks) for g in names], fontsize=8
        )
