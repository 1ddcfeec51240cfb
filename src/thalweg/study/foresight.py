"""What so many seeds can show, before they are trained or while some of them are."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm

from thalweg.analyses.attainable import smallest_corrected_p
from thalweg.stats.cell_exchange import least_exchange_p
from thalweg.stats.held_out_prediction import FEWEST_CONFIGURATIONS
from thalweg.stats.power import (
    detectable_difference,
    runs_to_decide,
    seeds_for_equivalence,
    seeds_needed,
)
from thalweg.study.claim_cells import Cell, compares_ratios
from thalweg.study.claims import ContrastClaim, CorrelationClaim, PredictionClaim
from thalweg.study.correlations import FEWEST_SETTINGS
from thalweg.study.evidence import Evidence, Value
from thalweg.study.ranked_claims import NUM_RESAMPLES
from thalweg.study.spec import StudySpec
from thalweg.study.verdicts import own_values

POWER = 0.8


@dataclass(frozen=True)
class Foresight:
    """What the runs of one claim can show.

    Parameters
    ----------
    claim
        Its name.
    num_a, num_b
        Runs of the groups that there will be.
    smallest_p
        What no corrected p-value can go below; above 1 - level nothing can be decided.
    detectable
        The difference, in standard deviations from seed to seed, that would be found with probability 0.8.
    spread
        That standard deviation, of logarithms on the log scale, as far as records show it; else NaN.
    seeds, seeds_equivalent
        Seeds of each group that would find a difference of the claim's margin, and that would find there is
        none; None where no spread is known or no margin was given.
    fewest
        Seeds of each with which anything could be decided.
    """

    claim: str
    num_a: int
    num_b: int
    smallest_p: float
    detectable: float
    level: float
    spread: float = math.nan
    is_ratio: bool = True
    margin: float | None = None
    seeds: int | None = None
    seeds_equivalent: int | None = None
    fewest: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        content = dataclasses.asdict(self)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in content.items()}

    def __str__(self) -> str:
        runs = f"{self.claim}: {self.num_a} runs against {self.num_b}"
        if self.smallest_p > 1 - self.level + 1e-12:
            least = min(1.0, self.smallest_p)
            return (
                f"{runs} can decide nothing: no corrected p-value can be below {least:.2g}"
                f"{'' if self.fewest is None else f'; that takes {self.fewest} seeds of each'}."
            )
        size = (
            f"{runs} find a difference of {self.detectable:.2g} standard deviations with probability {POWER}"
        )
        if math.isnan(self.spread):
            return f"{size}; how much that is shows once some runs are measured."
        of = math.exp(self.detectable * self.spread) if self.is_ratio else self.detectable * self.spread
        words = f"{size}, {'a ratio of ' if self.is_ratio else ''}{of:.3g} at the spread so far"
        if self.seeds is not None:
            words += f"; the margin of {self.margin:g} needs {self.seeds} seeds"
            words += f", its absence {self.seeds_equivalent}"
        return f"{words}."


@dataclass(frozen=True)
class GridForesight:
    """What the runs of one claim over a grid can show, a correlation or a prediction.

    Parameters
    ----------
    claim
        Its name.
    num_runs, num_settings
        Runs that there will be, and the settings they are of, which exchanges and predictions go by.
    smallest_p
        As of `Foresight`; nought where exchanges set no limit.
    detectable
        Kendall's tau, of settings without ties, that would be found with probability 0.8, about; NaN of what
        is no such tau.
    level
        Of the study.
    """

    claim: str
    num_runs: int
    num_settings: int
    smallest_p: float
    detectable: float
    level: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        content = dataclasses.asdict(self)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in content.items()}

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing can be decided, whatever the values are."""
        return self.smallest_p > 1 - self.level + 1e-12

    def __str__(self) -> str:
        runs = f"{self.claim}: {self.num_runs} runs of {self.num_settings} settings"
        if self.is_hopeless:
            least = min(1.0, self.smallest_p)
            return f"{runs} can decide nothing: no corrected p-value can be below {least:.2g}."
        if math.isnan(self.detectable):
            return f"{runs}; what they find shows once they are measured."
        return f"{runs} find a tau of about {self.detectable:.2g} over all settings with probability {POWER}."


def foresight(spec: StudySpec, evidence: Evidence | None = None) -> list[Foresight | GridForesight]:
    """Of each primary claim, or of every one if none is primary; with what is measured so far."""
    chosen = [claim for claim in spec.claims if claim.primary] or spec.claims
    num_claims = sum(claim.primary for claim in spec.claims) or 1
    found: list[Foresight | GridForesight] = []
    for claim in chosen:
        if isinstance(claim, ContrastClaim):
            cell = own_values(spec, evidence, claim) if evidence else None
            found.append(_foreseen(spec, claim, num_claims, cell))
        else:
            found.append(_over_grid(spec, claim, num_claims))
    return found


def _over_grid(spec: StudySpec, claim: CorrelationClaim | PredictionClaim, num_claims: int) -> GridForesight:
    wanted = claim.where.items()
    settings = sum(all(s.fields.get(k) == v for k, v in wanted) for s in spec.settings)
    num_runs = settings * len(spec.seeds)
    detectable, smallest = math.nan, 0.0
    if isinstance(claim, PredictionClaim):
        smallest = 1.0 if settings < FEWEST_CONFIGURATIONS else 0.0
    elif claim.statistic == "partial":
        smallest = 1.0 if len(spec.seeds) < 2 else 0.0
    else:
        smallest = num_claims * least_exchange_p(settings, NUM_RESAMPLES)
        # Kendall's (1938) variance of tau where nothing is related.
        variance = 2 * (2 * settings + 5) / (9 * settings * (settings - 1)) if settings > 1 else math.inf
        detectable = float(norm.ppf(0.5 + spec.level / 2) + norm.ppf(POWER)) * math.sqrt(variance)
        # Intervals take the spread between the seeds of a setting.
        smallest = 1.0 if len(spec.seeds) < 2 or settings < FEWEST_SETTINGS else smallest
    return GridForesight(claim.name, num_runs, settings, smallest, detectable, spec.level)


def _foreseen(spec: StudySpec, claim: ContrastClaim, num_claims: int, cell: Cell | None) -> Foresight:
    num_a, num_b = (_num_runs(spec, claim, group) for group in claim.groups)
    per_run, settings = _seeds_a_run(spec, claim), [_num_settings(spec, claim, g) for g in claim.groups]
    runs = runs_to_decide(paired=claim.paired, num_claims=num_claims, level=spec.level)
    fewest = per_run * -(-runs // max(1, min(settings)))
    if min(num_a, num_b) < 2:
        return Foresight(claim.name, num_a, num_b, 1.0, math.inf, spec.level, fewest=fewest)
    smallest = smallest_corrected_p(num_a, num_b, paired=claim.paired, correction="holm", num_rows=num_claims)
    detectable = detectable_difference(num_a, num_b, paired=claim.paired, level=spec.level, power=POWER)
    is_ratio = compares_ratios(spec, claim, claim.measure)
    known: dict[str, Any] = {"fewest": fewest}
    spread = _spread(claim, cell) if cell else math.nan
    if spread > 0:
        known["spread"] = spread
        if claim.margin is not None and (claim.scale == "log") == is_ratio:
            common: dict[str, Any] = {
                "ratio": is_ratio,
                "paired": claim.paired,
                "num_claims": num_claims,
                "level": spec.level,
                "power": POWER,
            }
            known |= {
                "margin": claim.margin,
                "seeds": per_run * seeds_needed(claim.margin, spread, **common),
                "seeds_equivalent": per_run * seeds_for_equivalence(claim.margin, spread, **common),
            }
    return Foresight(claim.name, num_a, num_b, smallest, detectable, spec.level, is_ratio=is_ratio, **known)


def _num_runs(spec: StudySpec, claim: ContrastClaim, group: Any) -> int:
    return _num_settings(spec, claim, group) * (len(spec.seeds) // _seeds_a_run(spec, claim))


def _num_settings(spec: StudySpec, claim: ContrastClaim, group: Any) -> int:
    wanted = {**claim.where, claim.by: group}
    return sum(all(s.fields.get(k) == v for k, v in wanted.items()) for s in spec.settings)


def _seeds_a_run(spec: StudySpec, claim: ContrastClaim) -> int:
    """Two where disjoint pairs of seeds are compared; of all pairs each seed has a value."""
    pair = spec.pairs.get(claim.measure)
    return 2 if pair and pair.across == "seed" and pair.pairing == "disjoint" else 1


def _spread(claim: ContrastClaim, cell: Cell) -> float:
    """Root of the mean variance of both groups, or of the pairs' differences."""

    def numbers(values: tuple[Value, ...]) -> list[float]:
        return [math.log(v.value) if cell.is_ratio else v.value for v in values]

    if cell.reason or min(cell.num_a, cell.num_b) < 2:
        return math.nan
    a, b = numbers(cell.values_a), numbers(cell.values_b)
    if claim.paired:
        return math.sqrt(_variance([x - y for x, y in zip(a, b, strict=True)]))
    return math.sqrt((_variance(a) + _variance(b)) / 2)


def _variance(x: list[float]) -> float:
    mean = sum(x) / len(x)
    return sum((v - mean) ** 2 for v in x) / (len(x) - 1)
