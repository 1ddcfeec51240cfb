"""Cells of a claim: what is said of one measure, in one mode, at one moment; empty before it is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from thalweg.stats.held_out_prediction import HeldOutPrediction
from thalweg.stats.verdicts import Answer
from thalweg.study.claims import Claim, ContrastClaim, PredictionClaim
from thalweg.study.evidence import Value
from thalweg.study.spec import StudySpec

OPPOSITE = {
    **{"larger": "smaller", "smaller": "larger", "equivalent": "equivalent"},
    **{"positive": "negative", "negative": "positive", "none": "none"},
}

# Measure, mode and matching rule.
Place = tuple[str, str, str]


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
        Ratio of geometric means, difference of means, tau, or ratio of prediction errors, and its interval at
        the study's level.
    size, size_low, size_high
        Hedges' g and its interval; NaN of a correlation.
    p_support, p_refute
        Uncorrected; NaN where there were none.
    margin
        That of the claim, where it can be asked of this measure: a factor is none of a difference, and what
        is in the unit of one measure is none of another.
    values_a, values_b
        Of the runs that were compared; of a correlation, of the measure and of what it ranks; of a
        prediction, of the first feature and of the outcome.
    prediction
        What was predicted of each run; None of other claims.
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
    margin: float | None = None
    values_a: tuple[Value, ...] = ()
    values_b: tuple[Value, ...] = ()
    missing: tuple[Value, ...] = ()
    reason: str = ""
    prediction: HeldOutPrediction | None = None

    @property
    def num_a(self) -> int:
        """Runs of the first group, or of the correlation."""
        return len(self.values_a)

    @property
    def num_b(self) -> int:
        """Runs of the second."""
        return len(self.values_b)


def empty_cell(spec: StudySpec, claim: Claim, place: Place) -> Cell:
    """The cell of a claim at a place before anything is compared: what is expected there."""
    measure, mode, matching = place
    member = member_of(spec, measure)
    sense, own = is_larger_sharper(spec, measure), is_larger_sharper(spec, claim.measure)
    expects = claim.expect
    if sense is not None and own is not None and sense != own and not isinstance(claim, PredictionClaim):
        expects = OPPOSITE[expects]
    # What a measure claims not to see it claims of its value alone.
    is_normalised = measure in spec.measures and bool(member and member.is_normalised)
    return Cell(measure, mode, matching, expects, is_normalised, margin=_margin(spec, claim, measure))


def compares_ratios(spec: StudySpec, claim: ContrastClaim, measure: str) -> bool:
    """Whether geometric means are compared; of two networks, whose barrier may be nought, differences are."""
    return claim.scale == "log" and measure not in spec.pairs


def is_larger_sharper(spec: StudySpec, name: str) -> bool | None:
    """Whether more of it goes with sharper minima, as of a barrier; None of what is no measure's."""
    if name in spec.pairs:
        return True
    member = member_of(spec, name)
    return None if member is None else bool(member.larger_is_sharper)


def _margin(spec: StudySpec, claim: Claim, measure: str) -> float | None:
    if not isinstance(claim, ContrastClaim):
        return claim.margin
    if claim.scale == "log":
        return claim.margin if compares_ratios(spec, claim, measure) else None
    return claim.margin if measure == claim.measure else None


def member_of(spec: StudySpec, name: str) -> Any:
    """The measure whose value, or further number, a column is; None of what is no measure's."""
    return spec.member(spec.columns[name]) if name in spec.columns else None
