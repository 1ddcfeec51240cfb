"""How the measures of a study rank its runs, by the gap and each other: Kendall's tau of every pair.

Over all runs, where the settings are three or more: what goes along with what over the grid. Two settings, or
one, have no order that says more than which group is which; there among the runs of each setting alone: what
goes along with what from seed to seed. The two are different questions, and may have opposite answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.stats.rank_correlation import Correlation, rank_correlation
from thalweg.stats.within_cells import seed_correlation
from thalweg.study.evidence import Evidence, Value
from thalweg.study.ranked_claims import orderable
from thalweg.study.spec import StudySpec

# Below so many settings a tau over all runs says no more than which group is which.
FEWEST_SETTINGS = 3

# Resamples of seeds and exchanges of settings: the matrix is for looking over, a claim for deciding.
NUM_RESAMPLES = 300
SEED = 0


@dataclass(frozen=True)
class MatrixCell:
    """Tau of one pair, over the runs that have both values; without it, why."""

    tau: Correlation | None
    num_runs: int
    reason: str = ""


@dataclass(frozen=True)
class CorrelationMatrix:
    """Tau of each pair of `names` in one mode at one moment.

    Parameters
    ----------
    mode, matching
        See `thalweg.study.evidence.Evidence.values`.
    names
        The gap, then the study's quantities, then the measures.
    cells
        By two names, the one that stands earlier in `names` first.
    level
        Of the intervals, each for itself.
    is_within
        Whether only runs of one setting are compared, which differ in their seed.
    """

    mode: str
    matching: str
    names: tuple[str, ...]
    cells: Mapping[tuple[str, str], MatrixCell]
    level: float
    is_within: bool


def correlation_matrices(spec: StudySpec, evidence: Evidence) -> list[CorrelationMatrix]:
    """Of each mode, at the last of the study's moments.

    Runs that differ in their seed alone make a cell. Over a grid intervals are by seeds, p-values by
    exchanging cells (`thalweg.stats.rank_correlation`); within cells see `thalweg.stats.within_cells`.
    """
    return [_matrix(spec, evidence, mode, spec.moments[-1]) for mode in spec.objective.modes]


def _matrix(spec: StudySpec, evidence: Evidence, mode: str, matching: str) -> CorrelationMatrix:
    names = ("gap", *spec.quantities, *spec.columns)
    columns = {name: {v.run: v for v in evidence.values(name, mode, matching)} for name in names}
    names = tuple(name for name in names if columns[name])
    fields = list(spec.fields)
    is_within = len(spec.settings) < FEWEST_SETTINGS
    cells = {
        (a, b): _cell(columns[a], columns[b], fields, spec.level, is_within)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    return CorrelationMatrix(mode, matching, names, cells, spec.level, is_within)


def _cell(
    a: Mapping[str, Value], b: Mapping[str, Value], fields: Sequence[str], level: float, is_within: bool
) -> MatrixCell:
    pairs = [(a[run], b[run]) for run in a if run in b]
    pairs = [(x, y) for x, y in pairs if not (math.isnan(x.value) or math.isnan(y.value))]
    settings = [tuple(x.fields[field] for field in fields) for x, _ in pairs]
    values = orderable([x.value for x, _ in pairs]), orderable([y.value for _, y in pairs])
    rest: dict[str, Any] = {"level": level, "seed": SEED}
    try:
        if is_within:
            tau = seed_correlation(*values, settings, num_exchanges=NUM_RESAMPLES, **rest)
            return MatrixCell(tau, len(pairs))
        found = rank_correlation(
            *values,
            {"setting": settings},
            errors=[x.standard_error for x, _ in pairs],
            gap_errors=[y.standard_error for _, y in pairs],
            num_resamples=NUM_RESAMPLES,
            **rest,
        )
    except ValueError as error:
        return MatrixCell(None, len(pairs), str(error))
    return MatrixCell(found.overall, len(pairs))
