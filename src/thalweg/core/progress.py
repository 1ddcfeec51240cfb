"""Progress of a part of some work, told as progress of the whole."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is done and what there is to do.
Progress = Callable[[int, int], None]

# Steps of the whole within each part.
STEPS = 1000


def part_of(progress: Progress | None, part: int, num_parts: int) -> Progress | None:
    """The progress of one of several parts as a part of the whole; no two need take the same time.

    It never falls back, though a measure may find on its way that it has more to do, and never leaves its
    part, though a measure may do more than it said.

    >>> half = part_of(lambda done, total: print(done, total), 1, 2)
    >>> half(1, 4), half(1, 5), half(6, 5)
    1250 2000
    1250 2000
    2000 2000
    (None, None, None)
    """
    if progress is None:
        return None
    highest = 0

    def report(done: int, of: int) -> None:
        nonlocal highest
        highest = max(highest, part * STEPS + STEPS * min(done, of) // max(of, 1))
        progress(highest, num_parts * STEPS)

    return report
