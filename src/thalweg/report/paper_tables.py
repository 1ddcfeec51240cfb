"""The paper's numbers beside ours, in every batch-norm mode and with their error budgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.objective.batch_norm import MODES
from thalweg.report.tables import Cell, format_budget, format_interval, format_number
from thalweg.study.paper_claims import (
    Number,
    accuracy_on_test_data,
    eigenvalue_number,
    one_step,
    several_steps,
)
from thalweg.study.paper_evidence import (
    MODELS,
    PLAIN_MODEL,
    PaperRecords,
    num_examples_of,
    paper_value,
)

if TYPE_CHECKING:
    from thalweg.study.store import Record

FIGURE_ONLY = "figure only"
NOT_GIVEN = "not given"


@dataclass(frozen=True)
class Row:
    """One quantity of one network: the paper's value and ours in each mode, or in one for a plain network."""

    label: str
    detail: str
    paper: str
    cells: tuple[Cell | None, ...]
    plain: bool = False

    @property
    def given(self) -> bool:
        """Whether the paper prints a number."""
        return self.paper not in (FIGURE_ONLY, NOT_GIVEN)


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    title: str
    note: str
    rows: tuple[Row, ...]


def headline(records: Sequence[Record]) -> list[Group]:
    """Every number the paper prints or draws, and ours; groups that nothing was measured for are left out."""
    study = PaperRecords(records)
    groups = [_eigenvalues(study), _sharpness(study), _accuracies(study), _barriers(study)]
    return [g for g in groups if any(any(row.cells) for row in g.rows)]


def _row(
    study: PaperRecords,
    label: str,
    detail: str,
    model: str,
    cell: Callable[[Record], Cell],
    find: Callable[[str], Record | None],
    paper: tuple[str, float | None],
) -> Row:
    text, value = paper
    plain = model == PLAIN_MODEL
    found = [find(mode) for mode in (MODES[:1] if plain else MODES)]
    cells = []
    for record in found:
        made = cell(record) if record else None
        if made and record and value is not None:
            made = replace(made, ratio=record.measurement.value / value)
        cells.append(made)
    return Row(label, detail, text, tuple(cells), plain)


def _paper(measure: str, model: str) -> tuple[str, float | None]:
    value = paper_value(measure, model)
    return (NOT_GIVEN, None) if value is None else (f"{value:g}", value)


def data_words(record: Record) -> str:
    """How many examples a record is about, in words."""
    return f"{num_examples_of(record):,} examples"


def _eigenvalue_cell(record: Record) -> Cell:
    number = eigenvalue_number(record)
    return Cell(
        format_number(number.value, number.known_to),
        format_interval(number.low, number.high),
        format_budget(record.measurement.error, data_words(record)),
    )


def _plain_cell(record: Record) -> Cell:
    result = record.measurement
    low, high = result.interval(0.95)
    return Cell(
        format_number(result.value, (high - low) / 2),
        format_interval(low, high),
        format_budget(result.error, data_words(record)),
    )


def _eigenvalues(study: PaperRecords) -> Group:
    rows = tuple(
        _row(
            study,
            f"λmax({model})",
            "full Hessian, training data",
            model,
            _eigenvalue_cell,
            lambda mode, model=model: study.find("top_eigenvalues", model, mode),
            _paper("top_eigenvalues", model),
        )
        for model in MODELS
        if paper_value("top_eigenvalues", model) or study.find("top_eigenvalues", model)
    )
    note = "In loss / parameter². The interval runs from the lower to the upper bound."
    return Group("Top eigenvalue of the loss Hessian", note, _with_nearest(rows))


def _sharpness(study: PaperRecords) -> Group:
    rows: list[Row] = []
    for model in MODELS:
        for wanted in (one_step, several_steps):

            def find(mode: str, model: str = model, wanted: Callable[[int], bool] = wanted) -> Record | None:
                return study.find("sam_sharpness", model, mode, num_steps=wanted)

            detail = _ascent_words(next((r for mode in MODES if (r := find(mode))), None))
            if detail:
                paper = _paper("sam_sharpness", model)
                rows.append(_row(study, f"S({model})", detail, model, _ascent_cell, find, paper))
        for size in batch_sizes(study):

            def find_spread(mode: str, model: str = model, size: int = size) -> Record | None:
                return study.find("sam_sharpness_spread", model, mode, batch_size=size)

            if any(find_spread(mode) for mode in MODES):
                detail = f"single batches of {size}: mean"
                paper = _paper("sam_sharpness", model)
                rows.append(_row(study, f"S({model})", detail, model, _spread_cell, find_spread, paper))
    note = (
        "In nats. What an ascent within the ball found, which is a lower bound on the maximum: nothing "
        "here bounds it from above. A mean over single batches exceeds S of all the data, since each "
        "batch has its own perturbation."
    )
    return Group(
        f"Perturbation sharpness, radius {ascent_radius(study) or 0:g}",
        note,
        _with_nearest(rows),
    )


def batch_sizes(study: PaperRecords) -> list[int]:
    """Sizes of the single batches that S was measured on, ascending."""
    return sorted({fields(r).batch_size for r in study.all("sam_sharpness_spread")})


def ascent_radius(study: PaperRecords) -> float | None:
    """Radius of the ball of the ascents, or ``None`` if there were none."""
    return next((fields(r).radius for r in study.all("sam_sharpness")), None)


def _ascent_words(record: Record | None) -> str:
    if record is None:
        return ""
    steps, restarts = fields(record).num_steps, fields(record).num_restarts
    if steps == 1:
        return "one step along the gradient"
    return f"{steps} steps, best of {restarts} start{'s' if restarts != 1 else ''}"


def _ascent_cell(record: Record) -> Cell:
    cell = _plain_cell(record)
    # Nothing bounds the maximum from above, so its solver is not exact, whatever the budget leaves out.
    budget = format_budget(record.measurement.error, data_words(record), "from below only")
    return replace(cell, budget=budget)


def _spread_cell(record: Record) -> Cell:
    cell = _plain_cell(record)
    samples = torch.as_tensor(fields(record).samples).double()
    low, high = (float(torch.quantile(samples, q)) for q in (0.05, 0.95))
    width = (high - low) / 4
    spread = f"single batches, 5 to 95 %: {format_number(low, width)} to {format_number(high, width)}"
    budget = format_budget(record.measurement.error, solver="from below only")
    return replace(cell, budget=f"{spread} · {budget}")


def _accuracies(study: PaperRecords) -> Group:
    rows = []
    for model in MODELS:
        plain = model == PLAIN_MODEL
        found = [accuracy_on_test_data(study, model, mode) for mode in (MODES[:1] if plain else MODES)]
        cells = tuple(number and _accuracy_cell(number) for number in found)
        rows.append(Row(f"accuracy({model})", "after the last epoch", FIGURE_ONLY, cells, plain))
    note = "Share of the test examples classified correctly, with the binomial interval for images like them."
    return Group("Test accuracy", note, tuple(rows))


def _accuracy_cell(number: Number) -> Cell:
    half = (number.high - number.low) / 2
    data = StandardError(half / StandardError(1.0).half_width(0.95)) if half else None
    budget = format_budget(ErrorBudget(data=data)) + (f", {number.note}" if number.note else "")
    return Cell(format_number(number.value, half), format_interval(number.low, number.high), budget)


def _barriers(study: PaperRecords) -> Group:
    rows = []
    for split, words in (("train", "training data"), ("test", "test data")):

        def find(mode: str, split: str = split) -> Record | None:
            return study.find("linear_path", "A1-A2", mode, split=split)

        rows.append(_row(study, "barrier(A1, A2)", words, "A1-A2", _plain_cell, find, (FIGURE_ONLY, None)))
    note = "In nats: the maximum over the straight line of the loss minus the chord between its ends."
    return Group("Loss barrier between A1 and A2", note, tuple(rows))


def _with_nearest(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Mark, for each label with several numbers beside the paper's, the one that comes nearest to it."""
    nearest: dict[str, tuple[float, int, int]] = {}
    count: Counter[str] = Counter()
    for i, row in enumerate(rows):
        for j, cell in enumerate(row.cells):
            if cell and cell.ratio is not None:
                count[row.label] += 1
                place = (abs(cell.ratio - 1), i, j)
                nearest[row.label] = min(place, nearest.get(row.label, place))
    chosen = {(i, j) for label, (_, i, j) in nearest.items() if count[label] > 1}
    return tuple(
        replace(
            row,
            cells=tuple(cell and replace(cell, nearest=(i, j) in chosen) for j, cell in enumerate(row.cells)),
        )
        for i, row in enumerate(rows)
    )


def fields(record: Record) -> Any:
    """The result of a record, whose fields its `measure` determines."""
    return record.measurement
