"""Files by a pattern with named fields: ``"ckpt/{recipe}/seed{seed}.pt"``."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

Value = int | float | str
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
NAMES_SHOWN = 6


def run_files(pattern: str) -> list[tuple[Path, dict[str, Value]]]:
    """All files that match, with what their names say, in the order of that.

    A field matches any text within one part of the path, the first as much as it can; all else stands for
    itself. A field used twice must say the same. Where a field is a number in every file it becomes one.

    Parameters
    ----------
    pattern
        A path with fields in braces, relative to the current folder or absolute. ``{{`` is a brace.

    Raises
    ------
    ValueError
        If the pattern has no fields or no sense, two files say the same, or nothing matches; it then says
        where the search ended and what lies there.
    """
    parts = [_part(part) for part in Path(pattern).expanduser().parts]
    if not any(fields for _, fields in parts):
        raise ValueError(
            f"`pattern` must name what varies by fields in braces, such as ckpt/{{recipe}}/seed{{seed}}.pt, "
            f"got {pattern!r}."
        )
    found = [(path, fields) for path, fields in _paths(Path(), parts, {}) if path.is_file()]
    if not found:
        raise ValueError(f"`pattern` {pattern} matches no file: {_where_it_ends(parts)}.")
    rows = _with_numbers([fields for _, fields in found])
    order = sorted(range(len(rows)), key=lambda i: [_sorted_by(v) for v in rows[i].values()])
    result = [(found[i][0], rows[i]) for i in order]
    for (first, fields), (second, others) in pairwise(result):
        if fields == others:
            raise ValueError(
                f"`pattern` must tell its files apart, but {first} and {second} both say {in_words(fields)}."
            )
    return result


def in_words(fields: Mapping[str, Value]) -> str:
    """Fields as a label.

    >>> in_words({"recipe": "sam", "seed": 3})
    'recipe=sam, seed=3'
    """
    return ", ".join(f"{name}={value}" for name, value in fields.items())


Part = tuple[re.Pattern[str] | str, list[str]]


def _part(text: str) -> Part:
    """One part of the path: its text if nothing varies, else an expression, and the names of its fields."""
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"`pattern` cannot be read at {text!r}: {error}.") from None
    expression, plain, fields, was_field = "", "", [], False
    for literal, name, form, conversion in pieces:
        expression, plain = expression + re.escape(literal), plain + literal
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise ValueError(
                f"`pattern` must have names of letters, digits and underscores in its braces, got {text!r}."
            )
        if was_field and not literal:
            raise ValueError(f"`pattern` must have some text between two fields, got {text!r}.")
        # Named again within one part it must match the same text there and then.
        expression += f"(?P={name})" if name in fields else f"(?P<{name}>.+)"
        fields.append(name)
        was_field = True
    return (re.compile(expression), fields) if fields else (plain, [])


def _paths(folder: Path, parts: list[Part], fields: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """What matches, files and folders alike."""
    (part, _), *rest = parts
    if isinstance(part, str):
        steps = [(folder / part, {})]
    else:
        steps = [(folder / n, m.groupdict()) for n in _names(folder) if (m := part.fullmatch(n))]
    for path, new in steps:
        if any(fields.get(name, text) != text for name, text in new.items()) or not path.exists():
            continue
        if rest:
            yield from _paths(path, rest, fields | new)
        else:
            yield path, fields | new


def _names(folder: Path) -> list[str]:
    """What lies in a folder; hidden files, such as half-written ones, are none of the runs."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []


def _where_it_ends(parts: list[Part]) -> str:
    """The first folder, along the way, in which nothing goes on."""
    folder = Path()
    for depth in range(1, len(parts) + 1):
        reached = next((path for path, _ in _paths(Path(), parts[:depth], {})), None)
        if reached is None:
            names = _names(folder)
            shown = ", ".join(names[:NAMES_SHOWN]) or "nothing"
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            return f"in {folder} there is {shown}{more}" if folder.is_dir() else f"{folder} is no folder"
        folder = reached
    return f"{folder} is no file"


def _with_numbers(rows: list[dict[str, str]]) -> list[dict[str, Value]]:
    result: list[dict[str, Value]] = [dict(row) for row in rows]
    for name in rows[0]:
        texts = [row[name] for row in rows]
        if all(NUMBER.fullmatch(text) for text in texts):
            kind = int if all(text.lstrip("+-").isdecimal() for text in texts) else float
            for row in result:
                row[name] = kind(row[name])
    return result


def _sorted_by(value: Value) -> tuple[int, float, str]:
    return (1, 0.0, value) if isinstance(value, str) else (0, float(value), "")
