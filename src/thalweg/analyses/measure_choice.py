"""Measures by name, to set networks side by side: members of the family, or any measure of one network."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from thalweg.analyses.curvature_profile import curvature_profile
from thalweg.analyses.sharpness_family import FAMILY, Member
from thalweg.core.arguments import check_one_of
from thalweg.core.measurement import Measurement
from thalweg.measures import MEASURES

Choice = Iterable[str] | Mapping[str, Mapping[str, Any]] | None


def chosen_measures(names: Choice, argument: str = "measures") -> dict[str, Member]:
    """What is asked for, under the names it was asked by.

    Parameters
    ----------
    names
        Names of the family (`thalweg.analyses.sharpness_family.FAMILY`), with the arguments that stand there,
        or of functions (``"hessian_trace"``) with their own defaults; a name that is both is the family's. A
        dictionary gives arguments to each, ``{"sam_sharpness": {"radius": 0.1}}``. ``None`` is the family.
        Whichever the name, claims and direction are those of the function with its arguments
        (`thalweg.analyses.claims`).
    argument
        What the caller's user knows `names` by, for the message.

    Raises
    ------
    ValueError
        If nothing is named, there is no such measure of a single network, or it takes no such argument.
    """
    if names is None:
        return dict(FAMILY)
    if isinstance(names, str):
        names = [names]
    asked = dict(names) if isinstance(names, Mapping) else {name: {} for name in names}
    if not asked:
        raise ValueError(f"`{argument}` must name at least one measure, got none.")
    return {name: _member(name, arguments, argument) for name, arguments in asked.items()}


def bounded_at(level: float, members: Mapping[str, Member]) -> dict[str, Member]:
    """The members with bounds that hold at `level`: beyond its `confidence` an eigenvalue lacks one.

    A `confidence` that is lower by default is raised to `level`; one that was given stays as it is.
    """
    raised = {}
    for name, member in members.items():
        taken = inspect.signature(member.measure).parameters.get("confidence")
        if taken and "confidence" not in member.arguments and taken.default < level:
            raised[name] = replace(member, arguments={**member.arguments, "confidence": level})
    return {**members, **raised}


def _member(name: str, arguments: Mapping[str, Any], argument: str) -> Member:
    functions = single_network_functions()
    check_one_of(argument, name, dict.fromkeys([*FAMILY, *functions]), some=True)
    member = FAMILY[name] if name in FAMILY else Member(functions[name])
    taken = inspect.signature(member.measure).parameters
    settable = [key for key in taken if key not in ("objective", "seed", "store", "progress")]
    wrong = [key for key in arguments if key not in settable]
    if wrong:
        raise ValueError(f"`{argument}` gives {name} {wrong[0]!r}; it takes {', '.join(settable)}.")
    return replace(member, arguments={**member.arguments, **arguments}, given=frozenset(arguments))


def single_network_functions() -> dict[str, Callable[..., Measurement]]:
    """All measures and analyses whose first argument is one objective."""
    functions = {**MEASURES, "curvature_profile": curvature_profile}
    return {k: f for k, f in functions.items() if _first_argument(f) == "objective"}


@functools.cache  # a study asks for its measures hundreds of times
def _first_argument(function: Callable[..., Measurement]) -> str:
    return next(iter(inspect.signature(function).parameters))
