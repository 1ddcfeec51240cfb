"""Numbers as a reader wants them: digits that the uncertainty supports, its parts named, seconds by stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN
from typing import TYPE_CHECKING, Any

from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.rounding import rounded

if TYPE_CHECKING:
    from thalweg.study.store import Record

MINUS = "−"


@dataclass(frozen=True)
class Cell:
    """One measured number in a table: the value, its 95 % interval and where its uncertainty comes from.

    `ratio` is our value over a published one, where there is one; `nearest` marks the closest of several.
    """

    value: str
    interval: str
    budget: str
    ratio: float | None = None
    nearest: bool = False


@dataclass(frozen=True)
class Stage:
    """What one kind of measurement took: how many records, their seconds, and their share of the whole."""

    name: str
    num_records: int
    seconds: float
    share: float

    @property
    def time(self) -> str:
        """The seconds in words."""
        return format_seconds(self.seconds)


# From here on numbers are shown by a power of ten: ends of intervals of ratios may have fifty digits.
WRITTEN_OUT = 1e15


def format_number(value: float, half_width: float = 0.0, rounding: str = ROUND_HALF_EVEN) -> str:
    """`value` with two digits of its half-width, at most six digits in all; four digits if it is exact.

    >>> format_number(88.4321, 0.21), format_number(0.084239), format_number(-3.0, 100.0)
    ('88.43', '0.08424', '−3')
    """
    if not math.isfinite(value):
        return "not finite" if math.isnan(value) else "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) >= WRITTEN_OUT:
        exponent = math.floor(math.log10(abs(value)))
        return f"{rounded(value / 10.0**exponent, -2, rounding):f}e{exponent}".replace("-", MINUS)
    if half_width > 0 and math.isfinite(half_width):
        decimals = 1 - math.floor(math.log10(half_width))
    else:
        decimals = 3 - (math.floor(math.log10(abs(value))) if value else 0)
    largest = 5 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{rounded(value, -max(0, min(decimals, largest)), rounding):f}".replace("-", MINUS)


def format_interval(low: float, high: float) -> str:
    """A 95 % interval, rounded outwards, or the word for one without width.

    >>> format_interval(88.39, 89.46), format_interval(42.25, 49.61), format_interval(2.0, 2.0)
    ('88.39 to 89.46', '42.2 to 49.7', 'exact')
    """
    if low == high:
        return "exact"
    half = (high - low) / 2
    return f"{format_number(low, half, ROUND_FLOOR)} to {format_number(high, half, ROUND_CEILING)}"


def format_budget(error: ErrorBudget, data: str = "", solver: str = "exact") -> str:
    """The three sources of uncertainty by name.

    Parameters
    ----------
    error
        A result's budget.
    data
        What data that add no error are exact on, such as ``"60,000 examples"``.
    solver
        What to say of a solver that states no bound.

    Examples
    --------
    >>> format_budget(ErrorBudget(solver=0.088), "60,000 examples")
    'solver ≤ 0.088 · probe exact · data exact on 60,000 examples'
    """
    if error.solver is not None:
        solver = f"≤ {error.solver:.2g}"
    whole = f"exact on {data}" if data else "exact"
    grid = "" if error.grid is None else f" · grid about {error.grid:.2g}"
    probes, examples = _standard_error(error.probe), _standard_error(error.data, whole)
    return f"solver {solver} · probe {probes} · data {examples}{grid}"


def _standard_error(part: StandardError | None, exact: str = "exact") -> str:
    if part is None:
        return exact
    # Beyond that many, Student's quantiles are the normal ones to every digit shown.
    dof = f", {part.dof:.0f} d.f." if part.dof < 1000 else ""
    return f"s.e. {part.value:.2g}{dof}"


def format_seconds(seconds: float) -> str:
    """A duration for people.

    >>> format_seconds(0.42), format_seconds(75), format_seconds(4000)
    ('0.4 s', '1 min 15 s', '1 h 07 min')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def stages(records: Sequence[Record]) -> list[Stage]:
    """Seconds by measure, in the order in which the measures first appear."""
    total = math.fsum(record.seconds for record in records)
    names = dict.fromkeys(record.measure for record in records)
    found = []
    for name in names:
        seconds = [record.seconds for record in records if record.measure == name]
        spent = math.fsum(seconds)
        found.append(Stage(name, len(seconds), spent, spent / total if total else 0.0))
    return found


def versions(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Versions and threads of what ran, each name once; several of one name are all shown."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in {**record.versions, "threads": str(record.num_threads)}.items():
            found.setdefault(name, {})[version] = None
    return [(name, ", ".join(versions)) for name, versions in sorted(found.items())]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names with values in words.

    >>> flatten({"seed": 1, "path": {"num_points": 21, "splits": ["train", "test"]}})
    [('seed', '1'), ('path.num_points', '21'), ('path.splits', 'train, test')]
    """
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(map(str, value)) or "none"))
        else:
            rows.append((name, str(value)))
    return rows
