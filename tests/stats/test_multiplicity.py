"""Adjusted p-values: against their definitions, and how often anything false is found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.stats.contrasts import two_sample
from thalweg.stats.multiplicity import holm, joint_p_values
from thalweg.stats.permutation import relabelled


def test_holm_against_its_definition():
    rng = np.random.default_rng(0)
    for num in (1, 2, 7):
        p = rng.random(num)
        for level in (0.05, 0.3, 0.8):
            # Holm's own words: go up from the smallest until one fails.
            rejected = set()
            for step, i in enumerate(np.argsort(p)):
                if p[i] > level / (num - step):
                    break
                rejected.add(int(i))
            assert rejected == set(np.flatnonzero(holm(p) <= level).tolist())


def test_p_values_are_between_nought_and_one():
    with pytest.raises(ValueError, match=r"`p_values` must lie in \[0, 1\]"):
        holm([0.1, 1.5])


def test_one_quantity_and_copies_of_it_count_once():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=5) + 2, rng.normal(size=5)
    alone = two_sample(a, b).p_value
    assert joint_p_values(relabelled([a], [b]))[0] == pytest.approx(alone)
    copies = joint_p_values(relabelled([a, 3 * a, a - 1], [b, 3 * b, b - 1]))
    assert copies == pytest.approx([alone] * 3)
    assert holm([alone] * 3) == pytest.approx([3 * alone] * 3)


@pytest.mark.parametrize("paired", [False, True])
def test_they_step_down_and_never_fall_below_the_plain_ones(paired):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(6, 7)), rng.normal(size=(6, 7))
    a[2] += 4
    plain = np.array([two_sample(x, y, paired=paired).p_value for x, y in zip(a, b, strict=True)])
    joint = joint_p_values(relabelled(a, b, paired=paired))
    assert (joint >= plain - 1e-12).all()
    # The last in line has only itself to be compared with.
    t = np.array([abs(x.difference) / x.standard_error for x in map(two_sample, a, b)])
    if not paired:
        assert joint[t.argmin()] == pytest.approx(max(plain[t.argmin()], np.delete(joint, t.argmin()).max()))
    assert joint[2] < 0.05 < np.delete(joint, 2).min()


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_how_often_anything_false_is_found(correlation):
    """Of eight quantities one differs: any false one is found at most as often as the level says."""
    rng = np.random.default_rng(3)
    false, found = 0, 0
    for _ in range(600):
        shared = rng.normal(size=(1, 10))
        values = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * rng.normal(size=(8, 10))
        values[0, :5] += 3
        joint = joint_p_values(relabelled(values[:, :5], values[:, 5:]))
        false += (joint[1:] <= 0.05).any()
        found += joint[0] <= 0.05
    assert false / 600 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 600)
    # Holm could find nothing: eight times 0.0079 is above the level.
    assert found / 600 > 0.6
