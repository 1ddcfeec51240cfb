"""Long names of networks and directions, made short enough for a picture."""

from __future__ import annotations

from collections.abc import Sequence


def shortened(names: Sequence[str], most: int) -> list[str]:
    """Each with at most so many letters, its middle left out; more where different ones would look alike.

    >>> shortened(["runs/a/long/way/down/epoch-9.pt", "b"], 16)
    ['runs/a/…och-9.pt', 'b']
    """
    while True:
        short = [_shortened(name, most) for name in names]
        if len(set(short)) == len(set(names)):
            return short
        most += 4


def _shortened(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    tail = most // 2
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"
