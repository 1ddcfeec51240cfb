"""Partial correlation: residuals by least squares, SciPy's ranks, intervals by counting."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.partial_correlation import partial_correlation


def by_residuals(m, g, z):
    design = np.column_stack([np.ones(len(m)), z])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (m, g)]
    return stats.pearsonr(*left).statistic


@pytest.mark.parametrize("k", [1, 3])
def test_against_residuals_of_least_squares(k):
    rng = np.random.default_rng(k)
    z = rng.normal(size=(20, k))
    m, g = z.sum(1) + rng.normal(size=20), z[:, 0] - rng.normal(size=20)
    linear = partial_correlation(m, g, z, method="linear", seed=0)
    assert linear.value == pytest.approx(by_residuals(m, g, z))
    assert linear.plain == pytest.approx(stats.pearsonr(m, g).statistic)
    ranked = partial_correlation(m, g, z, seed=0)
    ranks = [stats.rankdata(v, axis=0) for v in (m, g, z)]
    assert ranked.value == pytest.approx(by_residuals(*ranks))
    assert ranked.plain == pytest.approx(stats.spearmanr(m, g).statistic)
    # Student's test of a coefficient in a regression is the same test.
    t = linear.value * math.sqrt((18 - k) / (1 - linear.value**2))
    assert linear.p_value == pytest.approx(2 * stats.t.sf(abs(t), 18 - k))


def test_of_three_variables_the_textbook_formula():
    rng = np.random.default_rng(0)
    m, g, z = rng.normal(size=(3, 15))
    r = np.corrcoef([m, g, z])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_correlation(m, g, z, method="linear", seed=0).value == pytest.approx(expected)


def test_ranks_do_not_see_monotone_transforms_nor_units():
    rng = np.random.default_rng(1)
    z = rng.normal(size=30)
    m, g = z + rng.normal(size=30), z + rng.normal(size=30)
    cells = np.repeat(np.arange(10), 3).tolist()
    a = partial_correlation(m, g, z, hyperparameters={"cell": cells}, seed=0)
    b = partial_correlation(np.exp(m), 1e-9 * g**3, np.exp(-z), hyperparameters={"cell": cells}, seed=0)
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    linear = [partial_correlation(s * m, g, z * s, method="linear", seed=0).value for s in (1, 1e-150)]
    assert linear[0] == pytest.approx(linear[1])


def test_equal_weights_are_the_runs_themselves():
    """A resample that counts runs is the correlation of that many copies."""
    from thalweg.stats.partial_correlation import _covariances, _partial

    rng = np.random.default_rng(2)
    m, g, z = rng.normal(size=(3, 12))
    counts = np.array([1, 2, 0, 1, 3, 1, 1, 0, 1, 1, 0, 1])
    copies = [np.repeat(v, counts) for v in (m, g, z)]
    for is_rank, method in ((True, "rank"), (False, "linear")):
        weighted = _partial(_covariances([m, g, z], counts[None].astype(float), is_rank))[0]
        assert weighted == pytest.approx(partial_correlation(*copies, method=method, seed=0).value)


def draw(rng, n):
    z = rng.normal(size=n)
    shared = rng.normal(size=n)
    return z + 0.7 * shared + 0.7 * rng.normal(size=n), z + 0.7 * shared + 0.7 * rng.normal(size=n), z


@pytest.mark.parametrize(("method", "n"), [("linear", 12), ("linear", 40), ("rank", 12), ("rank", 40)])
def test_intervals_of_independent_runs_cover(method, n):
    """Partial correlation one half; of ranks what it is in the long run."""
    rng = np.random.default_rng(3)
    truth = 0.5 if method == "linear" else partial_correlation(*draw(rng, 3000), seed=0).value
    hits = 0
    for _ in range(1000):
        found = partial_correlation(*draw(rng, n), method=method, seed=0)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 1000 <= 0.975


def test_p_values_of_independent_runs_keep_their_level():
    rng = np.random.default_rng(4)
    p = []
    for _ in range(1000):
        z = rng.normal(size=15)
        p.append(partial_correlation(z + rng.normal(size=15), z - rng.normal(size=15), z, seed=0).p_value)
    assert abs(np.mean(np.array(p) <= 0.1) - 0.1) < 4 * math.sqrt(0.09 / 1000)


@pytest.mark.parametrize("kind", ["cells", "levels"])
def test_unrelated_cells_are_no_relation(kind):
    """Seeds that agree say nothing of cells: their interval alone finds a relation in 67 % of these."""
    rng = np.random.default_rng(6)
    labels = np.array([c for c in itertools.product(range(3), range(2), range(2)) for _ in range(6)]).T
    columns = {"cell": list(zip(*labels, strict=True))}
    if kind == "levels":
        columns = {f"axis {a}": axis.tolist() for a, axis in enumerate(labels)}

    def drawn():
        if kind == "cells":
            value = np.repeat(rng.normal(size=12), 6)
        else:
            value = sum(rng.normal(size=3)[axis] for axis in labels)
        return value + 0.3 * rng.normal(size=72)

    false, repeats = 0, 150
    for i in range(repeats):
        z = drawn()  # which both go along with
        found = partial_correlation(
            drawn() + z, drawn() + z, z, method="linear", hyperparameters=columns, num_resamples=400, seed=i
        )
        false += found.p_value <= 0.1
    assert stats.binomtest(false, repeats, 0.1, alternative="greater").pvalue > 1e-3
    heat = np.repeat(np.arange(12.0), 6) + 0.1 * rng.normal(size=72)
    related = partial_correlation(heat, heat, drawn(), hyperparameters=columns, seed=0)
    assert related.p_value == pytest.approx(related.smallest_p)


def covered_in_cells(num_seeds, method, repeats):
    rng = np.random.default_rng(5)
    means = [np.repeat(v, num_seeds) for v in rng.normal(size=(3, 10))]
    cells = np.repeat(np.arange(10), num_seeds).tolist()

    def one(seed, num_resamples=200):
        m, g, z = (v + 0.5 * rng.normal(size=len(v)) for v in means)
        return partial_correlation(
            m, g, z, hyperparameters={"cell": cells}, method=method, seed=seed, num_resamples=num_resamples
        )

    truth = np.mean([one(0, 100).value for _ in range(1000)])
    found = [one(i) for i in range(repeats)]
    return np.mean([f.low <= truth <= f.high for f in found])


@pytest.mark.parametrize("method", ["rank", "linear"])
def test_intervals_of_seeds_in_cells_cover_few_times(method):
    assert 0.91 <= covered_in_cells(3, method, 300) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rank", "linear"])
@pytest.mark.parametrize("num_seeds", [2, 6])
def test_intervals_of_seeds_in_cells_cover(num_seeds, method):
    covered = covered_in_cells(num_seeds, method, 2000)
    print(num_seeds, method, covered)
    assert 0.93 <= covered <= 0.99


Z = [1.0, 2, 4, 3, 5, 6]


@pytest.mark.parametrize(
    ("m", "z", "more", "words"),
    [
        ([1.0, 2, 3, 4, 5], Z, {}, r"`gap` must hold one finite value for each of the 5 runs"),
        ([1.0, 2, 3, 4, 5, math.inf], Z, {}, r"`measure` must hold one finite value a run, .* 1 not finite"),
        ([2.0] * 6, Z, {}, "`measure` must not be constant"),
        (Z, Z, {}, "`measure` must not be given by the covariates"),
        (
            [1.0, 3, 2, 4, 5, 6],
            np.ones((6, 3)),
            {},
            "`measure` must hold at least 7 runs with 3 covariates, got 6",
        ),
        (
            [1.0, 3, 2, 4, 5, 6],
            Z,
            {"hyperparameters": {"cell": range(6)}},
            "`hyperparameters` must leave two runs in one cell at least",
        ),
        (
            [1.0, 3, 2, 4, 5, 6],
            Z,
            {"hyperparameters": {"cell": "aabb"}},
            r"`hyperparameters\['cell'\]` must hold one label for each of the 6 runs, got 4",
        ),
        (
            [1.0, 3, 2, 4, 5, 6],
            Z,
            {"hyperparameters": {"cell": "aaabbb"}},
            "`hyperparameters` must make at least 4 cells with 1 covariates, got 2",
        ),
        (
            [1.0, 3, 2, 4, 5, 6],
            Z,
            {"method": "ranks"},
            "`method` must be one of rank, linear, got 'ranks'; did",
        ),
        ([1.0, 3, 2, 4, 5, 6], np.ones((6, 1, 1)), {}, "`covariates` must be of shape"),
    ],
)
def test_bad_input(m, z, more, words):
    with pytest.raises(ValueError, match=words):
        partial_correlation(m, [1.0, 2, 3, 6, 5, 4], z, seed=0, **more)
