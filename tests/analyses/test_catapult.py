"""`Catapults`: planted readings, each condition by itself."""

from __future__ import annotations

import pytest

from thalweg.analyses.catapult import Catapults

Reading = tuple[float, float | None]


def seen(readings: list[Reading]) -> list[int]:
    """At which readings one was seen to end."""
    catapults = Catapults()
    return [i for i, reading in enumerate(readings) if catapults.saw(*reading)]


# name: readings (loss, sharpness), and where a catapult ends.
CASES: dict[str, tuple[list[Reading], list[int]]] = {
    "calm": ([(1.0, 10.0), (0.9, 11.0), (0.8, 12.0), (0.7, 13.0)], []),
    "loss up, then down where it is flatter": ([(1.0, 10.0), (5.0, 9.0), (20.0, 4.0), (2.0, 3.0)], [3]),
    "flagged while the loss is still high": ([(1.0, 10.0), (20.0, 9.0), (19.0, 7.9), (18.0, 7.8)], [2]),
    "no flatter afterwards": ([(1.0, 10.0), (5.0, 12.0), (1.2, 9.0), (1.0, 7.0)], []),
    "flatter without a rise of the loss": ([(1.0, 10.0), (1.4, 5.0), (0.9, 2.0)], []),
    "still rising": ([(1.0, 10.0), (5.0, 9.0), (20.0, 4.0), (90.0, 1.0)], []),
    "verdict waits for a sharpness": ([(1.0, 10.0), (5.0, None), (1.0, None), (0.9, None), (0.8, 6.0)], [4]),
    "and may be no": ([(1.0, 10.0), (5.0, None), (1.0, None), (0.8, 9.5)], []),
    "the last sharpness before the rise": ([(1.0, 4.0), (0.9, 10.0), (0.9, None), (5.0, 9), (2.0, 7)], [4]),
    "nothing known before": ([(1.0, None), (5.0, 9.0), (2.0, 4.0)], []),
    "two of them": (
        [(1.0, 10.0), (5.0, 9.0), (2.0, 5.0), (1.0, 5.5), (0.5, 6.0), (3.0, 6.0), (0.5, 4.0)],
        [2, 6],
    ),
    "one rise is one catapult": ([(1.0, 10.0), (50.0, 9.0), (40.0, 5.0), (30.0, 3.0), (1.0, 2.0)], [2]),
    "negative losses": ([(-3.0, 10.0), (-2.0, 9.0), (-1.0, 8.5), (-2.9, 5.0)], [3]),
}


@pytest.mark.parametrize("name", CASES)
def test_where_one_ends(name: str) -> None:
    readings, expected = CASES[name]
    assert seen(readings) == expected
