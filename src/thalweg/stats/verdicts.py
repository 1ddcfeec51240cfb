"""Claims on two groups of runs: supported, refuted or undecided, several of them at one level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from numpy.typing import ArrayLike

from thalweg.stats.contrasts import TwoSample

DIRECTIONS = ("larger", "smaller", "equivalent")
Answer = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True)
class Claim:
    """That a is larger (smaller) than b, or the same within `margin`.

    `margin` > 0 in the unit of the values, or, with `ratio`, a factor > 1 (1.1: within 10 %); None: no
    equivalence is looked for. `errors_*` are standard errors of single values (n,), `below_*` and `above_*` how
    far below and above its value each may lie by what a solver left.
    """

    a: ArrayLike
    b: ArrayLike
    direction: str
    margin: float | None = None
    ratio: bool = True
    paired: bool = False
    errors_a: ArrayLike | None = None
    errors_b: ArrayLike | None = None
    below_a: ArrayLike | None = None
    above_a: ArrayLike | None = None
    below_b: ArrayLike | None = None
    above_b: ArrayLike | None = None


@dataclass(frozen=True)
class Judgement:
    """The answer on one claim; `effect` is a ratio of geometric means, or a difference of means."""

    answer: Answer
    basis: str  # "direction", "opposite", "equivalence", "beyond", or "" where undecided
    direction: str
    effect: float
    low: float
    high: float
    level: float
    is_ratio: bool
    margin: float | None
    p_larger: float  # doubled one-sided p-values of the three findings
    p_smaller: float
    p_equivalent: float  # NaN without a margin
    p_support: float
    p_refute: float
    p_support_corrected: float
    p_refute_corrected: float
    smallest_p: float
    correction: str
    num_claims: int
    measurement_share: float
    sample: TwoSample  # of the logarithms if is_ratio: num_a, num_b, Hedges' g with its interval, ...


def judge(
    claims: Sequence[Claim], *, level: float = 0.95, correction: str = "holm", seed: int
) -> list[Judgement]:
    """All claims of one family at once (correction "holm"), or one by one (correction "none")."""
    raise NotImplementedError
