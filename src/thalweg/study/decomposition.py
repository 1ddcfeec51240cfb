"""How much of a measure's variance is the model's, the hyperparameters', the seed's, the measuring's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.stats.variance_components import VarianceComponents, variance_components
from thalweg.study.evidence import Evidence
from thalweg.study.spec import StudySpec
from thalweg.study.table import PERFORMANCE

# Of resamples.
SEED = 0


@dataclass(frozen=True)
class Decomposition:
    """Of one measure in one mode at one moment; `reason` says why there is none.

    Positive measures are taken by their logarithms, whose spread is relative.
    """

    measure: str
    mode: str
    moment: str
    is_log: bool
    found: VarianceComponents | None
    reason: str = ""


def decompositions(spec: StudySpec, evidence: Evidence) -> list[Decomposition]:
    """Of every measure of one network and of every performance, at the last moment of the file."""
    moment = spec.moments[-1]
    return [
        _decomposed(spec, evidence, name, mode, moment)
        for name in [*spec.measures, *PERFORMANCE]
        for mode in spec.objective.modes
    ]


def _decomposed(spec: StudySpec, evidence: Evidence, name: str, mode: str, moment: str) -> Decomposition:
    values = [v for v in evidence.values(name, mode, moment) if math.isfinite(v.value)]
    is_log = bool(values) and all(v.value > 0 for v in values)
    numbers = [math.log(v.value) if is_log else v.value for v in values]
    errors = [v.standard_error / (v.value if is_log else 1.0) for v in values]
    factors = {
        field: [v.fields[field] for v in values] for field, there in spec.fields.items() if len(there) > 1
    }
    try:
        found = variance_components(numbers, factors, errors=errors, level=spec.level, seed=SEED)
    except ValueError as error:
        return Decomposition(name, mode, moment, is_log, None, str(error))
    return Decomposition(name, mode, moment, is_log, found)
