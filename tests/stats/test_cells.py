"""Resampling seeds within cells: its moments, and the groups along an axis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thalweg.stats.cells import Cells, axis_groups


def test_weights_have_the_moments_that_are_stated():
    """Within a cell of k: mean one, variance one, covariance -1 / (k - 1); across cells nothing."""
    cells = Cells.of("abacabcad")
    assert cells.sizes.tolist() == [4, 2, 2, 1]
    w = cells.weights(40_000, seed=0)
    wanted = np.zeros((9, 9))
    for i, j in itertools.product(range(9), repeat=2):
        size = cells.sizes[cells.index[i]]
        if cells.index[i] == cells.index[j] and size > 1:
            wanted[i, j] = 1.0 if i == j else -1 / (size - 1)
    assert np.abs(w.mean(0) - 1).max() < 0.025
    assert np.abs(np.cov(w.T) - wanted).max() < 0.05
    for cell in range(4):
        runs = cells.index == cell
        assert np.allclose(w[:, runs].sum(1), runs.sum())
    assert (w[:, cells.is_alone] == 1).all()
    assert cells.dof == 5


def test_the_weighted_mean_varies_as_the_unbiased_standard_error_says():
    y = np.random.default_rng(0).normal(size=3)
    means = Cells.of("xxx").weights(40_000, seed=1) @ y / 3
    assert means.var() == pytest.approx(y.var(ddof=1) / 3, rel=0.03)


def test_groups_along_an_axis_against_all_pairs():
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 3, size=40).tolist() for name in ("lr", "width", "decay")}
    cells, axes = axis_groups("h", columns, 40)
    rows = list(zip(*columns.values(), strict=True))
    assert len(cells.sizes) == len(set(rows))
    for place, name in enumerate(columns):
        counted = {(int(runs[i]), int(runs[j])) for runs, k in axes[name] for i, j in np.argwhere(k)}
        by_hand = {
            (i, j)
            for i, j in itertools.product(range(40), repeat=2)
            if rows[i][place] != rows[j][place]
            and all(rows[i][o] == rows[j][o] for o in range(3) if o != place)
        }
        assert counted == by_hand
