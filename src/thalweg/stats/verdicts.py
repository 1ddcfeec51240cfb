r"""Claims on two groups of runs: supported, refuted or undecided, several of them at one level.

========== ================ ========================
claim      is supported if  is refuted if
========== ================ ========================
larger     larger           smaller, or equivalent
smaller    smaller          larger, or equivalent
equivalent equivalent       beyond
========== ================ ========================

What these findings are, `thalweg.stats.equivalence` says. Where both columns hold, in a difference that is
there but shown to be less than the margin, the claim is refuted: the margin was declared as what does not
matter, and with runs enough every claim would be supported otherwise.

**Level.** The p-values that support are corrected by Holm's rule and, apart from them, those that refute.
Of a claim "larger" with the true difference :math:`\delta` and the margin m it is false to support it at
:math:`\delta \le 0` and to refute it at :math:`\delta \ge m`; there both findings that refute have an upper
limit below m, so that they are false together no oftener than one. As each p-value is a doubled one, either
family keeps (1 - level) / 2 whatever the dependence between claims, and all verdicts are true together with
a probability of `level` at least. Between nought and m both answers are true, each in its own sense. One
rule of Holm's over the smaller of both p-values would spare a little, but is proved for independent claims
alone: a claim once decided goes out of its count, though it could still be decided falsely.

References
----------
Holm (1979), Scandinavian Journal of Statistics 6(2), 65-70; Shaffer (1980), Annals of Statistics 8(6),
1342-1347; Finner and Strassburger (2002), Annals of Statistics 30(4), 1194-1213.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_flag, check_fraction, check_one_of, is_number
from thalweg.stats.contrasts import TwoSample, measurement_share
from thalweg.stats.equivalence import Findings, findings
from thalweg.stats.multiplicity import holm
from thalweg.stats.permutation import smallest_p_value

DIRECTIONS = ("larger", "smaller", "equivalent")
CORRECTIONS = ("holm", "none")
Answer = Literal["supported", "refuted", "undecided"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Claim:
    """That a is larger (smaller) than b, or the same within a margin.

    Parameters
    ----------
    a, b
        ``(n,)`` and ``(m,)``, one value a run, at least two of each.
    direction
        ``"larger"``, ``"smaller"`` or ``"equivalent"``.
    margin
        What does not matter: a difference > 0, or with `ratio` a factor > 1, 1.1 for a tenth. Without one no
        equivalence is looked for.
    ratio
        Whether geometric means are compared, of positive values: right where the larger ones spread more.
    paired
        Whether ``a[i]`` and ``b[i]`` belong together, as runs do that share initialisation and data order.
    errors_a, errors_b
        Standard errors of the single values, independent from run to run. They are in the spread of the
        runs, and so in the interval, already; what they tell is how large a part of it they are.
    below_a, above_a, below_b, above_b
        How far below and above its value each may lie by what a solver left, >= 0. No spread shows that:
        intervals are widened by it, and every test is of the worst case.
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
    """The answer on one claim.

    Parameters
    ----------
    answer, basis
        And the finding it rests on: ``"larger"``, ``"smaller"``, ``"equivalent"``, ``"beyond"``; of two that
        refute the one with the smaller p-value; empty where nothing is decided.
    direction, margin, is_ratio
        As claimed.
    effect, low, high, level
        Ratio of geometric means or difference of means, a's by b's, and its two-sided interval, widened by
        what solvers left; not corrected for the number of claims.
    p_larger, p_smaller, p_equivalent, p_beyond
        Of each finding, see `thalweg.stats.equivalence.Findings`.
    p_support, p_refute, p_support_corrected, p_refute_corrected
        Of the claim, alone and among all of its family; decided where the last are at most 1 - level.
    smallest_p
        What no p-value of so few runs can go below, before correction.
    correction, num_claims
        By which rule, and among how many.
    measurement_share
        Which part of the squared standard error comes from measuring, see
        `thalweg.stats.contrasts.measurement_share`; NaN where errors were not given.
    sample
        The contrast, of the logarithms where it is a ratio: numbers of runs, Hedges' g and its interval, in
        standard deviations of the values as measured.
    """

    answer: Answer
    basis: str
    direction: str
    margin: float | None
    is_ratio: bool
    effect: float
    low: float
    high: float
    level: float
    p_larger: float
    p_smaller: float
    p_equivalent: float
    p_beyond: float
    p_support: float
    p_refute: float
    p_support_corrected: float
    p_refute_corrected: float
    smallest_p: float
    correction: str
    num_claims: int
    measurement_share: float
    sample: TwoSample


def judge(
    claims: Sequence[Claim], *, level: float = 0.95, correction: str = "holm", seed: int
) -> list[Judgement]:
    """Answer the claims of one family, in their order.

    Parameters
    ----------
    claims
        Those of groups of the same sizes are relabelled together, so that a hundred take little more time
        than one.
    level
        Of the intervals; and the probability that no verdict of the family is false.
    correction
        ``"holm"``, or ``"none"``: each claim on its own, as in an exploration.
    seed
        Of the relabellings, where there are more than 20,000 and so many are drawn.

    Raises
    ------
    ValueError
        If an argument of a claim is none, naming the claim by its place.

    Examples
    --------
    >>> claim = Claim([55.0, 61, 52, 58, 66], [39.0, 36, 44, 38, 41], "larger", margin=1.1)
    >>> (found,) = judge([claim], seed=0)
    >>> found.answer, found.basis, round(found.effect, 2), round(found.low, 2), round(found.high, 2)
    ('supported', 'larger', 1.47, 1.3, 1.67)
    """
    check_fraction("level", level, "0.95 is customary")
    check_one_of("correction", correction, CORRECTIONS)
    rows = []
    for place, claim in enumerate(claims):
        try:
            rows.append(_row(claim))
        except ValueError as error:
            raise ValueError(f"`claims[{place}]`: {error}") from None
    alike: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        alike[len(row.x), len(row.y), claims[place].paired].append(place)
    found: dict[int, Findings] = {}
    for (_, _, paired), places in alike.items():
        x, y, margins, down, up = (
            np.array([getattr(rows[i], name) for i in places]) for name in ("x", "y", "margin", "down", "up")
        )
        found |= zip(
            places,
            findings(x, y, margins, down=down, up=up, paired=paired, level=level, seed=seed),
            strict=True,
        )
    supporting = [claim.direction for claim in claims]
    refuting = [_refuting(claim.direction, found[i]) for i, claim in enumerate(claims)]
    plain = [
        np.array([getattr(found[i], f"p_{name}") for i, name in enumerate(names)], dtype=np.float64)
        for names in (supporting, refuting)
    ]
    corrected = [holm(p) if correction == "holm" else p for p in plain]
    judged = []
    for i, claim in enumerate(claims):
        p, p_corrected = ([float(side[i]) for side in sides] for sides in (plain, corrected))
        answer: Answer = "undecided"
        # In the last digit 1 - 0.95 is not 0.05.
        if p_corrected[0] <= 1 - level + 1e-12:
            answer = "supported"
        if p_corrected[1] <= 1 - level + 1e-12:
            answer = "refuted"
        sample, errors = found[i].sample, rows[i].errors
        ends = [sample.difference, sample.low, sample.high]
        effect, low, high = np.exp(np.clip(ends, -700, 700)).tolist() if claim.ratio else ends
        judged.append(
            Judgement(
                answer=answer,
                basis={"supported": supporting[i], "refuted": refuting[i], "undecided": ""}[answer],
                direction=claim.direction,
                margin=claim.margin,
                is_ratio=claim.ratio,
                effect=effect,
                low=low,
                high=high,
                level=level,
                p_larger=found[i].p_larger,
                p_smaller=found[i].p_smaller,
                p_equivalent=found[i].p_equivalent,
                p_beyond=found[i].p_beyond,
                p_support=p[0],
                p_refute=p[1],
                p_support_corrected=p_corrected[0],
                p_refute_corrected=p_corrected[1],
                smallest_p=smallest_p_value(sample.num_a, sample.num_b, paired=sample.paired),
                correction=correction,
                num_claims=len(claims),
                measurement_share=measurement_share(sample.standard_error, *errors) if errors else math.nan,
                sample=sample,
            )
        )
    return judged


def _refuting(direction: str, found: Findings) -> str:
    """Which finding refutes the claim, or comes nearest to."""
    if direction == "equivalent":
        return "beyond"
    opposite = "smaller" if direction == "larger" else "larger"
    return "equivalent" if found.p_equivalent < getattr(found, f"p_{opposite}") else opposite


@dataclass(frozen=True)
class _Row:
    """A claim in the unit in which it is tested."""

    x: Array
    y: Array
    margin: float
    down: float
    up: float
    errors: tuple[Array, Array] | None


def _row(claim: Claim) -> _Row:
    check_one_of("direction", claim.direction, DIRECTIONS)
    check_flag("ratio", claim.ratio)
    check_flag("paired", claim.paired)
    (x, errors_a, down_a, up_a), (y, errors_b, down_b, up_b) = _side(claim, "a"), _side(claim, "b")
    if claim.paired and len(x) != len(y):
        raise ValueError(f"`a` and `b` must have one length to be paired, got {len(x)} and {len(y)} values.")
    errors = None if errors_a is None or errors_b is None else (errors_a, errors_b)
    return _Row(x, y, _margin(claim), down_a + up_b, up_a + down_b, errors)


def _margin(claim: Claim) -> float:
    if claim.margin is None:
        if claim.direction == "equivalent":
            raise ValueError("`margin` must be given for a claim of equivalence: nothing is exactly equal.")
        return math.nan
    least = 1 if claim.ratio else 0
    if not is_number(claim.margin) or not least < claim.margin < math.inf:
        hint = "a factor; 1.1 for a tenth" if claim.ratio else "in the unit of the values"
        raise ValueError(f"`margin` must be a number > {least}, {hint}, got {claim.margin!r}.")
    return math.log(claim.margin) if claim.ratio else float(claim.margin)


def _side(claim: Claim, side: str) -> tuple[Array, Array | None, float, float]:
    """Values of one group, their errors, and how far down and up their mean may lie."""
    values = np.asarray(getattr(claim, side), dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"`{side}` must hold one finite value for each of at least two runs, got {values.tolist()}; one "
            "run shows no spread, and runs that were not measured are to be left out."
        )
    if claim.ratio and not (values > 0).all():
        raise ValueError(
            f"`{side}` must hold positive values to be compared by ratio, got {values.tolist()}; else set "
            "ratio=False."
        )
    parts: dict[str, Array | None] = {}
    for name in (f"errors_{side}", f"below_{side}", f"above_{side}"):
        given = getattr(claim, name)
        part = None if given is None else np.asarray(given, dtype=np.float64)
        if part is not None and (part.shape != values.shape or not (part >= 0).all()):
            raise ValueError(
                f"`{name}` must hold one number >= 0 for each of the {len(values)} values, got "
                f"{part.tolist()}."
            )
        parts[name] = part
    errors, below, above = parts.values()
    below, above = (np.zeros_like(values) if v is None else v for v in (below, above))
    if not claim.ratio:
        return values, errors, float(below.mean()), float(above.mean())
    with np.errstate(divide="ignore"):  # bounded by nought from below: by nothing, in logarithms
        down = np.log(values) - np.log(np.maximum(values - below, 0.0))
    return (
        np.log(values),
        None if errors is None else errors / values,
        float(down.mean()),
        float(np.log1p(above / values).mean()),
    )
