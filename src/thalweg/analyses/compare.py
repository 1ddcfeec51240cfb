"""Two networks side by side: every measure in every batch-norm mode, and where their order changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.analyses.measure_choice import Choice, bounded_at, chosen_measures
from thalweg.analyses.orderings import Order, Ordering, changes, remarks
from thalweg.analyses.readings import Network, Reading, modes_of_pair
from thalweg.analyses.runs import Run
from thalweg.core.arguments import check_fraction
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress, part_of
from thalweg.core.rng import stream_seed
from thalweg.core.text_table import in_columns
from thalweg.objective.objective import Objective
from thalweg.solvers.comparable import check_same_setting


@dataclass(frozen=True)
class ComparisonRow:
    """One measure in one mode.

    Parameters
    ----------
    ordering
        Which of the two is the larger: undecided where their intervals overlap.
    values, lows, highs
        Of a and of b: value and ends of the interval; NaN where it was not measured.
    ratio
        a's value over b's, where both are positive; else NaN.
    ratio_low, ratio_high
        What the two intervals leave of it.
    changes
        Whether the row is decided the other way than the first one that is.
    reason
        Why there is no value.
    """

    ordering: Ordering
    values: tuple[float, float]
    lows: tuple[float, float]
    highs: tuple[float, float]
    ratio: float
    ratio_low: float
    ratio_high: float
    changes: bool
    reason: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Measurement):
    """R rows, one for each measure and mode; `value` counts those that change the order of the two.

    Parameters
    ----------
    names
        Of a and of b.
    measures, modes
        ``R`` names and modes; the mode is ``None`` where neither network has batch norm.
    is_normalised, larger_is_sharper, are_lower_bounds
        ``R`` flags: whether the measure claims not to see rescaled weights; whether it grows with sharpness;
        whether the values are lower bounds, compared as they are.
    values, lows, highs
        ``(R, 2)`` float64: value and interval at `level` of a and of b, NaN where it was not measured.
    reasons
        ``R`` texts: why not.
    at_rest
        ``R`` pairs of texts: which parameters of a and of b did not move, empty where all did.
    level
        Of the intervals.
    rounding
        Values that differ by less than this part of the larger are taken as the same: the square root of the
        precision computed in.
    """

    measure: ClassVar[str] = "compare"

    names: tuple[str, str]
    measures: tuple[str, ...]
    modes: tuple[str | None, ...]
    is_normalised: tuple[bool, ...]
    larger_is_sharper: tuple[bool, ...]
    are_lower_bounds: tuple[bool, ...]
    values: Tensor
    lows: Tensor
    highs: Tensor
    reasons: tuple[str, ...]
    level: float
    rounding: float
    at_rest: tuple[tuple[str, str], ...] = ()

    @property
    def orderings(self) -> list[Ordering]:
        """Which of the two is the larger, row by row."""
        return [
            Ordering(name, mode, flat, order := self._larger(i), sharper, self._is_wide(i, order), bounds)
            for i, (name, mode, flat, sharper, bounds) in enumerate(
                zip(
                    self.measures,
                    self.modes,
                    self.is_normalised,
                    self.larger_is_sharper,
                    self.are_lower_bounds,
                    strict=True,
                )
            )
        ]

    @property
    def rows(self) -> list[ComparisonRow]:
        """The table."""
        orderings = self.orderings
        return [
            ComparisonRow(ordering, *self._numbers(i), *self._ratio(i), changed, self.reasons[i])
            for i, (ordering, changed) in enumerate(zip(orderings, changes(orderings), strict=True))
        ]

    @property
    def remarks(self) -> list[str]:
        """What the rows add up to, in sentences."""
        a, b = self.provenance["objectives"]
        alike = ["The two are one network, in weights, statistics and data."] if a == b else []
        return [*alike, *remarks(self.orderings, *self.names), *self._parameters_at_rest()]

    def _parameters_at_rest(self) -> list[str]:
        measures: dict[tuple[str, str], dict[str, None]] = {}
        for measure, texts in zip(self.measures, self.at_rest, strict=False):
            for network, text in zip(self.names, texts, strict=True):
                if text:
                    measures.setdefault((network, text), {})[measure] = None
        return [f"Of {net}, {text}: {', '.join(found)}." for (net, text), found in measures.items()]

    def _numbers(self, i: int) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        values, lows, highs = (table[i].tolist() for table in (self.values, self.lows, self.highs))
        return (values[0], values[1]), (lows[0], lows[1]), (highs[0], highs[1])

    def _larger(self, i: int) -> Order:
        (a, b), (low_a, low_b), (high_a, high_b) = self._numbers(i)
        if math.isnan(a) or math.isnan(b):
            return "not measured"
        # Infinite ones are told apart by their intervals alone.
        if math.isfinite(a) and math.isfinite(b) and abs(a - b) <= self.rounding * max(abs(a), abs(b)):
            return "undecided"
        return "a" if low_a > high_b else "b" if low_b > high_a else "undecided"

    def _is_wide(self, i: int, order: Order) -> bool:
        ends = zip(*self._numbers(i), strict=True)
        return order == "undecided" and any(max(x - low, high - x) > abs(x) for x, low, high in ends)

    def _ratio(self, i: int) -> tuple[float, float, float]:
        (a, b), (low_a, low_b), (high_a, high_b) = self._numbers(i)
        if not (0 < a < math.inf and 0 < b < math.inf):
            return math.nan, math.nan, math.nan
        high = high_a / low_b if low_b > 0 else math.inf
        return a / b, max(0.0, low_a) / high_b, high

    def __repr__(self) -> str:
        orders = [ordering.larger for ordering in self.orderings]
        parts = [f"{len(orders)} rows", f"{orders.count('undecided')} undecided"]
        if missing := orders.count("not measured"):
            parts.append(f"{missing} not measured")
        a, b = self.names
        return f"Comparison({a} and {b}: {', '.join([*parts, f'{self.value:.0f} change the order'])})"

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("measure", "mode", *self.names, "sharper", "")]
        for row in self.rows:
            order = row.ordering
            values = (f"{value:.6g}" for value in row.values)
            sharper = dict(zip("ab", self.names, strict=True)).get(order.sharper, order.sharper)
            changed = "changes the order" if row.changes else ""
            rows.append((order.measure, order.mode or "", *values, sharper, changed))
        return "\n".join([repr(self), in_columns(rows), *self.remarks])


def compare(
    a: Run | Objective,
    b: Run | Objective,
    *,
    measures: Choice = None,
    modes: str | Iterable[str] | None = None,
    level: float = 0.95,
    names: tuple[str, str] = ("a", "b"),
    seed: int,
    progress: Progress | None = None,
) -> Comparison:
    """Measure two networks on the same data in every way, and mark where their order changes.

    Each measure is of one network alone, so that the two may be of different architectures. Two values are in
    an order if their intervals do not overlap. A wrong order of unequal values is then no likelier than
    1 - `level`, however the errors of the two hang together; some order of equal ones no likelier than twice
    that. This is for one row: nothing is corrected for their number. It is about these two networks; what
    holds for others trained alike takes several of each, see `thalweg.contrast`.

    Parameters
    ----------
    a, b
        Runs of `thalweg.Runs`, measured in every mode; or objectives, measured in theirs.
    measures
        See `thalweg.analyses.measure_choice.chosen_measures`. Default: the whole family.
    modes
        Batch-norm modes. Default: all three for runs, the objectives' own for those. Where neither network
        has batch norm there is one row for all; where one has, the other's values are the same in all.
    level
        Of the intervals. Eigenvalues are bounded with that confidence, unless another is given among their
        arguments.
    names
        What the two are called.
    seed
        Of all measures, of both networks: what they draw alike, they draw the same.
    progress
        Called with steps done and all steps.

    Raises
    ------
    TypeError, ValueError
        If a network cannot be had, the two differ in data, loss or precision, or an argument is none.
    ThalwegError
        If a network gives no finite loss, or nothing at all could be measured.
    """
    check_fraction("level", level, "0.95 is customary")
    stream_seed(seed)  # refuses what is no seed, even where nothing is drawn
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"`names` must be two different names, got {names!r}.")
    members, wanted = bounded_at(level, chosen_measures(measures)), modes_of_pair(a, b, modes)
    networks = [Network.of(subject, wanted, name) for subject, name in zip((a, b), names, strict=True)]
    _check_setting(*networks)
    has_batch_norm = any(network.has_batch_norm for network in networks)
    shown = wanted if has_batch_norm else wanted[:1]
    read = [
        network.read(members, shown, level=level, seed=seed, progress=part_of(progress, i, 2))
        for i, network in enumerate(networks)
    ]
    keys = [(name, mode) for name in members for mode in shown]
    pairs = [tuple(readings[key] for readings in read) for key in keys]
    described = [network.described() for network in networks]
    result = Comparison(
        value=0.0,
        provenance={
            "function": "compare",
            "arguments": {
                "measures": {name: dict(member.arguments) for name, member in members.items()},
                "modes": list(wanted),
                "level": level,
                "names": list(names),
                "seed": seed,
            },
            "objectives": described,
        },
        names=(names[0], names[1]),
        measures=tuple(name for name, _ in keys),
        modes=tuple(mode if has_batch_norm else None for _, mode in keys),
        is_normalised=tuple(members[name].is_normalised for name, _ in keys),
        larger_is_sharper=tuple(members[name].larger_is_sharper for name, _ in keys),
        are_lower_bounds=tuple(any(reading.is_lower_bound for reading in pair) for pair in pairs),
        values=_table(pairs, "value"),
        lows=_table(pairs, "low"),
        highs=_table(pairs, "high"),
        reasons=tuple(_reason(pair, names) for pair in pairs),
        at_rest=tuple((pair[0].held, pair[1].held) for pair in pairs),
        level=level,
        rounding=math.sqrt(torch.finfo(getattr(torch, described[0]["dtype"])).eps),
    )
    if all(result.reasons):
        raise ConvergenceError(f"nothing could be measured of both networks; {result.reasons[0]}")
    return replace(result, value=float(sum(row.changes for row in result.rows)))


def _check_setting(a: Network, b: Network) -> None:
    """The same data, loss and precision."""
    for mode in a.objectives:
        if mode in b.objectives:
            first, second = a.objectives[mode], b.objectives[mode]
            check_same_setting(first, second, "must be measured on the same function of their outputs")
            # Named losses are told apart by their names.
            if first.describe()["loss_code"] != second.describe()["loss_code"]:
                raise ValueError("`a` and `b` must have the same loss, got two of one name; pass both one.")
            return
    raise ValueError(
        f"`a` and `b` must have a batch-norm mode in common, but {a.label} can only be measured in "
        f"{', '.join(a.objectives)}, {b.label} in {', '.join(b.objectives)}."
    )


def _table(pairs: Sequence[tuple[Reading, ...]], key: str) -> Tensor:
    return torch.tensor([[getattr(r, key) for r in pair] for pair in pairs], dtype=torch.float64)


def _reason(pair: tuple[Reading, ...], names: tuple[str, str]) -> str:
    reasons = {name: r.reason.rstrip(".") for name, r in zip(names, pair, strict=True) if r.reason}
    if len(reasons) == 2 and len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
