"""The paper's numbers beside ours in every batch-norm mode, and what it leaves open beside our choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.report.tables import MINUS, Cell, format_budget, format_interval, format_number
from thalweg.study.paper_claims import (
    Number,
    accuracy_on_test_data,
    eigenvalue_number,
    one_step,
    several_steps,
)
from thalweg.study.paper_evidence import (
    BATCH_NORM_MODELS,
    MODELS,
    MODES,
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


@dataclass(frozen=True)
class Choice:
    """Something the paper leaves open: what was chosen, and what the records say of the alternatives."""

    question: str
    paper: str
    ours: str
    alternatives: tuple[str, ...]


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


def _data_words(record: Record) -> str:
    n = num_examples_of(record)
    return f"{n:,} examples" if n else ""


def _eigenvalue_cell(record: Record) -> Cell:
    number = eigenvalue_number(record)
    return Cell(
        format_number(number.value, (number.high - number.low) / 2),
        format_interval(number.low, number.high),
        format_budget(record.measurement.error, _data_words(record)),
    )


def _plain_cell(record: Record) -> Cell:
    result = record.measurement
    low, high = result.interval(0.95)
    return Cell(
        format_number(result.value, (high - low) / 2),
        format_interval(low, high),
        format_budget(result.error, _data_words(record)),
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
    )
    note = "In loss / parameter². The interval runs from the solver’s lower to its upper bound."
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
        for size in _batch_sizes(study):

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
        f"Perturbation sharpness{_radius_words(study)}",
        note,
        _with_nearest(rows),
    )


def _batch_sizes(study: PaperRecords) -> list[int]:
    return sorted({_fields(r).batch_size for r in study.all("sam_sharpness_spread")})


def _radius_words(study: PaperRecords) -> str:
    radii = sorted({_fields(r).radius for r in study.all("sam_sharpness")})
    return f", radius {', '.join(f'{x:g}' for x in radii)}" if radii else ""


def _ascent_words(record: Record | None) -> str:
    if record is None:
        return ""
    steps, restarts = _fields(record).num_steps, _fields(record).num_restarts
    if steps == 1:
        return "one step along the gradient"
    return f"{steps} steps, best of {restarts} start{'s' if restarts != 1 else ''}"


def _ascent_cell(record: Record) -> Cell:
    cell = _plain_cell(record)
    # Nothing bounds the maximum from above, so its solver is not exact, whatever the budget leaves out.
    budget = format_budget(record.measurement.error, _data_words(record), "from below only")
    return replace(cell, budget=budget)


def _spread_cell(record: Record) -> Cell:
    cell = _plain_cell(record)
    samples = torch.as_tensor(_fields(record).samples).double()
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
    budget = format_budget(ErrorBudget(data=data))
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


def choices(records: Sequence[Record]) -> list[Choice]:
    """What the paper leaves open, each with our choice and what the records say of the alternatives."""
    study = PaperRecords(records)
    batch_words = " and ".join(map(str, _batch_sizes(study)))
    return [
        Choice(
            "Which function does a batch-norm network stand for when it is measured?",
            "Not stated: running statistics, statistics of the batch, or recomputed ones.",
            "All three, side by side; running statistics where one is needed.",
            (
                *_by_mode(study, "λmax", "top_eigenvalues", {}),
                *_by_mode(study, "S", "sam_sharpness", {"num_steps": one_step}),
            ),
        ),
        Choice(
            "What steps does the learning rate take?",
            "“StepLR”, without its step and factor.",
            "Step 2, factor 0.5: halved every second epoch.",
            _learning_rates(study),
        ),
        Choice(
            "What is the radius ε of the perturbation?",
            "Not stated.",
            "0.05 in the Euclidean norm of all parameters together, which puts S(B) near the paper’s value.",
            _against_paper(study, PLAIN_MODEL),
        ),
        Choice(
            "How is the maximum over the ball found?",
            "“SAM-style”, which is one step along the gradient; its formula says maximum.",
            "Both: one step, and the best of several restarts of a projected ascent. Both are lower bounds.",
            _by_steps(study),
        ),
        Choice(
            "On which examples were the eigenvalue and S measured?",
            "Not stated: all the training data, a subset, or one batch.",
            "The training data, as many as the tables name; S also on single batches, one at a time.",
            _by_data(study, batch_words),
        ),
        Choice(
            "Which matrix has the top eigenvalue?",
            "“Hessian”; neither whether it was exact nor the solver or its tolerance.",
            "The exact Hessian of the mean loss over those examples, by Lanczos with full "
            "reorthogonalisation, stopped on the residual and reported with its bounds.",
            (),
        ),
        Choice(
            "How are the slice’s direction, span and data chosen?",
            "“A random direction”, no normalisation or span stated.",
            _slice_words(study),
            _by_normalisation(study),
        ),
        Choice(
            "What does a seed set?",
            "“seed = 1”, 2 and 3: initialisation, data order or both.",
            "Both, from two streams that share no numbers. A1 and B differ in seed as well as in batch "
            "norm, as in the paper.",
            (),
        ),
        Choice(
            "What does “normalized to (0.5, 0.5)” mean?",
            "Not spelt out.",
            "Mean 0.5 and standard deviation 0.5 are taken off pixels in [0, 1], which puts them in [−1, 1].",
            (),
        ),
        Choice(
            "Where do kernels, batch norm and pooling sit?",
            "Two convolutions (32, 64), ReLU, MaxPool(2), dense layer of 128.",
            "3 × 3 kernels with padding 1; batch norm after each convolution, then ReLU, then pooling; no "
            "batch norm after the dense layer; PyTorch’s default initialisation; no weight decay, no "
            "augmentation.",
            (),
        ),
    ]


def _fields(record: Record) -> Any:
    return record.measurement


def _by_mode(study: PaperRecords, symbol: str, measure: str, wanted: dict[str, Any]) -> tuple[str, ...]:
    lines = []
    for model in BATCH_NORM_MODELS:
        found = [(mode, study.find(measure, model, mode, **wanted)) for mode in MODES]
        each = [f"{mode} {format_number(r.measurement.value)}" for mode, r in found if r]
        if each:
            lines.append(f"{symbol}({model}): {', '.join(each)}{_paper_aside(measure, model)}")
    return tuple(lines)


def _paper_aside(measure: str, model: str) -> str:
    value = paper_value(measure, model)
    return "" if value is None else f" (paper {value:g})"


def _learning_rates(study: PaperRecords) -> tuple[str, ...]:
    record = study.find("train", BATCH_NORM_MODELS[0])
    if record is None:
        return ()
    rates = [f"{float(rate):g}" for rate in _fields(record).learning_rate[1:]]
    return (f"As trained, epoch by epoch: {', '.join(rates)}",) if rates else ()


def _against_paper(study: PaperRecords, model: str) -> tuple[str, ...]:
    record = study.find("sam_sharpness", model, num_steps=one_step)
    if record is None:
        return ()
    return (
        f"S({model}), one step: "
        f"{format_number(record.measurement.value)}{_paper_aside('sam_sharpness', model)}",
    )


def _by_steps(study: PaperRecords) -> tuple[str, ...]:
    lines = []
    for model in MODELS:
        each = []
        for mode in MODES if model != PLAIN_MODEL else MODES[:1]:
            one = study.find("sam_sharpness", model, mode, num_steps=one_step)
            several = study.find("sam_sharpness", model, mode, num_steps=several_steps)
            if one and several:
                where = f"{mode} " if model != PLAIN_MODEL else ""
                values = [format_number(r.measurement.value) for r in (one, several)]
                each.append(f"{where}{values[0]} → {values[1]}")
        if each:
            lines.append(f"S({model}), one step → several: {', '.join(each)}")
    return tuple(lines)


def _by_data(study: PaperRecords, batch_words: str) -> tuple[str, ...]:
    lines = []
    for model in MODELS:
        found = study.all("top_eigenvalues", model, MODES[0])
        sizes = {n: format_number(r.measurement.value) for r in found if (n := num_examples_of(r))}
        if len(sizes) > 1:
            each = ", ".join(f"{value} on {n:,}" for n, value in sorted(sizes.items()))
            lines.append(f"λmax({model}), running: {each}")
    for model in MODELS:
        whole = study.find("sam_sharpness", model, MODES[0], num_steps=one_step)
        if whole is None:
            continue
        words = [f"{format_number(whole.measurement.value)} on {_data_words(whole) or 'the data'}"]
        for size in _batch_sizes(study):
            spread = study.find("sam_sharpness_spread", model, MODES[0], batch_size=size)
            if spread:
                samples = torch.as_tensor(_fields(spread).samples).double()
                words.append(
                    f"{format_number(float(samples.min()))} to {format_number(float(samples.max()))} on "
                    f"batches of {size}"
                )
        if len(words) > 1:
            where = MODES[0] if model != PLAIN_MODEL else "no batch norm"
            lines.append(f"S({model}), {where}: {'; '.join(words)}")
    return tuple(lines)


def _slice_words(study: PaperRecords) -> str:
    found = study.all("line_slice")
    if not found:
        return "Filter-normalised Gaussian directions; not measured in this run."
    result = _fields(found[0])
    span = f"α from {float(result.alphas[0]):g} to {float(result.alphas[-1]):g}".replace("-", MINUS)
    n = num_examples_of(found[0])
    over = f", on {n:,} examples" if n else ""
    return (
        f"{result.num_directions} Gaussian directions, filter-normalised, {span} at {len(result.alphas)} "
        f"points{over}; a band shows how much the direction matters."
    )


def _by_normalisation(study: PaperRecords) -> tuple[str, ...]:
    lines = []
    for normalisation in ("filter", "raw"):
        each = []
        for model in (BATCH_NORM_MODELS[0], PLAIN_MODEL):
            record = study.find("line_slice", model, MODES[0], normalisation=normalisation)
            if record:
                rise = (float(_fields(record).losses[0]) + float(_fields(record).losses[-1])) / 2
                each.append(f"{model} {format_number(rise)}")
        if each:
            lines.append(f"Mean loss at the ends, {normalisation}, running: {', '.join(each)}")
    return tuple(lines)
