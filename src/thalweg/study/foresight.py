"""What so many seeds can show, before they are trained or while some of them are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.analyses.attainable import smallest_corrected_p
from thalweg.stats.cell_exchange import changes_along, is_grid, least_exchange_p
from thalweg.stats.exchange_power import detectable_tau
from thalweg.stats.held_out_prediction import FEWEST_CONFIGURATIONS
from thalweg.stats.power import (
    detectable_difference,
    kept_alpha,
    runs_to_decide,
    seeds_for_equivalence,
    seeds_needed,
)
from thalweg.stats.rank_difference import least_sign_p
from thalweg.study.claim_cells import Cell, compares_ratios
from thalweg.study.claims import ContrastClaim, CorrelationClaim, PredictionClaim
from thalweg.study.correlations import FEWEST_SETTINGS
from thalweg.study.evidence import Evidence, Value
from thalweg.study.grid import Settings
from thalweg.study.moments import START
from thalweg.study.quantities import temperature
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
        The difference, in standard deviations from seed to seed, that would be found with probability 0.8
        as the first of the primary claims in Holm's order, by a p-value that relabelling can give.
    num_claims
        Primary ones, which are corrected together.
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
    num_claims: int = 1
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
            f"{runs} find a difference of {self.detectable:.2g} standard deviations with probability "
            f"{POWER}{_among(self.num_claims)}"
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
        Kendall's tau between settings that would be found with probability 0.8 among the primary claims,
        about: see `thalweg.stats.exchange_power`; NaN of what is no such tau.
    level
        Of the study.
    num_claims
        Primary ones, which are corrected together.
    """

    claim: str
    num_runs: int
    num_settings: int
    smallest_p: float
    detectable: float
    level: float
    num_claims: int = 1

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
        words = f"{runs} find a tau of about {self.detectable:.2g} between settings with probability {POWER}"
        return f"{words}{_among(self.num_claims)}."


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
    chosen = _settings_of(spec, claim)
    settings = len(chosen)
    num_runs = settings * len(spec.seeds)
    detectable, smallest = math.nan, 0.0
    if isinstance(claim, PredictionClaim):
        smallest = 1.0 if settings < FEWEST_CONFIGURATIONS else 0.0
    elif claim.than:
        axes = sum(len({s.fields[f] for s in chosen}) > 1 for f in spec.fields)
        smallest = 1.0 if len(spec.seeds) < 2 else num_claims * least_sign_p(axes)
    elif claim.expect == "none":
        # That little is there the seeds show; no exchange limits it.
        smallest = 1.0 if len(spec.seeds) < 2 or settings < FEWEST_SETTINGS else 0.0
    else:
        sizes = _exchanged(spec, claim, chosen)
        least = least_exchange_p(sizes, settings, NUM_RESAMPLES)
        # Intervals take the spread between the seeds of a setting.
        smallest = 1.0 if len(spec.seeds) < 2 or settings < FEWEST_SETTINGS else num_claims * least
        if smallest <= 1 - spec.level + 1e-12 and claim.statistic != "partial":
            detectable = detectable_tau(sizes, settings, level=1 - (1 - spec.level) / num_claims, power=POWER)
    return GridForesight(claim.name, num_runs, settings, smallest, detectable, spec.level, num_claims)


def _settings_of(spec: StudySpec, claim: CorrelationClaim | PredictionClaim) -> list[Settings]:
    """Those that the claim is about and whose networks have all that it names."""
    if isinstance(claim, PredictionClaim):
        names = [*claim.features, claim.outcome]
    else:
        names = [claim.measure, claim.ranks, *claim.given, *([claim.than] if claim.than else [])]
    measured = [spec.measures[spec.columns[name]].where for name in names if name in spec.columns]
    return [s for s in spec.settings if all(_is_of(s, where) for where in (claim.where, *measured))]


def _is_of(settings: Settings, where: Mapping[str, Any]) -> bool:
    return all(settings.fields.get(k) == v for k, v in where.items())


def _exchanged(spec: StudySpec, claim: CorrelationClaim, chosen: Sequence[Settings]) -> list[int]:
    """Levels of each axis that is exchanged: not of one along which one of the two is known not to change."""
    columns = {
        f: [s.fields[f] for s in chosen] for f in spec.fields if len({s.fields[f] for s in chosen}) > 1
    }
    sizes = {name: len(set(levels)) for name, levels in columns.items()}
    # What is given may change where neither of the two does.
    if claim.statistic != "partial" and is_grid(list(sizes.values()), len(chosen)):
        for name in (claim.measure, claim.ranks):
            quantity = spec.quantities.get(name)
            if quantity and quantity.kind == "temperature":
                known = [temperature(s) for s in chosen]
            elif not quantity and claim.matching == START:
                fresh = [repr((s.model, s.arguments, s.data, s.init_scale)) for s in chosen]
                known = [fresh.index(network) for network in fresh]
            else:
                continue
            values = np.array(known, dtype=np.float64)
            sizes = {f: size for f, size in sizes.items() if changes_along(f, columns, values)}
    return list(sizes.values())


def _foreseen(spec: StudySpec, claim: ContrastClaim, num_claims: int, cell: Cell | None) -> Foresight:
    num_a, num_b = (_num_runs(spec, claim, group) for group in claim.groups)
    per_run, settings = _seeds_a_run(spec, claim), [_num_settings(spec, claim, g) for g in claim.groups]
    runs = runs_to_decide(paired=claim.paired, num_claims=num_claims, level=spec.level)
    fewest = per_run * -(-runs // max(1, min(settings)))
    if min(num_a, num_b) < 2:
        return Foresight(claim.name, num_a, num_b, 1.0, math.inf, spec.level, num_claims, fewest=fewest)
    smallest = smallest_corrected_p(num_a, num_b, paired=claim.paired, correction="holm", num_rows=num_claims)
    kept = kept_alpha(num_a, num_b, paired=claim.paired, num_claims=num_claims, level=spec.level)
    detectable = math.inf
    if kept > 0:
        detectable = detectable_difference(num_a, num_b, paired=claim.paired, level=1 - kept, power=POWER)
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
    return Foresight(
        claim.name,
        num_a,
        num_b,
        smallest,
        detectable,
        spec.level,
        num_claims,
        is_ratio=is_ratio,
        **known,
    )


def _among(num_claims: int) -> str:
    return f" among {num_claims} primary claims" if num_claims > 1 else ""


def _num_runs(spec: StudySpec, claim: ContrastClaim, group: Any) -> int:
    return _num_settings(spec, claim, group) * (len(spec.seeds) // _seeds_a_run(spec, claim))


def _num_settings(spec: StudySpec, claim: ContrastClaim, group: Any) -> int:
    return sum(_is_of(s, {**claim.where, claim.by: group}) for s in spec.settings)


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
