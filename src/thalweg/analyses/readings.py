"""One network read by many measures in every batch-norm mode: the rows of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import scipy

from thalweg.analyses.measured import Outcome, measured
from thalweg.analyses.runs import Run
from thalweg.analyses.sharpness_family import Member
from thalweg.core.arguments import check_one_of
from thalweg.core.array_store import Store
from thalweg.core.errors import ThalwegError
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.linalg.estimate import Estimate
from thalweg.measures.sharpness.basin_width import BasinWidth
from thalweg.objective.batch_norm import MODES, BatchNormMode
from thalweg.objective.objective import Objective
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue


@dataclass(frozen=True)
class Reading:
    """What one measure says of one network in one mode; NaN with a `reason` where it has nothing to say.

    Parameters
    ----------
    value, low, high
        The value and its interval.
    standard_error
        Of the random parts, probes and data; nought where there are none.
    below, above
        How far the true value may lie to either side by what no repetition shows: what the solver left, the
        bounds of an extreme eigenvalue, sides of a basin that end beyond the scan. However lopsided, what
        chance does to the interval is no part of it.
    reason
        Why there is no value.
    is_lower_bound
        Whether the value, however exact as a number, bounds what is meant from below alone.
    held
        Which parameters did not move, see `Measurement.held`.
    """

    value: float
    low: float
    high: float
    standard_error: float = 0.0
    below: float = 0.0
    above: float = 0.0
    reason: str = ""
    is_lower_bound: bool = False
    held: str = ""

    @classmethod
    def of(cls, result: Measurement, level: float) -> Reading:
        """Of a result, with its interval at `level`."""
        if math.isnan(result.value):
            return cls.missing("the value is not a number")
        low, high = result.interval(level)
        parts = [part for part in (result.error.probe, result.error.data) if part]
        error = math.hypot(*(part.value for part in parts))
        return cls(
            result.value,
            low,
            high,
            error,
            *_beyond_chance(result, level),
            is_lower_bound=result.is_lower_bound,
            held=", ".join(result.held),
        )

    @classmethod
    def missing(cls, reason: str) -> Reading:
        """Nothing was measured."""
        return cls(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, reason)


def number_reading(result: Measurement, number: str, level: float) -> Reading:
    """Another number of a result, such as the share of negative curvature of a profile.

    An `Estimate` has its interval; of a plain number whose error the result states, as ``number_error``, a
    normal one is taken; any other number is as it is.

    Parameters
    ----------
    result
        Of a measure.
    number
        Name of a field or a property of it.
    level
        Of the interval.
    """
    found = getattr(result, number)
    if isinstance(found, Estimate):
        low, high = (float(end) for end in found.interval(level))
        rest = float(found.solver)
        error = 0.0 if math.isnan(error := float(found.standard_error)) else error
        return Reading(float(found), low, high, error, rest, rest)
    if found is None or math.isnan(found):
        return Reading.missing("the value is not a number")
    error = getattr(result, f"{number}_error", None) or 0.0
    half = float(scipy.special.ndtri(0.5 + level / 2)) * error if error == error else math.inf
    return Reading(float(found), found - half, found + half, error if error == error else 0.0)


@dataclass(frozen=True)
class Network:
    """One network with its data, in each mode it can be measured in.

    Parameters
    ----------
    label
        What it is called.
    objectives
        By mode. Without batch norm they are one function.
    failures
        Why there is none in other modes.
    """

    label: str
    objectives: Mapping[str, Objective]
    failures: Mapping[str, str]

    @classmethod
    def of(cls, subject: Run | Objective, modes: Sequence[BatchNormMode], label: str = "") -> Network:
        """Of a run in all of `modes`, or of an objective in its own.

        Raises
        ------
        ValueError, ThalwegError
            If the network cannot be had or its loss is not finite, or no mode can be measured; naming it.
        """
        if isinstance(subject, Objective):
            return cls(label, {subject.batch_norm: subject}, {})
        label = label or subject.label
        found: dict[str, Objective] = {}
        errors: dict[str, ValueError] = {}
        network = subject.network()
        for mode in modes:
            try:
                found[mode] = Objective(network, batch_norm=mode, **subject.options)
                found[mode].value()  # a network that diverged has nothing to say to any measure
            except ValueError as error:
                errors[mode] = error
            except ThalwegError as error:
                raise type(error)(f"{label}: {error}") from error
        if not found:
            first = next(iter(errors.values()))
            raise ValueError(f"{label}: {first}") from first
        return cls(label, found, {mode: str(error) for mode, error in errors.items()})

    @property
    def has_batch_norm(self) -> bool:
        """Whether the mode makes any difference."""
        return any(objective.has_batch_norm for objective in self.objectives.values())

    def described(self) -> Mapping[str, Any]:
        """`Objective.describe` of the first of the objectives."""
        return next(iter(self.objectives.values())).describe()

    def read(
        self,
        members: Mapping[str, Member],
        modes: Sequence[str],
        *,
        level: float,
        seed: int,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> dict[tuple[str, str], Reading]:
        """All members in all `modes`; what goes wrong with one of them becomes a reading without a value.

        Without batch norm each is measured once, and its reading stands for all modes.

        Parameters
        ----------
        members, level, seed
            The measures; the level of the intervals; the seed of each measure.
        store
            Keeps the results that there are.
        progress
            Called with steps done and the steps of this network.
        """
        chosen = list(self.objectives) if self.has_batch_norm else list(self.objectives)[:1]
        points = {mode: self.objectives[mode] for mode in chosen}
        takes = {name: replace(member, store=store) for name, member in members.items()}
        outcomes = measured(takes, points, seed=seed, progress=progress)
        readings = {key: _reading(outcome, level) for key, outcome in outcomes.items()}
        for name in members:
            for mode in modes:
                if mode not in chosen:
                    readings[name, mode] = (
                        Reading.missing(self.failures[mode])
                        if self.has_batch_norm
                        else readings[name, chosen[0]]
                    )
        return readings


def _beyond_chance(result: Measurement, level: float) -> tuple[float, float]:
    """What of a result's error is not random, below and above."""
    # Of a sampled eigenvalue the interval is made of chance and bias.
    if isinstance(result, BoundedEigenvalue) and not result.error.data:
        low, high = result.interval(level)
        return max(0.0, result.value - low), max(0.0, high - result.value)
    rest = (result.error.solver or 0.0) + (result.error.grid or 0.0)
    is_censored = isinstance(result, BasinWidth) and result.num_censored > 0
    return rest, math.inf if is_censored else rest


def checked_modes(modes: str | Iterable[str] | None) -> tuple[BatchNormMode, ...]:
    """The modes asked for, in the order of `MODES`; all for ``None``."""
    asked = list(MODES) if modes is None else [modes] if isinstance(modes, str) else list(modes)
    if not asked:
        raise ValueError(f"`modes` must be some of {', '.join(MODES)}, got none.")
    for mode in asked:
        check_one_of("modes", mode, MODES, some=True)
    return tuple(mode for mode in MODES if mode in asked)


def modes_of_pair(
    a: Run | Objective, b: Run | Objective, modes: str | Iterable[str] | None
) -> tuple[BatchNormMode, ...]:
    """The modes that two networks are measured in: those asked for; an objective has but its own.

    Raises
    ------
    TypeError, ValueError
        If one is neither run nor objective, or an objective has another mode than asked for.
    """
    for name, subject in (("a", a), ("b", b)):
        if not isinstance(subject, Run | Objective):
            raise TypeError(
                f"`{name}` must be a thalweg.Objective, the network with its data and loss, or a run of "
                f"thalweg.Runs, got {type(subject).__name__}; wrap it first: "
                "Objective(model, (inputs, targets))."
            )
    own: dict[BatchNormMode, None] = dict.fromkeys(
        subject.batch_norm for subject in (a, b) if isinstance(subject, Objective)
    )
    if not own:
        return checked_modes(modes)
    if len(own) > 1 or (modes is not None and set(checked_modes(modes)) != set(own)):
        raise ValueError(
            f"`modes` must be the objectives' own, which are {', '.join(own)}; pass runs (thalweg.Runs) to "
            "compare in several, or give both objectives one mode."
        )
    return tuple(own)


def _reading(outcome: Outcome, level: float) -> Reading:
    return Reading.of(outcome.result, level) if outcome.result else Reading.missing(outcome.reason)
