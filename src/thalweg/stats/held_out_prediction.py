r"""Do features of a run foretell its outcome beyond its hyperparameters? Leaving out one configuration.

All runs of one configuration (they differ in their seed alone) are left out together, a ridge regression is
fitted to the others and predicts the outcomes of those left out; once from the hyperparameters, once with
the features beside them or in their place. What is compared is the root of the mean squared error of the
two, by their ratio :math:`\rho`: 0.8 says that the features take a fifth off the error.

**Quantiles, within each fold.** Outcome and features are replaced by the share of the fold's training runs
below them, half of those that are equal counting: no scale has to be chosen, and an outcome of infinity, a
loss that was never reached say, is the largest. Of a left-out run it is the share of the training runs,
too, so that nothing of it, neither feature nor outcome, is in what predicts it. A constant that predicts the
middle errs by about 0.29.

**What the baseline knows.** Each hyperparameter of more than two numbers by itself (by its logarithm where
all are positive) and its square, any other one by an indicator of each level, and the products of any two
of different ones. Columns are standardised on the training runs. The penalty is chosen among `PENALTIES`, for
each model in each fold, by leaving out the configurations of the training runs in turn, which has a closed
form: with H the matrix of the fit and :math:`r = y - H y`, the residual of a group that is left out is
:math:`(I - H_{gg})^{-1} r_g`. A feature may therefore help as a better form of the hyperparameters (a
product of three of them): what is told beyond them is told beyond this baseline.

**The interval** is by configurations: with :math:`a_c`, :math:`b_c` the sums of squared errors of
configuration c, :math:`\log \rho = \frac12 \log (\sum a_c / \sum b_c)`, whose variance under resampling of C
configurations is to first order :math:`s^2 / C`, :math:`s^2` that of
:math:`\frac12 (a_c / \bar a - b_c / \bar b)`. Folds share their training runs, which makes this too small; by
the correction of Nadeau and Bengio it is :math:`s^2 (1 / C + 1 / (C - 1))`, for one part of the runs is
tested on and C - 1 are trained on. Quantiles are Student's on C - 1. The interval is about other
configurations of the same kind, unlike those that resample seeds on a grid that is held; that configurations
may share initial weights it does not see. How often features that carry nothing are taken to help is counted
in ``docs/statistics.md``.

References
----------
Stone (1974), J. Royal Statistical Society B 36(2), 111-147; Nadeau and Bengio (2003), Machine Learning 52,
239-281; Roberts et al. (2017), Ecography 40, 913-929 (leaving out whole groups).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.core.arguments import check_flag, check_fraction, is_number
from thalweg.core.distributions import student_quantile, student_tail
from thalweg.stats.cells import Cells, run_labels

Array = NDArray[np.float64]

# Of ridge regression, in units of the number of training runs, columns having a variance of one. With the
# largest hardly anything but the mean is left: what foretells nothing is not made to.
PENALTIES = (1e-2, 1e-1, 1.0, 10.0, 100.0)

# Below, Student's quantiles say that nothing is known.
FEWEST_CONFIGURATIONS = 5


@dataclass(frozen=True)
class HeldOutPrediction:
    """Errors of predicting left-out configurations, in quantiles of the outcome.

    Parameters
    ----------
    error, baseline_error, constant_error
        Root mean squares with the features, from the hyperparameters alone, and of predicting the middle.
    ratio, low, high
        `error` over `baseline_error`, and its interval.
    p_value
        Two-sided, of a ratio of one.
    p_negligible
        Of features that take off what makes the ratio less than 1 / `margin`, or more, against a ratio
        nearer to one or above; doubled. NaN without a margin.
    outcomes, predictions, baseline_predictions
        ``(n,)`` each run as its fold saw it: its quantile among the others', and what was predicted.
    configurations
        ``(n,)`` the configuration of each run, counted in the order in which they first come.
    level
        Of the interval.
    """

    error: float
    baseline_error: float
    constant_error: float
    ratio: float
    low: float
    high: float
    p_value: float
    p_negligible: float
    outcomes: Array
    predictions: Array
    baseline_predictions: Array
    configurations: NDArray[np.intp]
    level: float

    @property
    def num_configurations(self) -> int:
        """C, on which the interval rests."""
        return int(self.configurations.max()) + 1


def held_out_prediction(
    outcome: ArrayLike,
    features: ArrayLike,
    hyperparameters: Mapping[str, Sequence[Hashable]],
    *,
    beside: bool = True,
    margin: float | None = None,
    level: float = 0.95,
) -> HeldOutPrediction:
    """Predict the outcomes of configurations left out, with features and without.

    Parameters
    ----------
    outcome
        ``(n,)``, one a run; infinity is the largest.
    features
        ``(n, k)``, or ``(n,)``; infinities are allowed.
    hyperparameters
        Of each name the ``n`` values; runs that agree in all are seeds of one configuration.
    beside
        Whether the features stand beside the hyperparameters, or alone.
    margin
        A ratio above 1: errors that differ by less do not matter.
    level
        Of the interval.

    Raises
    ------
    ValueError
        If anything is NaN or not one a run, there are fewer than five configurations, or the outcome is
        constant.

    Examples
    --------
    >>> rates = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    >>> luck = [3, 1, 4, 8, 5, 2, 6, 7]
    >>> steps = [rate + 2 * x for rate, x in zip(rates, luck)]
    >>> found = held_out_prediction(steps, luck, {"lr": rates})
    >>> found.error < 0.5 * found.baseline_error, found.high < 1
    (True, True)
    """
    check_flag("beside", beside)
    check_fraction("level", level, "0.95 is customary")
    if margin is not None and not (is_number(margin) and margin > 1):
        raise ValueError(f"`margin` must be a ratio above 1, got {margin}; 1.1 is a tenth of the error.")
    y = _no_nan("outcome", outcome)
    columns = np.asarray(features, dtype=np.float64)
    x = _no_nan("features", columns[:, None] if columns.ndim == 1 else columns)
    if y.ndim != 1 or x.ndim != 2 or len(x) != len(y) or not x.shape[1]:
        raise ValueError(
            "`features` must hold a row of at least one number for each outcome, got "
            f"{x.shape} for outcomes {y.shape}."
        )
    labels = run_labels("hyperparameters", hyperparameters, len(y))
    cells = Cells.of(zip(*labels.values(), strict=True))
    num_configurations = len(cells.sizes)
    if num_configurations < FEWEST_CONFIGURATIONS:
        raise ValueError(
            f"`hyperparameters` must make at least {FEWEST_CONFIGURATIONS} configurations, got "
            f"{num_configurations}: each is predicted from the others."
        )
    if (y == y[0]).all():
        raise ValueError(f"`outcome` must not be constant, got {y[0]} of all runs: nothing to predict.")
    known = hyperparameter_columns(labels)
    found = np.empty((3, len(y)))  # outcomes, predictions, those of the baseline
    for c in range(num_configurations):
        out = cells.index == c
        fold, groups = ~out, cells.index[~out]
        target, found[0, out] = _quantiles(y[fold], y[out])
        pairs = [_quantiles(column[fold], column[out]) for column in x.T]
        own, new = (np.stack([pair[side] for pair in pairs], axis=1) for side in (0, 1))
        if beside:
            own, new = np.hstack([known[fold], own]), np.hstack([known[out], new])
        found[1, out] = _predicted(own, new, target, groups)
        found[2, out] = _predicted(known[fold], known[out], target, groups)
    squares = np.square(found - found[0])[1:]
    with_features, without = (np.bincount(cells.index, weights=row) for row in squares)
    errors = np.sqrt(squares.mean(1))
    log_ratio = math.log(errors[0] / errors[1])
    spread = 0.5 * (with_features / with_features.mean() - without / without.mean())
    dof = num_configurations - 1
    error = float(spread.std(ddof=1)) * math.sqrt(1 / num_configurations + 1 / dof)
    half = float(student_quantile(0.5 + level / 2, dof)) * error
    return HeldOutPrediction(
        error=float(errors[0]),
        baseline_error=float(errors[1]),
        constant_error=float(np.sqrt(np.square(found[0] - 0.5).mean())),
        ratio=math.exp(log_ratio),
        low=math.exp(log_ratio - half),
        high=math.exp(log_ratio + half),
        p_value=min(1.0, 2 * _upper(abs(log_ratio), error, dof)),
        p_negligible=math.nan
        if margin is None
        else min(1.0, 2 * _upper(log_ratio + math.log(margin), error, dof)),
        outcomes=found[0],
        predictions=found[1],
        baseline_predictions=found[2],
        configurations=cells.index,
        level=level,
    )


def hyperparameter_columns(labels: Mapping[str, Sequence[Hashable]]) -> Array:
    """``(n, q)``: what the baseline knows of each run; hyperparameters that do not vary have no column."""
    blocks, squares = [], []
    for values in labels.values():
        levels = list(dict.fromkeys(values))
        if len(levels) < 2:
            continue
        if len(levels) > 2 and all(is_number(level) for level in levels):
            numbers = np.array(values, dtype=np.float64)
            scaled = np.log(numbers) if (numbers > 0).all() else numbers
            scaled = (scaled - scaled.mean()) / scaled.std()
            blocks.append(scaled[:, None])
            squares.append(np.square(scaled)[:, None])
        else:
            place = np.array([levels.index(value) for value in values])
            blocks.append(np.eye(len(levels))[place][:, 1:] - 1 / len(levels))
    products = [
        (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
        for i, a in enumerate(blocks)
        for b in blocks[i + 1 :]
    ]
    return np.hstack([*blocks, *squares, *products])


def _predicted(x: Array, new: Array, y: Array, groups: NDArray[np.intp]) -> Array:
    """Of `new` ``(m, p)``, by ridge regression of y on x ``(n, p)``; the penalty leaves groups out best."""
    centre, scale = x.mean(0), x.std(0)
    varies = scale > 1e-12 * np.maximum(1.0, np.abs(centre))
    x, new = ((part[:, varies] - centre[varies]) / scale[varies] for part in (x, new))
    left, values, right = np.linalg.svd(x, full_matrices=False)
    n, mean = len(y), float(y.mean())
    inner = left.T @ y
    best = (math.inf, 0.0)
    for penalty in PENALTIES:
        shrunk = np.square(values) / (np.square(values) + n * penalty)
        residuals = y - mean - left @ (shrunk * inner)
        best = min(best, (_left_out(left, shrunk, residuals, groups), penalty))
    slopes = right.T @ (values / (np.square(values) + n * best[1]) * inner)
    return mean + new @ slopes


def _left_out(left: Array, shrunk: Array, residuals: Array, groups: NDArray[np.intp]) -> float:
    """Sum of squared errors where each group is left out in turn."""
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    total = 0.0
    for size in np.unique(sizes):
        members = order[starts[sizes == size][:, None] + np.arange(size)]  # (G, size)
        rows = left[members]
        within = (rows * shrunk) @ rows.transpose(0, 2, 1) + 1 / len(residuals)
        errors = np.linalg.solve(np.eye(size) - within, residuals[members][..., None])
        total += float(np.square(errors).sum())
    return total


def _quantiles(known: Array, new: Array) -> tuple[Array, Array]:
    """Shares of `known` below its own values and below `new`, half of the equal ones counting."""
    ordered = np.sort(known)

    def share(values: Array) -> Array:
        below, to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
        return (below + to) / (2 * len(known))

    return share(known), share(new)


def _upper(value: float, error: float, dof: int) -> float:
    if error == 0:
        return 0.0 if value > 0 else 0.5 if value == 0 else 1.0
    return float(student_tail(value / error, dof))


def _no_nan(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError(
            f"`{name}` must hold no NaN, got {int(np.isnan(array).sum())}; leave out runs without a value."
        )
    return array
