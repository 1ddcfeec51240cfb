"""Claims over all runs of a study: what ranks them by something, and what foretells it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from thalweg.core.distributions import student_tail
from thalweg.stats.held_out_prediction import held_out_prediction
from thalweg.stats.partial_correlation import partial_correlation
from thalweg.stats.rank_correlation import rank_correlation
from thalweg.stats.rank_difference import rank_difference
from thalweg.stats.verdicts import Answer
from thalweg.study.claim_cells import OPPOSITE, Cell, Place, empty_cell, is_larger_sharper
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
    others = [claim.than] if claim.than else claim.given
    cell, rows = _together(spec, evidence, claim, place, (place[0], claim.ranks, *others))
    if cell.reason:
        return cell
    if place[0] == claim.than:
        return replace(cell, reason=f"{claim.than} is what the others are compared with")
    try:
        found = _difference(spec, claim, place[0], rows) if claim.than else _coefficient(spec, claim, rows)
    except ValueError as error:
        return replace(cell, reason=str(error))
    return _ruled(cell, found, 1 - spec.level)


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


@dataclass(frozen=True)
class _Coefficient:
    """A correlation and what decides on it: by exchange, and by its error, on the scale that evens it."""

    value: float
    low: float
    high: float
    error: float
    dof: float
    p_value: float
    smallest_p: float
    scale: Callable[[float], float]
    along: tuple[tuple[str, float], ...] = ()
    measurement_loss: float = math.nan

    def p_above(self, point: float) -> float:
        """Doubled one-sided p-value, by Student's distribution, that it is above the point."""
        beyond = self.scale(self.value) - self.scale(point)
        if not beyond > 0 or math.isnan(self.error):
            return 1.0
        return 2 * float(student_tail(beyond / self.error, self.dof)) if self.error > 0 else 0.0

    @property
    def negative(self) -> _Coefficient:
        """With the order of one of the two turned round."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)


def _coefficient(spec: StudySpec, claim: CorrelationClaim, rows: list[list[Value]]) -> _Coefficient:
    measure, ranked, *covariates = (orderable([row[i].value for row in rows]) for i in range(len(rows[0])))
    fields = {k: [row[0].fields[k] for row in rows] for k in spec.fields}
    resampled = {"level": spec.level, "num_resamples": NUM_RESAMPLES, "seed": SEED}
    if claim.statistic == "partial":
        held = list(zip(*covariates, strict=True))
        part = partial_correlation(measure, ranked, held, hyperparameters=fields, **resampled)
        error = part.standard_error / max(1 - part.value**2, 1e-15)
        return _Coefficient(
            part.value, part.low, part.high, error, part.dof, part.p_value, part.smallest_p, _artanh
        )
    errors, gap_errors = ([row[i].standard_error for row in rows] for i in (0, 1))
    found = rank_correlation(measure, ranked, fields, errors=errors, gap_errors=gap_errors, **resampled)
    tau = found.granulated if claim.statistic == "granulated" else found.overall
    return _Coefficient(
        tau.value,
        tau.low,
        tau.high,
        tau.standard_error,
        tau.dof,
        tau.p_value,
        found.smallest_p,
        float,
        tuple((a.name, a.tau.value) for a in found.axes if not math.isnan(a.tau.value)),
        # Of the overall tau, and of no other.
        found.measurement_loss if claim.statistic == "kendall" else math.nan,
    )


def _difference(
    spec: StudySpec, claim: CorrelationClaim, measure: str, rows: list[list[Value]]
) -> _Coefficient:
    """Of two granulated taus, each in the sense that sharper minima rank higher."""
    assert claim.than is not None
    first, ranked, second = (orderable([row[i].value for row in rows]) for i in range(3))
    turned = [is_larger_sharper(spec, name) is False for name in (measure, claim.than)]
    first, second = ([-v for v in x] if t else x for x, t in zip((first, second), turned, strict=True))
    fields = {k: [row[0].fields[k] for row in rows] for k in spec.fields}
    found = rank_difference(
        first, second, ranked, fields, level=spec.level, num_resamples=NUM_RESAMPLES, seed=SEED
    )
    return _Coefficient(
        found.value,
        found.low,
        found.high,
        found.standard_error,
        found.dof,
        found.p_value,
        found.smallest_p,
        float,
        tuple(found.along.items()),
    )


def _artanh(r: float) -> float:
    return math.atanh(max(-1 + 1e-15, min(r, 1 - 1e-15)))


def _ruled(cell: Cell, found: _Coefficient, alpha: float) -> Cell:
    """What is found by the larger of two p-values: of exchange, and of the seeds' spread.

    A sign has to pass both; that nothing much is there, or more than the margin, is about the size of the
    coefficient on this grid, and of that the seeds speak; more than the margin has to pass exchange, too.
    """
    if math.isnan(found.value):
        return replace(cell, reason="no pair of runs differs in one hyperparameter alone")
    margin = cell.margin
    p = {
        "positive": max(found.p_value if found.value > 0 else 1.0, found.p_above(0.0)),
        "negative": max(found.p_value if found.value < 0 else 1.0, found.negative.p_above(0.0)),
        "equivalent": 1.0,
        "beyond": 1.0,
    }
    if margin is not None:
        # Below the margin, and above its negative.
        p["equivalent"] = max(found.negative.p_above(-margin), found.p_above(-margin))
        # It looks to both sides, and so counts twice.
        by_seeds = 2 * min(found.p_above(margin), found.negative.p_above(margin))
        p["beyond"] = min(1.0, max(found.p_value, by_seeds))
    expects = cell.expects
    supporting = "equivalent" if expects == "none" else expects
    opposites = ["beyond"] if expects == "none" else ["equivalent", OPPOSITE[expects]]
    refuting = min(opposites, key=lambda name: p[name])
    # In the last digit 1 - 0.95 is not 0.05.
    answer: Answer = "undecided"
    if p[supporting] <= alpha + 1e-12:
        answer = "supported"
    if p[refuting] <= alpha + 1e-12:
        answer = "refuted"
    return replace(
        cell,
        answer=answer,
        basis={"supported": supporting, "refuted": refuting, "undecided": ""}[answer],
        effect=found.value,
        low=found.low,
        high=found.high,
        p_support=p[supporting],
        p_refute=p[refuting],
        # Of being within a margin it is no bound.
        smallest_p=math.nan if expects == "none" else found.smallest_p,
        along=found.along,
        measurement_loss=found.measurement_loss,
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
