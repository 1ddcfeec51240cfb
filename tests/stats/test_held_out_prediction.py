"""Prediction of left-out configurations: against a plain loop, on planted features, and on none."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.held_out_prediction import (
    PENALTIES,
    HeldOutPrediction,
    held_out_prediction,
    hyperparameter_columns,
)

AXES: dict[str, list[Any]] = {"lr": [0.01, 0.03, 0.1, 0.3], "width": [4, 8, 16], "model": ["bn", "plain"]}


def grid(num_seeds: int = 2, **axes: list[Any]) -> dict[str, list[Any]]:
    rows = [row for row in itertools.product(*(axes or AXES).values()) for _ in range(num_seeds)]
    return {name: [row[i] for row in rows] for i, name in enumerate(axes or AXES)}


def made_up(
    seed: int, strength: float, num_seeds: int = 2
) -> tuple[np.ndarray, np.ndarray, dict[str, list[Any]]]:
    """Outcomes by the hyperparameters, by something of each configuration that they do not tell, and by luck.

    The first of three features tells of that something, with the given strength.
    """
    rng = np.random.default_rng(seed)
    labels = grid()
    n = len(labels["lr"])
    hidden = np.repeat(rng.normal(size=n // 2), 2)
    known = np.log(labels["lr"]) * np.where(np.array(labels["model"]) == "bn", 1.0, 0.5)
    outcome = np.exp(known + hidden + 0.3 * rng.normal(size=n))
    outcome[outcome > np.quantile(outcome, 0.85)] = math.inf
    features = rng.normal(size=(n, 3))
    features[:, 0] += strength * hidden
    return outcome, features, labels


def test_it_is_what_a_plain_loop_computes() -> None:
    outcome, features, labels = made_up(0, 3.0)
    # Groups of several sizes.
    keep = np.arange(len(outcome)) % 7 != 0
    outcome, features = outcome[keep], features[keep]
    labels = {k: [v for v, kept in zip(values, keep, strict=True) if kept] for k, values in labels.items()}
    found = held_out_prediction(outcome, features, labels, margin=1.1)
    known, cells = hyperparameter_columns(labels), found.configurations
    squares = np.zeros((2, len(outcome)))
    for c in set(cells):
        train, test = np.flatnonzero(cells != c), np.flatnonzero(cells == c)
        y = np.array([share(outcome[i], outcome[train]) for i in train])
        x = np.array([[share(row[j], features[train, j]) for j in range(3)] for row in features])
        for k, columns in enumerate((np.hstack([known, x]), known)):
            mean, spread = columns[train].mean(0), columns[train].std(0)
            scaled = (columns - mean) / spread
            inner = []
            for penalty in PENALTIES:
                total = 0.0
                for d in set(cells[train]):
                    rest = cells[train] != d
                    # All fits have one penalty in units of the whole fold, and one scaling.
                    fit = ridge(scaled[train][rest], y[rest], penalty * len(train))
                    total += float(np.square(fit(scaled[train][~rest]) - y[~rest]).sum())
                inner.append(total)
            best = PENALTIES[int(np.argmin(inner))]
            predicted = ridge(scaled[train], y, best * len(train))(scaled[test])
            truth = np.array([share(outcome[i], outcome[train]) for i in test])
            squares[k, test] = np.square(predicted - truth)
            stated = found.predictions if k == 0 else found.baseline_predictions
            np.testing.assert_allclose(stated[test], predicted, rtol=1e-8)
    error, baseline = np.sqrt(squares.mean(1))
    assert (found.error, found.baseline_error) == pytest.approx((error, baseline))
    sums = np.array([[row[cells == c].sum() for c in range(found.num_configurations)] for row in squares])
    log_ratio, count = math.log(error / baseline), found.num_configurations
    spread = 0.5 * (sums[0] / sums[0].mean() - sums[1] / sums[1].mean())
    se = spread.std(ddof=1) * math.sqrt(1 / count + 1 / (count - 1))
    half = stats.t.ppf(0.975, count - 1) * se
    assert (found.low, found.high) == pytest.approx((math.exp(log_ratio - half), math.exp(log_ratio + half)))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(log_ratio) / se, count - 1))


def share(value: float, among: np.ndarray) -> float:
    return float((among < value).mean() + 0.5 * (among == value).mean())


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> Any:
    """With an intercept that is not penalised, by the normal equations."""
    design = np.hstack([np.ones((len(x), 1)), x])
    weights = np.diag([0.0] + [penalty] * x.shape[1])
    slopes = np.linalg.solve(design.T @ design + weights, design.T @ y)
    return lambda new: np.hstack([np.ones((len(new), 1)), new]) @ slopes


def test_nothing_of_a_left_out_configuration_is_in_its_prediction() -> None:
    outcome, features, labels = made_up(1, 3.0)
    before = held_out_prediction(outcome, features, labels)
    mine = before.configurations == 5
    other = outcome.copy()
    other[mine] = [1e9, -1e9]
    after = held_out_prediction(other, features, labels)
    assert (after.predictions[mine] == before.predictions[mine]).all()
    assert (after.baseline_predictions[mine] == before.baseline_predictions[mine]).all()
    assert not (after.predictions[~mine] == before.predictions[~mine]).all()
    # A feature elsewhere counts, and so does its own, which it is predicted by.
    moved = features.copy()
    moved[mine, 0] += 1e6
    assert not (
        held_out_prediction(outcome, moved, labels).predictions[mine] == before.predictions[mine]
    ).all()


def test_infinity_is_the_largest_whatever_the_scale() -> None:
    outcome, features, labels = made_up(2, 3.0)
    large = np.where(np.isinf(outcome), 1e30, outcome)
    once, again = (held_out_prediction(y, features, labels) for y in (outcome, large))
    assert once.ratio == again.ratio
    scaled = held_out_prediction(np.log(large), np.exp(features), labels)
    assert scaled.ratio == pytest.approx(once.ratio, rel=1e-12)


def test_a_planted_feature_is_seen_and_alone_it_says_less_than_beside_the_hyperparameters() -> None:
    found = [run(seed, 3.0) for seed in range(5)]
    assert sum(f.high < 1 for f in found) >= 4
    assert all((f.p_value < 0.05) == (f.high < 1) for f in found)
    assert max(f.ratio for f in found) < 0.95
    alone = held_out_prediction(*made_up(0, 3.0), beside=False)
    assert alone.baseline_error == found[0].baseline_error
    assert alone.error > found[0].error
    assert found[0].baseline_error < found[0].constant_error


def run(seed: int, strength: float) -> HeldOutPrediction:
    return held_out_prediction(*made_up(seed, strength), margin=1.2)


# Of 60 with a probability of 0.025 each, more than 6 are seen once in 2,000 times.
def test_features_that_carry_nothing_seldom_help() -> None:
    found = [run(100 + seed, 0.0) for seed in range(60)]
    assert sum(f.high < 1 for f in found) <= 6
    assert sum(f.p_negligible <= 0.05 for f in found) >= 6, "that they carry nothing can be shown"


@pytest.mark.slow
def test_features_that_carry_nothing_help_no_oftener_than_stated() -> None:
    found = [run(1000 + seed, 0.0) for seed in range(600)]
    helps = sum(f.high < 1 for f in found)
    assert stats.binomtest(helps, len(found), 0.025, alternative="greater").pvalue > 1e-3


@pytest.mark.slow
def test_features_that_matter_are_no_oftener_said_not_to_than_stated() -> None:
    """72 settings of two seeds; the first feature takes what the margin is, a sixth, off the error."""
    labels = grid(**AXES, scale=[0.5, 1.0, 2.5])
    n, found = len(labels["lr"]), []
    known = np.log(labels["lr"]) * np.where(np.array(labels["model"]) == "bn", 1.0, 0.5)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        hidden = np.repeat(rng.normal(size=n // 2), 2)
        outcome = np.exp(known + hidden + 0.3 * rng.normal(size=n))
        outcome[outcome > np.quantile(outcome, 0.8)] = math.inf
        features = rng.normal(size=(n, 3))
        features[:, 0] += 0.9 * hidden
        found.append(held_out_prediction(outcome, features, labels, margin=1.2))
    ratios = np.log([f.ratio for f in found])
    assert math.exp(ratios.mean()) == pytest.approx(1 / 1.2, abs=0.02)
    falsely = sum(f.p_negligible <= 0.05 for f in found)
    assert stats.binomtest(falsely, len(found), 0.025, alternative="greater").pvalue > 1e-3
    stated = [math.log(f.high / f.low) / 2 / stats.t.ppf(0.975, n // 2 - 1) for f in found]
    assert ratios.std(ddof=1) == pytest.approx(np.mean(stated), rel=0.25)


def test_the_baseline_knows_levels_squares_and_products() -> None:
    columns = hyperparameter_columns(grid(1))
    # lr, width and two models; two squares; three products.
    assert columns.shape == (24, 3 + 2 + 3)
    assert np.linalg.matrix_rank(np.hstack([np.ones((24, 1)), columns])) == 9
    assert hyperparameter_columns({"lr": [0.1] * 4, "model": ["a", "b", "a", "b"]}).shape == (4, 1)
    # Of three names two indicators.
    assert hyperparameter_columns({"model": ["a", "b", "c"]}).shape == (3, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": [math.nan] * 12}, "`outcome` must hold no NaN, got 12"),
        ({"outcome": [1.0] * 12}, "`outcome` must not be constant"),
        ({"features": np.zeros((5, 1))}, "`features` must hold a row"),
        ({"hyperparameters": {"lr": [0.1] * 6 + [0.2] * 6}}, "at least 5 configurations, got 2"),
        ({"margin": 0.9}, "`margin` must be a ratio above 1, got 0.9"),
        ({"level": 1.5}, "`level`"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "outcome": list(range(12)),
        "features": np.arange(12.0),
        "hyperparameters": {"lr": [0.1 * (1 + i // 2) for i in range(12)]},
        **change,
    }
    with pytest.raises(ValueError, match=message):
        held_out_prediction(
            given.pop("outcome"), given.pop("features"), given.pop("hyperparameters"), **given
        )
