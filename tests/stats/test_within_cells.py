"""Tau from seed to seed: SciPy for one cell, sums for several, coverage and level counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.within_cells import _by_normal, seed_correlation

# Typed by SciPy as less than what it gives.
kendalltau: Any = stats.kendalltau


def tied(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 8, n).astype(float)
    return x, np.round(0.3 * x + rng.normal(size=n))


@pytest.mark.parametrize("n", [9, 60])
def test_one_cell_is_scipys_tau(n):
    x, y = tied(n, 0)
    found, known = seed_correlation(x, y, "a" * n, seed=0), kendalltau(x, y, method="asymptotic")
    assert found.value == pytest.approx(known[0])
    if n > 40:  # SciPy's is the same normal law without the correction for steps of one
        assert found.p_value == pytest.approx(known[1], rel=0.15)
        score = known[0] * math.sqrt(np.prod([(v[:, None] != v).sum() / 2 for v in (x, y)]))
        one_more = score + math.copysign(1, score)
        assert _by_normal([(x, y)], one_more) == pytest.approx(known[1])
    # The jackknife by hand.
    left = np.array([kendalltau(np.delete(x, i), np.delete(y, i))[0] for i in range(n)])
    assert found.standard_error == pytest.approx(math.sqrt((n - 1) / n * np.square(left - left.mean()).sum()))


def test_pairs_across_cells_do_not_count():
    """Within each cell the two go together; the cells lie the other way round."""
    x = np.array([1.0, 2, 3, 4, 11, 12, 13, 14])
    y = np.array([11.0, 12, 13, 14, 1, 2, 3, 4])
    found = seed_correlation(x, y, "aaaabbbb", seed=0)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert kendalltau(x, y)[0] < 0
    # Of 24 * 24 orders four give as much: each cell as it is, or both turned round.
    assert found.p_value == pytest.approx(2 / 576, abs=0.004)
    shifted = seed_correlation(x + 100 * (x > 10), y, "aaaabbbb", seed=0)
    assert shifted == found


def test_what_it_refuses():
    with pytest.raises(ValueError, match="at least one of 3 runs"):
        seed_correlation([1, 2, 3, 4], [1, 2, 3, 4], "aabb", seed=0)
    with pytest.raises(ValueError, match="`gap` must not be constant within every cell"):
        seed_correlation([1, 2, 3, 1, 2, 3], [1, 1, 1, 2, 2, 2], "aaabbb", seed=0)


@pytest.mark.parametrize(("rho", "truth"), [(0.0, 0.0), (0.6, 2 / math.pi * math.asin(0.6))])
def test_intervals_cover_and_p_values_keep_their_level(rho, truth):
    rng = np.random.default_rng(1)
    hits, rejected, num = 0, 0, 400
    for i in range(num):
        x = rng.normal(size=12)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=12)
        shift = np.repeat([0.0, 5.0], 6)  # of the settings: it must not matter
        found = seed_correlation(x + shift, y - shift, "a" * 6 + "b" * 6, num_exchanges=199, seed=i)
        hits += found.low <= truth <= found.high
        rejected += found.p_value <= 0.05
    assert 0.92 <= hits / num <= 0.99
    if rho == 0:
        assert rejected / num <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num)
