"""What a contrast of two groups says, row by row, computed from the values of the single runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.analyses.attainable import nothing_decidable, smallest_corrected_p
from thalweg.analyses.orderings import Order, Ordering, changes, remarks
from thalweg.analyses.run_files import Value
from thalweg.core.arguments import check_fraction
from thalweg.core.measurement import Measurement
from thalweg.stats.contrasts import TwoSample, measurement_share, two_sample
from thalweg.stats.multiplicity import holm, joint_p_values
from thalweg.stats.permutation import relabelled
from thalweg.stats.power import detectable_difference

CORRECTIONS = ("joint", "holm", "none")


@dataclass(frozen=True)
class ContrastRow:
    """One measure in one mode; without `sample` it was not measured.

    Parameters
    ----------
    ordering
        Which group is the larger: decided if the interval keeps off nought and `p_corrected` is at most
        1 - level.
    sample
        The contrast of the values (of their logarithms, if those were asked for) by the spread of the runs.
    low, high
        The interval of the difference, widened by what the solvers may have left.
    p_joint, p_holm, p_corrected
        Corrected for the number of rows, jointly and by Holm; the one asked for.
    measurement_share
        Which part of the squared standard error comes from measuring: with one, more runs bring little.
    detectable
        The difference that so many runs of this spread would show in four cases of five.
    changes
        Whether the row is decided the other way than the first one that is.
    reason
        Why there is no sample.
    """

    ordering: Ordering
    sample: TwoSample | None
    low: float
    high: float
    p_joint: float
    p_holm: float
    p_corrected: float
    measurement_share: float
    detectable: float
    changes: bool
    reason: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Contrast(Measurement):
    """R rows, one for each measure and mode, of n runs against m; `value` is the first row's difference.

    The spread between runs is no part of the error budget, which is about one network; `interval` and `rows`
    have it.

    Parameters
    ----------
    by, groups
        The field that makes the groups, and its two values, a and b.
    runs_a, runs_b
        ``n`` and ``m`` labels of the runs; in the order of the pairs, where they are `paired`.
    measures, modes
        ``R`` names and modes; the mode is ``None`` where no network has batch norm.
    is_normalised, larger_is_sharper, are_lower_bounds
        ``R`` flags: whether the measure claims not to see rescaled weights; whether it grows with sharpness;
        whether the values are lower bounds, compared as they are.
    values_a, values_b
        ``(R, n)`` and ``(R, m)`` float64, NaN where it was not measured.
    errors_a, errors_b
        Their standard errors, of the random parts.
    below_a, above_a, below_b, above_b
        How far below and above its value each may lie by what the solver left.
    reasons
        ``R`` texts: why a row has no contrast.
    paired, log, level, correction, seed
        As asked.
    """

    measure: ClassVar[str] = "contrast"

    by: str
    groups: tuple[Value, Value]
    runs_a: tuple[str, ...]
    runs_b: tuple[str, ...]
    measures: tuple[str, ...]
    modes: tuple[str | None, ...]
    is_normalised: tuple[bool, ...]
    larger_is_sharper: tuple[bool, ...]
    are_lower_bounds: tuple[bool, ...]
    values_a: Tensor
    values_b: Tensor
    errors_a: Tensor
    errors_b: Tensor
    below_a: Tensor
    below_b: Tensor
    above_a: Tensor
    above_b: Tensor
    reasons: tuple[str, ...]
    paired: bool
    log: bool
    level: float
    correction: str
    seed: int

    @property
    def names(self) -> tuple[str, str]:
        """What the groups are called."""
        return str(self.groups[0]), str(self.groups[1])

    @property
    def orderings(self) -> list[Ordering]:
        """Which group is the larger, row by row."""
        return [row.ordering for row in self.rows]

    @property
    def remarks(self) -> list[str]:
        """What the rows add up to, in sentences, and what the corrected p-values can reach at all."""
        lines = remarks(self.orderings, *self.names)
        hopeless = nothing_decidable(*self._sizes, **self._rule, level=self.level)
        return [hopeless, *lines] if hopeless else lines

    @property
    def smallest_corrected_p(self) -> float:
        """What the smallest of the corrected p-values can be at best."""
        return smallest_corrected_p(*self._sizes, **self._rule)

    @property
    def _sizes(self) -> tuple[int, int]:
        return len(self.runs_a), len(self.runs_b)

    @property
    def _rule(self) -> dict[str, Any]:
        num_rows = sum(not reason for reason in self.reasons)
        return {"paired": self.paired, "correction": self.correction, "num_rows": num_rows}

    @cached_property
    def rows(self) -> list[ContrastRow]:
        """The table."""
        a, b, errors_a, errors_b = self._numbers
        index = [i for i, reason in enumerate(self.reasons) if not reason]
        labels = relabelled(a[index], b[index], paired=self.paired, seed=self.seed)
        samples: list[TwoSample | None] = [None] * len(a)
        plain, joint, by_holm = np.full((3, len(a)), math.nan)
        plain[index] = labels.p_values
        for i in index:
            p_value = float(plain[i])
            samples[i] = two_sample(a[i], b[i], paired=self.paired, level=self.level, p_value=p_value)
        joint[index], by_holm[index] = joint_p_values(labels), holm(plain[index])
        corrected = {"joint": joint, "holm": by_holm, "none": plain}[self.correction]
        rows = []
        for i, sample in enumerate(samples):
            low, high = self._interval(i, sample)
            order = _order(low, high, float(corrected[i]), self.level)
            rows.append(
                ContrastRow(
                    ordering=Ordering(
                        self.measures[i],
                        self.modes[i],
                        self.is_normalised[i],
                        order,
                        self.larger_is_sharper[i],
                        order == "undecided" and self._is_wide(i),
                        self.are_lower_bounds[i],
                    ),
                    sample=sample,
                    low=low,
                    high=high,
                    p_joint=float(joint[i]),
                    p_holm=float(by_holm[i]),
                    p_corrected=float(corrected[i]),
                    measurement_share=measurement_share(sample.standard_error, errors_a[i], errors_b[i])
                    if sample
                    else math.nan,
                    detectable=_detectable(sample) if sample else math.nan,
                    changes=False,
                    reason=self.reasons[i],
                )
            )
        marks = changes([row.ordering for row in rows])
        return [replace(row, changes=changed) for row, changed in zip(rows, marks, strict=True)]

    def interval(self, level: float | None = None) -> tuple[float, float]:
        """Of the first row's difference, at the contrast's own level or at another."""
        level = self.level if level is None else level
        check_fraction("level", level, "0.95 is customary")
        row = (self if level == self.level else replace(self, level=level)).rows[0]
        return row.low, row.high

    def headed(self) -> Contrast:
        """With the first row's difference as its value."""
        sample = self.rows[0].sample
        return replace(self, value=sample.difference if sample else math.nan)

    @property
    def _numbers(self) -> tuple[NDArray[np.float64], ...]:
        """Values ``(R, n)``, ``(R, m)`` and their standard errors, of the logarithms if asked for."""
        a, b, errors_a, errors_b = (
            t.numpy() for t in (self.values_a, self.values_b, self.errors_a, self.errors_b)
        )
        if not self.log:
            return a, b, errors_a, errors_b
        with np.errstate(divide="ignore", invalid="ignore"):  # rows that have no logarithm are left out
            return np.log(a), np.log(b), errors_a / a, errors_b / b

    def _interval(self, i: int, sample: TwoSample | None) -> tuple[float, float]:
        """By the spread of the runs, and what the solvers' parts may move the difference of the means by."""
        if sample is None:
            return math.nan, math.nan
        sides = {
            side: [getattr(self, f"{k}_{side}")[i].numpy() for k in ("values", "below", "above")]
            for side in "ab"
        }
        down, up = {}, {}
        for side, (values, below, above) in sides.items():
            if self.log:
                with np.errstate(divide="ignore"):
                    below = np.log(values) - np.log(np.maximum(values - below, 0.0))
                    above = np.log1p(above / values)
            down[side], up[side] = float(below.mean()), float(above.mean())
        return sample.low - down["a"] - up["b"], sample.high + up["a"] + down["b"]

    def _is_wide(self, i: int) -> bool:
        """Whether what the solvers may have left is more than the values, in either group."""
        return any(
            float(torch.maximum(below[i], above[i]).mean()) > float(values[i].abs().mean())
            for values, below, above in (
                (self.values_a, self.below_a, self.above_a),
                (self.values_b, self.below_b, self.above_b),
            )
        )

    def __repr__(self) -> str:
        a, b = self.names
        orders = [ordering.larger for ordering in self.orderings]
        decided = sum(order in ("a", "b") for order in orders)
        row = self.rows[0]
        parts = [f"{self.by}: {len(self.runs_a)} {a} against {len(self.runs_b)} {b}"]
        if row.sample:
            what = "log ratio" if self.log else "difference"
            parts.append(
                f"{self.measures[0]} {what} {row.sample.difference:.4g}, {row.low:.4g} to {row.high:.4g} "
                f"({100 * self.level:.4g} %)"
            )
        return f"Contrast({'; '.join([*parts, f'{decided} of {len(orders)} rows decided'])})"


def _order(low: float, high: float, p_corrected: float, level: float) -> Order:
    if math.isnan(p_corrected):
        return "not measured"
    # In the last digit 1 - 0.95 is not 0.05.
    if p_corrected > 1 - level + 1e-12:
        return "undecided"
    return "a" if low > 0 else "b" if high < 0 else "undecided"


def _detectable(sample: TwoSample) -> float:
    """In the unit of the difference."""
    num_a, num_b = sample.num_a, sample.num_b
    unit = sample.standard_error / math.sqrt(1 / num_a if sample.paired else 1 / num_a + 1 / num_b)
    return unit * detectable_difference(num_a, num_b, paired=sample.paired, level=sample.level)
