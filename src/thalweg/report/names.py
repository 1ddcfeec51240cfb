"""Long names of networks and directions, made short enough for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from thalweg.analyses.mode_connectivity_result import ModeConnectivity, aligned_name

# Letters of a name that every picture has room for.
MOST_LETTERS = 24

# What the name of a direction that leads to a network begins with.
TO = "to "


def shortened(names: Sequence[str], most: int) -> list[str]:
    """Each with at most so many letters; more where different ones would look alike.

    The middle is left out, or, where it is there that long names differ, what they begin and end with.

    >>> shortened(["runs/a/long/way/down/epoch-9.pt", "b"], 16)
    ['runs/a/…och-9.pt', 'b']
    >>> shortened([f"runs/a/long/way/seed-{i}/checkpoints/epoch-9.pt" for i in (1, 2)], 16)
    ['…seed-1…', '…seed-2…']
    """
    whole = list(names)
    short = [_without_middle(name, most) for name in whole]
    if _are_apart(short, names):
        return short
    head, tail = _alike([name for name in names if len(name) > most], most)
    whole = [
        f"{'…' * (head > 0)}{name[head : len(name) - tail]}{'…' * (tail > 0)}" if len(name) > most else name
        for name in names
    ]
    while not _are_apart(short := [_without_middle(name, most) for name in whole], names):
        most += 4
    return short


def _are_apart(short: Sequence[str], names: Sequence[str]) -> bool:
    return len(set(short)) == len(set(names))


def _alike(names: Sequence[str], most: int) -> tuple[int, int]:
    """How many letters the names begin and end with alike, but for the words in which they differ."""
    start = names[0][: _num_alike(names)]
    rest = [name[len(start) :][::-1] for name in names]
    end = rest[0][: _num_alike(rest)][::-1]
    # As far as a folder goes, or some letters of it.
    head = max(start.rfind("/") + 1, len(start) - most // 2)
    stop = end.find("/")
    return head, max(len(end) - stop if stop >= 0 else 0, len(end) - most // 4)


def _num_alike(names: Sequence[str]) -> int:
    letters = enumerate(zip(*names, strict=False))
    return next((i for i, each in letters if len(set(each)) > 1), min(map(len, names)))


def with_short_names(result: Any, most: int = MOST_LETTERS) -> tuple[Any, dict[str, str]]:
    """The result with the names of its networks and directions made short, and the full one of each that was.

    Whatever is drawn or said of the result is then short, and the same everywhere.
    """
    if isinstance(result, ModeConnectivity):
        short = dict(zip(result.names, shortened(result.names, most), strict=True))
        named = {aligned_name(full): aligned_name(name) for full, name in short.items()} | short
        changed: dict[str, Any] = {
            "names": tuple(short.values()),
            "plane_names": tuple(named.get(name, name) for name in result.plane_names),
        }
    elif hasattr(result, "direction_names"):
        full_names = [name.removeprefix(TO) for name in result.direction_names]
        short = dict(zip(full_names, shortened(full_names, most), strict=True))
        leads = [TO if name.startswith(TO) else "" for name in result.direction_names]
        changed = {
            "direction_names": tuple(to + short[name] for to, name in zip(leads, full_names, strict=True))
        }
    else:
        return result, {}
    full = {name: whole for whole, name in short.items() if name != whole}
    return (replace(result, **changed), full) if full else (result, {})


def _without_middle(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    tail = most // 2
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"
