"""Many measures at many points, where one that fails costs no other."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from thalweg.core.errors import DataError, ThalwegError
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress, part_of
from thalweg.objective.objective import Objective


class Take(Protocol):
    """A measure with all its arguments, such as a `Member`."""

    def __call__(
        self, objective: Objective, *, seed: int, progress: Progress | None = None
    ) -> Measurement: ...


@dataclass(frozen=True)
class Outcome:
    """What a measure said of a point: a result with a number, or why there is none.

    Parameters
    ----------
    result
        None where there is no number.
    reason
        Why; empty where there is one.
    error
        What was raised, if anything.
    """

    result: Measurement | None
    reason: str = ""
    error: Exception | None = None


def measured(
    members: Mapping[str, Take],
    points: Mapping[str, Objective],
    *,
    seed: int,
    progress: Progress | None = None,
    first_decides: bool = False,
) -> dict[tuple[str, str], Outcome]:
    """Each measure at each point, by both names.

    Measures with arguments that somebody chose come first, so that a bad one is told at once.

    Parameters
    ----------
    members, points
        By name.
    seed
        Of each measurement.
    progress
        Called with steps done and all steps.
    first_decides
        Do not try a measure at other points that has failed at the first; it gets that outcome there too.

    Raises
    ------
    ValueError
        That a measure raises of an argument in its `given`.
    DataError
        If what a store has of a measurement cannot be read.
    """
    outcomes: dict[tuple[str, str], Outcome] = {}
    num_parts, part = len(members) * len(points), 0
    for member in sorted(members, key=lambda name: not _given(members[name])):
        take = members[member]
        failed: Outcome | None = None
        for i, (name, point) in enumerate(points.items()):
            report = part_of(progress, part, num_parts)
            outcomes[member, name] = outcome = failed or _outcome(take, point, seed, report)
            if first_decides and not i and outcome.result is None:
                failed = outcome
            part += 1
            if report:
                report(1, 1)
    return outcomes


def _outcome(take: Take, point: Objective, seed: int, progress: Progress | None) -> Outcome:
    try:
        result = take(point, seed=seed, progress=progress)
    except DataError:
        raise  # a store that cannot be read is nothing that the measure says of the point
    except (ValueError, ThalwegError) as error:
        if any(str(error).startswith(f"`{name}` ") for name in _given(take)):
            raise
        return Outcome(None, str(error), error)
    return Outcome(None, "the value is not a number") if math.isnan(result.value) else Outcome(result)


def _given(take: Take) -> Collection[str]:
    return getattr(take, "given", ())
