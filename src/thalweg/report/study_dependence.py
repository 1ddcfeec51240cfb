"""On what a claim of a study hangs: its answer by measure, batch-norm mode and matching rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from thalweg.report.order_tables import format_p
from thalweg.report.study_words import (
    STATES,
    caveats,
    claim_words,
    effect_name,
    effect_text,
    runs_text,
    state_of,
)
from thalweg.report.tables import format_number
from thalweg.stats.power import runs_to_decide
from thalweg.study.claims import ContrastClaim
from thalweg.study.spec import StudySpec
from thalweg.study.verdicts import Cell, Verdict, is_of_all_pairs

# What measuring adds to an error, or takes from a coefficient, in parts of it.
WORTH_SAYING = 0.1


@dataclass(frozen=True)
class ShownCell:
    """One cell: its answer, effect and interval, and what the full list of numbers adds.

    Parameters
    ----------
    measure, mode, at
        Where it stands; `at` is the matching rule.
    state
        One of `thalweg.report.study_words.STATES`.
    effect, interval
        Empty without one.
    is_own
        Whether the claim itself is this cell.
    is_same
        Whether it is refuted by the two being the same within the margin.
    claim, what, p_support, p_refute, size, runs, note
        What is claimed there, of what the effect is, and the rest as text.
    """

    measure: str
    mode: str
    at: str
    state: str
    effect: str
    interval: str
    is_own: bool
    is_same: bool
    claim: str
    what: str
    p_support: str
    p_refute: str
    size: str
    runs: str
    note: str


@dataclass(frozen=True)
class MeasureRows:
    """The cells of one measure: a row for each matching rule, in it a cell, or none, for each mode.

    `claim` is what is claimed of this measure, turned round from the study file's words if `is_turned`;
    `what` is of what its effects are; `note` says how networks were paired, where they were.
    """

    measure: str
    is_normalised: bool
    claim: str
    what: str
    is_turned: bool
    note: str
    rows: tuple[tuple[str, tuple[ShownCell | None, ...]], ...]


@dataclass(frozen=True)
class Hinge:
    """How the answer changes where one thing alone changes.

    Parameters
    ----------
    name
        What changes.
    answers
        Of each state the names that have it, in the order of `STATES`.
    is_opposed
        Whether it is supported with one and refuted with another.
    """

    name: str
    answers: tuple[tuple[str, tuple[str, ...]], ...]
    is_opposed: bool


@dataclass(frozen=True)
class Dependence:
    """Everything the records say of one claim."""

    modes: tuple[str, ...]
    measures: tuple[MeasureRows, ...]
    hinges: tuple[Hinge, ...]
    tally: tuple[tuple[str, int], ...]

    @property
    def cells(self) -> list[ShownCell]:
        """All of them, row by row."""
        return [c for m in self.measures for _, row in m.rows for c in row if c]

    @property
    def has_sizes(self) -> bool:
        """Whether any has Hedges' g."""
        return any(cell.size for cell in self.cells)

    @property
    def num_cells(self) -> int:
        """How many."""
        return sum(n for _, n in self.tally)


def dependence(verdict: Verdict, spec: StudySpec) -> Dependence:
    """The cells of a verdict in order, and on which of the three its answer hangs."""
    modes = spec.objective.modes
    by_place = {(c.measure, c.mode, c.matching): c for c in verdict.cells}
    rules = list(dict.fromkeys(c.matching for c in verdict.cells))
    shown = tuple(mode for mode in modes if any(c.mode == mode for c in verdict.cells))
    measures = []
    for measure in dict.fromkeys(c.measure for c in verdict.cells):
        rows = []
        for at in rules:
            cells = [by_place.get((measure, mode, at)) for mode in shown]
            if any(cells):
                rows.append((at, tuple(_shown(c, verdict) if c else None for c in cells)))
        first = next(c for c in verdict.cells if c.measure == measure)
        judged = next((c for c in verdict.cells if c.measure == measure and not c.reason), first)
        words = claim_words(verdict.claim, first.expects, measure)
        what = effect_name(verdict.claim, judged.is_ratio)
        turned = first.expects != verdict.claim.expect
        note = _pairing(judged, spec, verdict)
        measures.append(MeasureRows(measure, first.is_normalised, words, what, turned, note, tuple(rows)))
    counts = Counter(state_of(c) for c in verdict.cells)
    tally = tuple((state, counts[state]) for state in STATES if counts[state])
    return Dependence(shown, tuple(measures), tuple(_hinges(verdict)), tally)


def _pairing(cell: Cell, spec: StudySpec, verdict: Verdict) -> str:
    """How the networks were paired, and whether so many pairs can decide anything."""
    if cell.measure not in spec.pairs or not isinstance(verdict.claim, ContrastClaim):
        return ""
    if is_of_all_pairs(spec, cell.measure):
        return "mean over all pairs of networks, its error by the jackknife over networks: approximate"
    if spec.pairs[cell.measure].across != "seed":
        return ""
    if cell.reason or cell.smallest_p <= 1 - spec.level + 1e-12:  # in the last digit 1 - 0.95 is not 0.05
        return "disjoint pairs of networks"
    needed = 2 * runs_to_decide(paired=verdict.claim.paired, level=spec.level)
    runs = runs_text(cell, verdict.claim)
    return (
        f"disjoint pairs of networks: {runs} cannot go below p = {cell.smallest_p:.2g}, which takes {needed} "
        "seeds of each, or all pairs"
    )


def _hinges(verdict: Verdict) -> list[Hinge]:
    own = verdict.cell

    def beside(attribute: str, cells: Iterable[Cell]) -> list[Cell]:
        rest = {"measure", "mode", "matching"} - {attribute}
        return [c for c in cells if all(getattr(c, k) == getattr(own, k) for k in rest)]

    by_measure = beside("measure", verdict.cells)
    raw, normalised = ([c for c in by_measure if c.is_normalised is kind] for kind in (False, True))
    asked = [
        ("Batch-norm mode", "mode", beside("mode", verdict.cells)),
        ("Matching rule", "matching", beside("matching", verdict.cells)),
        ("Raw measure" if normalised else "Measure", "measure", raw),
        ("Normalised measure", "measure", normalised),
    ]
    return [_hinge(name, attribute, cells) for name, attribute, cells in asked if cells]


def _hinge(name: str, attribute: str, cells: Sequence[Cell]) -> Hinge:
    of = {state: tuple(getattr(c, attribute) for c in cells if state_of(c) == state) for state in STATES}
    opposed = bool(of["supported"] and of["refuted"])
    return Hinge(name, tuple((state, names) for state, names in of.items() if names), opposed)


def _shown(cell: Cell, verdict: Verdict) -> ShownCell:
    claim = verdict.claim
    effect, interval = effect_text(cell)
    is_own = (cell.measure, cell.mode, cell.matching) == (claim.measure, claim.mode, claim.matching)
    return ShownCell(
        measure=cell.measure,
        mode=cell.mode,
        at=cell.matching,
        state=state_of(cell),
        effect=effect,
        interval=interval,
        is_own=is_own,
        is_same=state_of(cell) == "refuted" and cell.basis == "equivalent",
        claim=claim_words(claim, cell.expects, cell.measure),
        what=effect_name(claim, cell.is_ratio),
        p_support=_p(cell.p_support),
        p_refute=_p(cell.p_refute),
        size="" if cell.size != cell.size else format_number(cell.size, 0.1),
        runs=runs_text(cell, claim),
        note="; ".join(filter(None, [cell.reason, *caveats(cell), *_beside(cell)])),
    )


def _beside(cell: Cell) -> Iterator[str]:
    """What else there is to say of an effect: along single hyperparameters, and what measuring does to it."""
    if len(cell.along) > 1:
        yield "τ along " + ", ".join(f"{name} {format_number(tau, 0.1)}" for name, tau in cell.along)
    if cell.measurement_share >= WORTH_SAYING:
        yield f"{100 * cell.measurement_share:.0f} % of the squared error is of measuring"
    if abs(cell.measurement_loss) >= WORTH_SAYING * abs(cell.effect):
        yield f"errors of measuring have taken {format_number(cell.measurement_loss, 0.1)} of τ"


def _p(p: float) -> str:
    return "" if p != p else format_p(p)
