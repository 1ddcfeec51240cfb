"""Which of two is the sharper, row by row, and where that changes: with the mode, with normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Order = Literal["a", "b", "undecided", "not measured"]


@dataclass(frozen=True)
class Ordering:
    """What one measure says of the two in one batch-norm mode.

    Parameters
    ----------
    measure, mode
        Name and mode; no mode where neither has batch norm.
    is_normalised
        Whether the measure claims not to see rescaled weights.
    larger
        Whose value is the larger, as far as that is decided.
    larger_is_sharper
        False for radii and widths.
    is_wide
        Whether nothing was decided, and the bounds of a value lie further off than the value is large: hardly
        any two networks would then be told apart.
    is_lower_bound
        Whether the values bound what the measure is about from below, and are in the order of the bounds.
    """

    measure: str
    mode: str | None
    is_normalised: bool
    larger: Order
    larger_is_sharper: bool = True
    is_wide: bool = False
    is_lower_bound: bool = False

    @property
    def sharper(self) -> Order:
        """Who is the sharper."""
        if self.larger_is_sharper or self.larger not in ("a", "b"):
            return self.larger
        return "b" if self.larger == "a" else "a"


def reference(rows: Sequence[Ordering]) -> Ordering | None:
    """The first row that is decided, which the others are held against."""
    return next((row for row in rows if row.sharper in ("a", "b")), None)


def changes(rows: Sequence[Ordering]) -> list[bool]:
    """Whether each row is decided, and the other way than the reference."""
    first = reference(rows)
    return [first is not None and row.sharper in ("a", "b") and row.sharper != first.sharper for row in rows]


def change_with_mode(rows: Sequence[Ordering]) -> list[str]:
    """Measures that order the two one way in one mode and the other way in another."""
    names = dict.fromkeys(row.measure for row in rows)
    return [name for name in names if _both([row for row in rows if row.measure == name])]


def change_with_normalisation(rows: Sequence[Ordering]) -> list[tuple[str | None, Order, Order]]:
    """Modes in which all that raw measures decide is one way, and all that normalised ones decide the other.

    Each with who is the sharper by the raw ones, and by the normalised ones.
    """
    found: list[tuple[str | None, Order, Order]] = []
    for mode in dict.fromkeys(row.mode for row in rows):
        sides = [
            {r.sharper for r in rows if r.mode == mode and r.is_normalised == kind} & {"a", "b"}
            for kind in (False, True)
        ]
        if all(len(side) == 1 for side in sides) and sides[0] != sides[1]:
            found.append((mode, next(iter(sides[0])), next(iter(sides[1]))))  # type: ignore[arg-type]
    return found


def remarks(rows: Sequence[Ordering], a: str, b: str) -> list[str]:
    """What the rows add up to, in sentences."""
    names = {"a": a, "b": b}
    first = reference(rows)
    if first is None:
        return [f"No row decides between {a} and {b}.", *_wide(rows)]
    counts = {side: sum(row.sharper == side for row in rows) for side in names}
    num_decided = sum(counts.values())
    found = " and ".join(f"{names[side]} by {number}" for side, number in counts.items() if number)
    lines = [f"{num_decided} of {len(rows)} rows are decided: sharper is {found}."]
    if all(counts.values()):
        lines.append(
            f"Marked rows decide the other way than the first one decided ({first.measure}{_in(first.mode)})."
        )
    if by_mode := change_with_mode(rows):
        lines.append(f"The order of the two hangs on the batch-norm mode by {', '.join(by_mode)}.")
    for mode, raw, normalised in change_with_normalisation(rows):
        lines.append(
            f"Raw and normalised measures contradict each other{_in(mode)}: sharper is {names[raw]} by the "
            f"raw ones, {names[normalised]} by those that do not see rescaled weights."
        )
    return [*lines, *_bounds(rows), *_wide(rows)]


def _bounds(rows: Sequence[Ordering]) -> list[str]:
    decided = [row for row in rows if row.is_lower_bound and row.sharper in ("a", "b")]
    names = dict.fromkeys(row.measure for row in decided)
    if not names:
        return []
    return [
        f"Decided by lower bounds, of what an ascent found: {', '.join(names)}. The maxima themselves may "
        "lie in another order."
    ]


def _wide(rows: Sequence[Ordering]) -> list[str]:
    names = dict.fromkeys(row.measure for row in rows if row.is_wide)
    if not names:
        return []
    return [
        f"Bounds too wide to tell any but the most different networks apart: {', '.join(names)}. That they "
        "are undecided says nothing; tighter arguments may decide them."
    ]


def _in(mode: str | None) -> str:
    return f", batch norm {mode}" if mode else ""


def _both(rows: Sequence[Ordering]) -> bool:
    return {"a", "b"} <= {row.sharper for row in rows}
