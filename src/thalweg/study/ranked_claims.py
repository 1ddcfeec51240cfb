"""Claims over all runs of a study: what ranks them by something, and what foretells it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from thalweg.stats.held_out_prediction import held_out_prediction
from thalweg.stats.partial_correlation import partial_correlation
from thalweg.stats.rank_correlation import rank_correlation
from thalweg.stats.verdicts import Answer
from thalweg.study.claim_cells import Cell, Place, empty_cell
from thalweg.study.claims import Claim, CorrelationClaim, PredictionClaim
from thalweg.study.evidence import Evidence, Value
from thalweg.study.spec import StudySpec

# Runs below which nothing is said at all.
FEWEST_RANKED = 4

# Of exchanges and resamples, and how many.
SEED = 0
NUM_RESAMPLES = 2000


def ranked_cell(spec: StudySpec, evidence: Evidence, claim: CorrelationClaim, place: Place) -> Cell:
    """Of a correlation."""
    cell, rows = _together(spec, evidence, claim, place, (place[0], claim.ranks, *claim.given))
    if cell.reason:
        return cell
    try:
        value, low, high, p, smallest = _coefficient(spec, claim, rows)
    except ValueError as error:
        return replace(cell, reason=str(error))
    return _ruled(cell, claim, (value, low, high), p, smallest, 1 - spec.level)


def _together(
    spec: StudySpec, evidence: Evidence, claim: Claim, place: Place, names: Sequence[str]
) -> tuple[Cell, list[list[Value]]]:
    """The runs that have all of `names`, one row each: of a cell's place, by where it stands."""
    cell = empty_cell(spec, claim, place)
    _, mode, matching = place
    by_run = [{v.run: v for v in evidence.values(name, mode, matching)} for name in names]
    chosen = [
        [column[run] for column in by_run]
        for run, value in by_run[0].items()
        if all(run in column for column in by_run)
        and all(value.fields.get(k) == w for k, w in claim.where.items())
    ]
    rows = [row for row in chosen if not any(math.isnan(v.value) for v in row)]
    missing = [next(v for v in row if math.isnan(v.value)) for row in chosen if row not in rows]
    cell = replace(
        cell,
        values_a=tuple(row[0] for row in rows),
        values_b=tuple(row[1] for row in rows),
        missing=tuple(missing),
    )
    if len(rows) < FEWEST_RANKED:
        few = f"too few runs have a value: {len(rows)}; at least four are needed"
        return replace(cell, reason=few), rows
    return cell, rows


def orderable(values: Sequence[float]) -> list[float]:
    """Finite numbers in the same order, for what goes by order alone."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    step = 1.0 + max(abs(v) for v in finite)
    return [v if math.isfinite(v) else max(finite) + step if v > 0 else min(finite) - step for v in values]


def _coefficient(
    spec: StudySpec, claim: CorrelationClaim, rows: list[list[Value]]
) -> tuple[float, float, float, float, float]:
    measure, ranked, *covariates = (orderable([row[i].value for row in rows]) for i in range(len(rows[0])))
    fields = {k: [row[0].fields[k] for row in rows] for k in spec.fields}
    if claim.statistic == "partial":
        cells = [tuple(fields[k][i] for k in fields) for i in range(len(rows))]
        held = list(zip(*covariates, strict=True))
        part = partial_correlation(measure, ranked, held, cells=cells, level=spec.level, seed=SEED)
        return part.value, part.low, part.high, part.p_value, math.nan
    errors, gap_errors = ([row[i].standard_error for row in rows] for i in (0, 1))
    found = rank_correlation(
        measure,
        ranked,
        fields,
        errors=errors,
        gap_errors=gap_errors,
        level=spec.level,
        num_resamples=NUM_RESAMPLES,
        seed=SEED,
    )
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


def predicted_cell(spec: StudySpec, evidence: Evidence, claim: PredictionClaim, place: Place) -> Cell:
    """Of a prediction: by all its features together where it stands, elsewhere by the one measured there."""
    features = claim.features if place[0] == claim.measure else [place[0]]
    cell, rows = _together(spec, evidence, claim, place, (features[0], claim.outcome, *features[1:]))
    if cell.reason:
        return cell
    try:
        found = held_out_prediction(
            [row[1].value for row in rows],
            [[v.value for v in (row[0], *row[2:])] for row in rows],
            {k: [row[0].fields[k] for row in rows] for k in spec.fields},
            beside=claim.beside,
            margin=claim.margin,
            level=spec.level,
        )
    except ValueError as error:
        return replace(cell, reason=str(error))
    alpha = 1 - spec.level
    helps = found.ratio < 1 and found.p_value <= alpha
    nothing = found.p_negligible <= alpha  # NaN without a margin
    is_claimed, is_opposed = (helps, nothing) if claim.expect == "helps" else (nothing, helps and not nothing)
    p_helps = found.p_value if found.ratio < 1 else 1.0
    p_nothing = 1.0 if math.isnan(found.p_negligible) else found.p_negligible
    p_support, p_refute = (p_helps, p_nothing) if claim.expect == "helps" else (p_nothing, p_helps)
    return replace(
        cell,
        answer="refuted" if is_opposed else "supported" if is_claimed else "undecided",
        basis="equivalent" if nothing else "helps" if helps else "",
        effect=found.ratio,
        low=found.low,
        high=found.high,
        is_ratio=True,
        p_support=p_support,
        p_refute=p_refute,
        prediction=found,
    )
