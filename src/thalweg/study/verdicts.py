"""Claims of a study against its records: supported, refuted or undecided, and on what that hangs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from thalweg.stats.multiplicity import holm
from thalweg.stats.verdicts import Answer, Claim, Judgement, judge
from thalweg.study.claim_cells import Cell, Place, compares_ratios, empty_cell, is_larger_sharper
from thalweg.study.claims import Claim as StudyClaim
from thalweg.study.claims import ContrastClaim, CorrelationClaim, PredictionClaim
from thalweg.study.evidence import Evidence, Value
from thalweg.study.moments import START
from thalweg.study.pair_values import by_network
from thalweg.study.ranked_claims import predicted_cell, ranked_cell
from thalweg.study.spec import StudySpec
from thalweg.study.table import PERFORMANCE

# Runs of a group below which nothing is said at all.
FEWEST_RUNS = 2

# Of relabellings.
SEED = 0


@dataclass(frozen=True)
class Verdict:
    """What the records say of one claim.

    Parameters
    ----------
    claim
        As the study file has it.
    answer
        Of a primary claim corrected by Holm's rule over all of them; of another one, for itself alone.
    p_support, p_refute
        The p-values it rests on, corrected alike.
    cell
        Where the claim stands.
    cells
        The same asked of every measure, in every mode, under every matching rule: exploratory, uncorrected.
    """

    claim: StudyClaim
    answer: Answer
    p_support: float
    p_refute: float
    cell: Cell
    cells: tuple[Cell, ...]


def verdicts(spec: StudySpec, evidence: Evidence) -> list[Verdict]:
    """All claims of a study, in the order of its file."""
    questions = [_question(spec, claim) for claim in spec.claims]
    alike = {q: [c for c, asks in zip(spec.claims, questions, strict=True) if asks == q] for q in questions}
    tables = {question: _table(spec, evidence, claims) for question, claims in alike.items()}
    own = [tables[q][_place(claim)] for q, claim in zip(questions, spec.claims, strict=True)]
    primary = [i for i, claim in enumerate(spec.claims) if claim.primary]
    alpha = 1 - spec.level
    corrected = {
        side: holm([_or_one(getattr(own[i], side)) for i in primary]) if primary else []
        for side in ("p_support", "p_refute")
    }
    found = []
    for i, (claim, cell) in enumerate(zip(spec.claims, own, strict=True)):
        p_support, p_refute, answer = cell.p_support, cell.p_refute, cell.answer
        if claim.primary:
            place = primary.index(i)
            p_support, p_refute = (float(corrected[side][place]) for side in ("p_support", "p_refute"))
            p = {"supported": p_support, "refuted": p_refute, "undecided": 1.0}[answer]
            # In the last digit 1 - 0.95 is not 0.05.
            answer = answer if p <= alpha + 1e-12 else "undecided"
        asked = tuple(c for c in tables[questions[i]].values() if c.values_a or c.missing)
        found.append(Verdict(claim, answer, p_support, p_refute, cell, asked))
    return found


def is_of_all_pairs(spec: StudySpec, measure: str) -> bool:
    """Whether it is measured between every two networks of a setting: each of these then has a value."""
    return measure in spec.pairs and spec.pairs[measure].pairing == "all"


def own_values(spec: StudySpec, evidence: Evidence, claim: ContrastClaim) -> Cell:
    """Where a contrast stands: the values it compares, before any test."""
    return _grouped(spec, evidence, claim, _place(claim))


# What a claim says of itself and where it stands: those that differ in it alone ask the same of all places.
_OWN_FIELDS = {"name", "text", "primary", "measure", "mode", "moment", "matched_loss"}


def _question(spec: StudySpec, claim: StudyClaim) -> str:
    """What a claim asks of all places: cells are costly, and the claims of a study often share them."""
    sense = is_larger_sharper(spec, claim.measure)
    # A margin in the unit of one measure is asked of it alone.
    own = claim.measure if isinstance(claim, ContrastClaim) and claim.scale == "linear" else None
    return repr((claim.model_dump(exclude=_OWN_FIELDS), _alike(spec, claim), sense, own))


def _place(claim: StudyClaim) -> Place:
    return claim.measure, claim.mode, claim.matching


def _table(spec: StudySpec, evidence: Evidence, claims: Sequence[StudyClaim]) -> dict[Place, Cell]:
    """What claims alike ask, of everything it can be asked of; their own places among them."""
    names, rules = _alike(spec, claims[0]), _rules(spec)
    places = [(name, mode, at) for name in names for mode in _modes(spec) for at in rules]
    places = list(dict.fromkeys([*places, *map(_place, claims)]))
    return dict(zip(places, _asked(spec, evidence, claims[0], places), strict=True))


def _alike(spec: StudySpec, claim: StudyClaim) -> list[str]:
    """What the same can be asked of: any measure in place of another, but a performance only of itself.

    A prediction is asked of all its features together, and of each measure alone.
    """
    drops = [name for name, quantity in spec.quantities.items() if not quantity.is_of_runs]
    if isinstance(claim, PredictionClaim):
        return list(dict.fromkeys([claim.measure, *spec.columns, *drops]))
    if claim.measure in PERFORMANCE or (claim.measure in spec.quantities and claim.measure not in drops):
        return [claim.measure]
    if isinstance(claim, CorrelationClaim):
        return [*spec.columns, *drops]
    return [*spec.columns, *drops, *spec.pairs]


def _modes(spec: StudySpec) -> list[str]:
    return list(spec.objective.modes)


def _rules(spec: StudySpec) -> list[str]:
    # What claims alone bring in: the start, if it is no moment of the study, and matched losses.
    others = [c.matching for c in spec.claims if c.matched_loss is not None or c.moment == START]
    return list(dict.fromkeys([*spec.moments, *others]))


def _asked(spec: StudySpec, evidence: Evidence, claim: StudyClaim, places: Sequence[Place]) -> list[Cell]:
    if isinstance(claim, ContrastClaim):
        return _contrasts(spec, evidence, claim, places)
    if isinstance(claim, PredictionClaim):
        return [predicted_cell(spec, evidence, claim, place) for place in places]
    return [ranked_cell(spec, evidence, claim, place) for place in places]


# -- contrasts ----------------------------------------------------------------------------------------


def _contrasts(
    spec: StudySpec, evidence: Evidence, claim: ContrastClaim, places: Sequence[Place]
) -> list[Cell]:
    cells, asked = [], []
    for place in places:
        cell = _grouped(spec, evidence, claim, place)
        cells.append(cell)
        asked.append(None if cell.reason else _claim(claim, cell))
    judged = iter(judge([c for c in asked if c], level=spec.level, correction="none", seed=SEED))
    return [cell if c is None else _judged(cell, next(judged)) for cell, c in zip(cells, asked, strict=True)]


def _grouped(spec: StudySpec, evidence: Evidence, claim: ContrastClaim, place: Place) -> Cell:
    cell = empty_cell(spec, claim, place)
    chosen = [v for v in evidence.values(*place) if all(v.fields.get(k) == w for k, w in claim.where.items())]
    sides = [[v for v in chosen if v.fields.get(claim.by) == group] for group in claim.groups]
    if is_of_all_pairs(spec, place[0]):
        sides = [by_network(side) for side in sides]
    missing = [
        replace(v, reason=v.reason or "the value is infinite")
        for side in sides
        for v in side
        if not math.isfinite(v.value)
    ]
    a, b = ([v for v in side if math.isfinite(v.value)] for side in sides)
    if claim.paired:
        a, b = _paired(claim, a, b)
    log = compares_ratios(spec, claim, place[0])
    cell = replace(cell, values_a=tuple(a), values_b=tuple(b), missing=tuple(missing), is_ratio=log)
    if min(len(a), len(b)) < FEWEST_RUNS:
        names = " and ".join(f"{len(side)} of {g}" for side, g in zip((a, b), claim.groups, strict=True))
        return replace(cell, reason=f"too few runs have a value: {names}; at least two of each are needed")
    if cell.expects == "equivalent" and cell.margin is None:
        return replace(cell, reason=_no_margin(spec, claim, place[0]))
    if log:
        # To leave these out would choose runs by their outcome.
        odd = [v.value for v in (*a, *b) if v.value <= 0]
        if odd:
            return replace(
                cell,
                reason=f"{len(odd)} of {len(a) + len(b)} values are not above nought, the least "
                f'{min(odd):.4g}, and have no ratio; a claim with scale = "linear" compares differences',
            )
    return cell


def _no_margin(spec: StudySpec, claim: ContrastClaim, measure: str) -> str:
    if measure in spec.pairs and claim.scale == "log":
        return f"{measure} may be nought and is compared by differences, of which a factor is no margin"
    return f"the margin is in the unit of {claim.measure}, and says nothing of {measure}"


def _paired(claim: ContrastClaim, a: list[Value], b: list[Value]) -> tuple[list[Value], list[Value]]:
    """Runs of both groups that agree in everything else, in one order."""

    def rest(value: Value) -> tuple[tuple[str, Any], ...]:
        return tuple((k, v) for k, v in value.fields.items() if k != claim.by)

    partners = {rest(value): value for value in b}
    both = [(value, partners[rest(value)]) for value in a if rest(value) in partners]
    return [x for x, _ in both], [y for _, y in both]


def _claim(claim: ContrastClaim, cell: Cell) -> Claim:
    sides = {
        f"{attribute}_{side}": [getattr(v, field) for v in values]
        for side, values in (("a", cell.values_a), ("b", cell.values_b))
        for attribute, field in (("errors", "standard_error"), ("below", "below"), ("above", "above"))
    }
    return Claim(
        [v.value for v in cell.values_a],
        [v.value for v in cell.values_b],
        cell.expects,
        margin=cell.margin,
        ratio=cell.is_ratio,
        paired=claim.paired,
        **sides,
    )


def _judged(cell: Cell, found: Judgement) -> Cell:
    return replace(
        cell,
        answer=found.answer,
        basis=found.basis,
        effect=found.effect,
        low=found.low,
        high=found.high,
        size=found.sample.effect_size,
        size_low=found.sample.effect_low,
        size_high=found.sample.effect_high,
        p_support=found.p_support,
        p_refute=found.p_refute,
        smallest_p=found.smallest_p,
        measurement_share=found.measurement_share,
    )


def _or_one(p: float) -> float:
    return 1.0 if math.isnan(p) else p
