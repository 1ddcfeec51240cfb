"""What a function declares of an argument, checked and in words."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from thalweg.analyses.measure_choice import chosen_measures
from thalweg.analyses.sharpness_family import Member

# One of a kind, and several.
WORDS: Mapping[Any, tuple[str, str]] = {
    bool: ("True or False", "True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    type(None): ("None", "None"),
}

# Of settings that may be meant.
NAMES_SHOWN = 3


def by_measure(
    settings: Sequence[str], chosen: Mapping[str, Member], others: Mapping[str, Collection[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Arguments to each of several measures, from texts such as ``"trace.rtol=0.02"``.

    Parameters
    ----------
    settings
        Each ``measure.argument=value``.
    chosen
        The measures by name, all of which the result has.
    others
        What else the user may set, by name, with the arguments it takes: for the message alone.

    Raises
    ------
    ValueError
        If a text has another form, or names another measure, or an argument or value that it does not take.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    taken = {name: list(inspect.signature(member.measure).parameters) for name, member in chosen.items()}
    taken |= {name: list(arguments) for name, arguments in (others or {}).items()}
    for setting in settings:
        place, separator, text = setting.partition("=")
        name, dot, key = place.partition(".")
        if not (separator and dot) or name not in found:
            owners = [owner for owner in taken if (key if dot else name) in taken[owner]]
            meant = [f"{owner}.{key if dot else name}" for owner in owners[:NAMES_SHOWN]]
            hint = f"; {_either(meant)} may be meant." if meant else "."
            raise ValueError(
                f"`set` must be measure.argument=value with a measure among {', '.join(taken)}, got "
                f"{setting!r}{hint}"
            )
        chosen_measures({name: {key: None}}, "set")  # whether it takes such an argument
        found[name][key] = as_declared(chosen[name].measure, key, text)
    return found


def as_declared(function: Any, key: str, text: str) -> Any:
    """The text as a Python literal or else as it is, checked against what the function declares.

    Raises
    ------
    ValueError
        If it is nothing of the kind: argument, requirement, what was got.
    """
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = {"true": True, "false": False, "null": None}.get(text, text)
    declared = get_type_hints(function)[key]
    try:
        return TypeAdapter(declared).validate_python(value)
    except ValidationError:
        raise ValueError(f"`{key}` in --set must be {in_words(declared)}, got {text!r}.") from None


def in_words(declared: Any) -> str:
    """A type as a reader would say it.

    >>> in_words(float | None), in_words(Literal["top", "bottom"]), in_words(tuple[int, int])
    ('a number or None', "'top' or 'bottom'", 'a list of 2 whole numbers')
    >>> in_words(str | Sequence[str] | None)
    'a text, a list of texts or None'
    """
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Literal:
        return _either([repr(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        return _either([in_words(choice) for choice in arguments])
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} {_several(arguments)}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list of {_several(arguments[:1])}"
    return WORDS[declared][0] if declared in WORDS else str(declared)


def _several(kinds: Sequence[Any]) -> str:
    return _either([WORDS[kind][1] if kind in WORDS else in_words(kind) for kind in dict.fromkeys(kinds)])


def _either(choices: list[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last
