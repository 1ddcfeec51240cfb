r"""A difference against more points than nought: shown larger, smaller, within a margin or beyond it.

:math:`\delta` is the true difference of two groups and m > 0 a margin, which says what would not matter.

- *larger*: :math:`\delta \le 0` is rejected; *smaller*: :math:`\delta \ge 0` is;
- *equivalent*: :math:`\delta \le -m` and :math:`\delta \ge m` both are, by two one-sided tests;
- *beyond*: :math:`\delta \le m` or :math:`\delta \ge -m` is.

All p-values are doubled one-sided ones. So each finding is had, at a level, where the two-sided interval of
that level lies above nought, below nought, within the margin, as far as Student's distribution goes; and
each is false with half of 1 - level. (That two one-sided tests may be taken at the whole of it goes with an
interval of 90 % where 95 are meant.) Every test is passed by two rules, Student's and relabelling, of which
the larger p-value counts: `thalweg.stats.contrasts` says which holds for what. For relabelling one group is
moved by the point, which makes labels meaningless where the difference is just that.

References
----------
Schuirmann (1987), J. Pharmacokinetics and Biopharmaceutics 15, 657-680; Lakens (2017), Social Psychological
and Personality Science 8(4), 355-362.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.core.distributions import student_tail
from thalweg.stats.contrasts import TwoSample, two_sample
from thalweg.stats.permutation import relabelling_p_values

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """What one contrast shows.

    Parameters
    ----------
    sample
        The contrast, its interval widened by what solvers left.
    p_larger, p_smaller
        Doubled one-sided p-values: a's mean is the larger, the smaller.
    p_equivalent, p_beyond
        The same of a difference within the margin, and beyond it; the last doubled once more, for it looks to
        both sides. NaN without a margin.
    """

    sample: TwoSample
    p_larger: float
    p_smaller: float
    p_equivalent: float
    p_beyond: float


def findings(
    a: ArrayLike,
    b: ArrayLike,
    margins: ArrayLike,
    *,
    down: ArrayLike = 0.0,
    up: ArrayLike = 0.0,
    paired: bool = False,
    level: float = 0.95,
    seed: int,
) -> list[Findings]:
    """Test R contrasts of groups of the same sizes.

    Parameters
    ----------
    a, b
        ``(R, n)`` and ``(R, m)``, one value a run, at least two of each.
    margins
        ``(R,)``, in the unit of the values; NaN where none is declared.
    down, up
        ``(R,)`` or one for all: how far below and above the difference of the means the true one of the same
        runs may lie, by what solvers left. Every test is of the worst case.
    paired
        Whether ``a[r, i]`` and ``b[r, i]`` belong together.
    level
        Of the intervals.
    seed
        Of the relabellings, where there are more than 20,000 and so many are drawn; those are the same for
        all rows, whatever rows there are.

    Raises
    ------
    ValueError
        If a group has fewer than two values, a value is not finite, pairs do not pair, or a margin is not
        positive.

    Examples
    --------
    >>> (found,) = findings([[5.1, 5.3, 4.9, 5.2, 5.0]], [[4.0, 4.4, 3.9, 4.1, 4.3]], [2.0], seed=0)
    >>> round(found.p_larger, 4), found.p_smaller, round(found.p_equivalent, 4)
    (0.0079, 1.0, 0.0079)
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    for name, values in (("a", x), ("b", y)):
        if values.ndim != 2 or values.shape[1] < 2 or not np.isfinite(values).all():
            raise ValueError(
                f"`{name}` must hold one finite value for each of at least two runs, row by row, got shape "
                f"{values.shape}; leave out runs that were not measured."
            )
    rows = len(x)
    m, down, up = (np.broadcast_to(np.asarray(v, dtype=np.float64), rows) for v in (margins, down, up))
    if (m <= 0).any():
        raise ValueError(f"`margins` must be positive, or NaN where there is none, got {m.tolist()}.")
    return _findings(x, y, m, down, up, paired, level, seed)


def _findings(
    x: Array, y: Array, margins: Array, down: Array, up: Array, paired: bool, level: float, seed: int
) -> list[Findings]:
    m = np.nan_to_num(margins)
    # In the order of the names below.
    points = np.stack([np.zeros_like(m), down, -up, down - m, m - up, m + down, -m - up])
    # Row by row each point once: most are the same where solvers left nothing. What they left without bound
    # makes points that no difference is beyond, whatever the labels say.
    finite = np.where(np.isfinite(points), points, 0.0)
    asked = np.stack([np.broadcast_to(np.arange(len(x)), points.shape), finite], -1).reshape(-1, 2)
    distinct, place = np.unique(asked, axis=0, return_inverse=True)
    row = distinct[:, 0].astype(int)
    distinct_p = relabelling_p_values(x[row] - distinct[:, 1:], y[row], paired=paired, seed=seed)
    by_labels = distinct_p[place].reshape(points.shape)  # (7, R)
    found = []
    for r in range(len(x)):
        sample = two_sample(x[r], y[r], paired=paired, level=level, p_value=float(by_labels[0, r]))
        p = [
            _one_sided(sample, float(points[i, r]), sign, float(by_labels[i, r]))
            for i, sign in ((1, 1), (2, -1), (3, 1), (4, -1), (5, 1), (6, -1))
        ]
        has_margin = not math.isnan(margins[r])
        found.append(
            Findings(
                sample=replace(sample, low=sample.low - float(down[r]), high=sample.high + float(up[r])),
                p_larger=p[0],
                p_smaller=p[1],
                p_equivalent=max(p[2], p[3]) if has_margin else math.nan,
                p_beyond=min(1.0, 2 * min(p[4], p[5])) if has_margin else math.nan,
            )
        )
    return found


def _one_sided(sample: TwoSample, point: float, sign: int, by_labels: float) -> float:
    """Doubled one-sided p-value of a difference above (sign 1) or below (-1) the point."""
    beyond = sign * (sample.difference - point)
    if beyond <= 0:
        return 1.0
    error = sample.standard_error
    student = 2 * float(student_tail(beyond / error, sample.dof)) if error > 0 else 0.0
    return max(student, by_labels)
