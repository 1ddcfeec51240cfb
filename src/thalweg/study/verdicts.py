"""Claims of a study against its records: supported, refuted or undecided, and on what that hangs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from thalweg.stats.multiplicity import holm
from thalweg.stats.partial_correlation import partial_correlation
from thalweg.stats.rank_correlation import rank_correlation
from thalweg.stats.verdicts import Answer, Claim, Judgement, judge
from thalweg.study.evidence import Evidence, Value
from thalweg.study.pair_values import by_network
from thalweg.study.spec import ContrastClaim, CorrelationClaim, StudySpec
from thalweg.study.table import PERFORMANCE

OPPOSITE = {"larger": "smaller", "smaller": "larger", "equivalent": "equivalent"}

# Runs of a group, and of a correlation, below which nothing is said at all.
FEWEST_RUNS = 2
FEWEST_RANKED = 4

# Of relabellings and resamples.
SEED = 0


@dataclass(frozen=True)
class Cell:
    """One contrast or one correlation, at one level for itself.

    Parameters
    ----------
    measure, mode, matching
        What was compared, in which batch-norm mode, and where: see `Evidence.values`.
    expects
        What would bear the claim out: the claim's own word, turned round for a measure that is the smaller
        the sharper the minimum.
    is_normalised
        Whether the measure claims not to see rescaled weights.
    answer, basis
        See `thalweg.stats.verdicts.Judgement`; ``"undecided"`` where there was nothing to decide on.
    effect, low, high, is_ratio
        Ratio of geometric means, difference of means, or tau, and its interval at the study's level.
    size, size_low, size_high
        Hedges' g and its interval; NaN of a correlation.
    p_support, p_refute
        Uncorrected; NaN where there were none.
    values_a, values_b
        Of the runs that were compared, see `thalweg.study.pair_values` where these are all pairs; of a
        correlation, of the measure and of what it ranks.
    missing
        Runs that have no value, and why.
    reason
        Why nothing could be compared.
    """

    measure: str
    mode: str
    matching: str
    expects: str
    is_normalised: bool
    answer: Answer = "undecided"
    basis: str = ""
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    is_ratio: bool = False
    size: float = math.nan
    size_low: float = math.nan
    size_high: float = math.nan
    p_support: float = math.nan
    p_refute: float = math.nan
    smallest_p: float = math.nan
    measurement_share: float = math.nan
    values_a: tuple[Value, ...] = ()
    values_b: tuple[Value, ...] = ()
    missing: tuple[Value, ...] = ()
    reason: str = ""

    @property
    def num_a(self) -> int:
        """Runs of the first group, or of the correlation."""
        return len(self.values_a)

    @property
    def num_b(self) -> int:
        """Runs of the second."""
        return len(self.values_b)


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

    claim: ContrastClaim | CorrelationClaim
    answer: Answer
    p_support: float
    p_refute: float
    cell: Cell
    cells: tuple[Cell, ...]


def verdicts(spec: StudySpec, evidence: Evidence) -> list[Verdict]:
    """All claims of a study, in the order of its file."""
    questions = [_question(spec, claim) for claim in spec.claims]
    first = {question: spec.claims[questions.index(question)] for question in questions}
    tables = {question: _table(spec, evidence, claim) for question, claim in first.items()}
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


def compares_ratios(spec: StudySpec, claim: ContrastClaim, measure: str) -> bool:
    """Whether geometric means are compared; of two networks, whose barrier may be nought, differences are."""
    return claim.scale == "log" and measure not in spec.pairs


def is_of_all_pairs(spec: StudySpec, measure: str) -> bool:
    """Whether it is measured between every two networks of a setting: each of these then has a value."""
    return measure in spec.pairs and spec.pairs[measure].pairing == "all"


def own_values(spec: StudySpec, evidence: Evidence, claim: ContrastClaim) -> Cell:
    """Where a contrast stands: the values it compares, before any test."""
    return _grouped(spec, evidence, claim, _place(claim))


Place = tuple[str, str, str]

# What a claim says of itself and where it stands: those that differ in it alone ask the same of all places.
_OWN_FIELDS = {"name", "text", "primary", "measure", "mode", "moment", "matched_loss"}


def _question(spec: StudySpec, claim: ContrastClaim | CorrelationClaim) -> str:
    """What a claim asks of all places: cells are costly, and the claims of a study often share them."""
    own = spec.member(claim.measure) if claim.measure in spec.measures else None
    sense = None if own is None else own.larger_is_sharper
    return repr((claim.model_dump(exclude=_OWN_FIELDS), _alike(spec, claim), sense))


def _place(claim: ContrastClaim | CorrelationClaim) -> Place:
    return claim.measure, claim.mode, claim.matching


def _table(spec: StudySpec, evidence: Evidence, claim: ContrastClaim | CorrelationClaim) -> dict[Place, Cell]:
    """What a claim asks, of everything it can be asked of; its own place among them."""
    names, rules = _alike(spec, claim), _rules(spec)
    places = [(name, mode, at) for name in names for mode in _modes(spec) for at in rules]
    if isinstance(claim, ContrastClaim):
        found = _contrasts(spec, evidence, claim, places)
    else:
        found = [_correlation(spec, evidence, claim, place) for place in places]
    return dict(zip(places, found, strict=True))


def _alike(spec: StudySpec, claim: ContrastClaim | CorrelationClaim) -> list[str]:
    """What the same can be asked of: any measure in place of another, but a performance only of itself."""
    if claim.measure in PERFORMANCE:
        return [claim.measure]
    pairs = list(spec.pairs) if isinstance(claim, ContrastClaim) else []
    return list(dict.fromkeys([*spec.measures, *pairs, claim.measure]))


def _modes(spec: StudySpec) -> list[str]:
    return list(spec.objective.modes)


def _rules(spec: StudySpec) -> list[str]:
    losses = [claim.matching for claim in spec.claims if claim.matched_loss is not None]
    return list(dict.fromkeys([*spec.moments, *losses]))


def _empty(spec: StudySpec, claim: ContrastClaim | CorrelationClaim, place: Place) -> Cell:
    measure, mode, matching = place
    member = spec.member(measure) if measure in spec.measures else None
    own = spec.member(claim.measure) if claim.measure in spec.measures else None
    turned = member is not None and own is not None and member.larger_is_sharper != own.larger_is_sharper
    expects = claim.expect
    if turned:
        expects = {**OPPOSITE, "positive": "negative", "negative": "positive", "none": "none"}[expects]
    return Cell(measure, mode, matching, expects, bool(member and member.is_normalised))


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
    cell = _empty(spec, claim, place)
    chosen = [v for v in evidence.values(*place) if all(v.fields.get(k) == w for k, w in claim.where.items())]
    sides = [[v for v in chosen if v.fields.get(claim.by) == group] for group in claim.groups]
    if is_of_all_pairs(spec, place[0]):
        sides = [by_network(side) for side in sides]
    missing = [v for side in sides for v in side if not math.isfinite(v.value)]
    log = compares_ratios(spec, claim, place[0])
    odd = [
        replace(v, reason=f"{v.value:.4g} has no logarithm") for s in sides for v in s if log and v.value <= 0
    ]
    a, b = ([v for v in side if math.isfinite(v.value) and not (log and v.value <= 0)] for side in sides)
    if claim.paired:
        a, b = _paired(claim, a, b)
    cell = replace(cell, values_a=tuple(a), values_b=tuple(b), missing=(*missing, *odd), is_ratio=log)
    if min(len(a), len(b)) < FEWEST_RUNS:
        names = " and ".join(f"{len(side)} of {g}" for side, g in zip((a, b), claim.groups, strict=True))
        return replace(cell, reason=f"too few runs have a value: {names}; at least two of each are needed")
    return cell


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
    # A factor is no margin of a difference.
    margin = claim.margin if (claim.scale == "log") == cell.is_ratio else None
    direction = cell.expects
    if direction == "equivalent" and margin is None:
        direction = "larger"
    return Claim(
        [v.value for v in cell.values_a],
        [v.value for v in cell.values_b],
        direction,
        margin=margin,
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


# -- correlations -------------------------------------------------------------------------------------


def _correlation(spec: StudySpec, evidence: Evidence, claim: CorrelationClaim, place: Place) -> Cell:
    cell = _empty(spec, claim, place)
    _, mode, matching = place
    columns = [evidence.values(name, mode, matching) for name in (place[0], claim.ranks, *claim.given)]
    by_run = [{v.run: v for v in column} for column in columns]
    chosen = [
        [column[run] for column in by_run]
        for run, value in by_run[0].items()
        if all(run in column for column in by_run)
        and all(value.fields.get(k) == w for k, w in claim.where.items())
    ]
    rows = [row for row in chosen if all(math.isfinite(v.value) for v in row)]
    missing = [next(v for v in row if not math.isfinite(v.value)) for row in chosen if row not in rows]
    cell = replace(
        cell,
        values_a=tuple(row[0] for row in rows),
        values_b=tuple(row[1] for row in rows),
        missing=tuple(missing),
    )
    if len(rows) < FEWEST_RANKED:
        return replace(cell, reason=f"too few runs have a value: {len(rows)}; at least four are needed")
    try:
        value, low, high, p, smallest = _coefficient(spec, claim, rows)
    except ValueError as error:
        return replace(cell, reason=str(error))
    return _ruled(cell, claim, (value, low, high), p, smallest, 1 - spec.level)


def _coefficient(
    spec: StudySpec, claim: CorrelationClaim, rows: list[list[Value]]
) -> tuple[float, float, float, float, float]:
    measure, ranked = ([row[i].value for row in rows] for i in (0, 1))
    fields = {k: [row[0].fields[k] for row in rows] for k in spec.fields}
    if claim.statistic == "partial":
        covariates = [[v.value for v in row[2:]] for row in rows]
        cells = [tuple(fields[k][i] for k in fields) for i in range(len(rows))]
        part = partial_correlation(measure, ranked, covariates, cells=cells, level=spec.level, seed=SEED)
        return part.value, part.low, part.high, part.p_value, math.nan
    errors = [row[0].standard_error for row in rows]
    found = rank_correlation(measure, ranked, fields, errors=errors, level=spec.level, seed=SEED)
    tau = found.granulated if claim.statistic == "granulated" else found.overall
    return tau.value, tau.low, tau.high, tau.p_value, found.smallest_p


def _ruled(
    cell: Cell,
    claim: CorrelationClaim,
    tau: tuple[float, float, float],
    p: float,
    smallest: float,
    alpha: float,
) -> Cell:
    """A sign is found where p-value and interval say so; nothing much, where that is within the margin."""
    value, low, high = tau
    nothing = claim.margin is not None and -claim.margin < low and high < claim.margin
    positive, negative = low > 0 and p <= alpha, high < 0 and p <= alpha
    is_found = {"positive": positive, "negative": negative, "none": nothing}
    against = {
        "positive": negative or nothing,
        "negative": positive or nothing,
        "none": (positive or negative) and not nothing,
    }
    expects = cell.expects
    answer: Answer = "refuted" if against[expects] else "supported" if is_found[expects] else "undecided"
    basis = "equivalent" if nothing else "positive" if positive else "negative" if negative else ""
    agrees = expects == "none" or (value > 0) == (expects == "positive")
    # Equivalence is read off the interval, whose level is its p-value.
    p_nothing = alpha if nothing else 1.0
    p_support = p_nothing if expects == "none" else p if agrees else 1.0
    p_refute = p if expects == "none" else min(p_nothing, 1.0 if agrees else p)
    return replace(
        cell,
        answer=answer,
        basis=basis,
        effect=value,
        low=low,
        high=high,
        p_support=p_support,
        p_refute=p_refute,
        smallest_p=smallest,
    )


def _or_one(p: float) -> float:
    return 1.0 if math.isnan(p) else p
