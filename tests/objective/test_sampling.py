"""Which examples a subset takes."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch

from thalweg.core.rng import generator
from thalweg.objective.sampling import draw_batches, draw_examples, examples_of, random_order


def drawn(n, seed):
    return draw_batches(21, 8, n, generator(seed, "test")).tolist()


BATCHES = [list(range(8)), list(range(8, 16)), list(range(16, 21))]


@pytest.mark.parametrize("n", [1, 7, 20, 21])
def test_examples_are_distinct_and_in_order(n):
    index = draw_examples(21, n, generator(0, "test"))
    assert index.tolist() == sorted(set(index.tolist()))
    assert len(index) == n
    assert int(index.min()) >= 0
    assert int(index.max()) < 21


def test_every_example_is_equally_likely():
    counts = Counter(i for s in range(2000) for i in draw_examples(21, 6, generator(s, "test")).tolist())
    expected = 2000 * 6 / 21
    chi2 = sum((counts[i] - expected) ** 2 for i in range(21)) / (expected * (1 - 6 / 21)) * 20 / 21
    # Chi-square with 20 degrees of freedom: 45.3 is its 0.999 quantile.
    assert chi2 < 45.3


@pytest.mark.parametrize(
    ("n", "count"), [(1, 1), (3, 1), (8, 1), (11, 1), (13, 2), (16, 2), (18, 2), (19, 3), (20, 3), (21, 3)]
)
def test_whole_batches_as_many_as_come_closest(n, count):
    for seed in range(30):
        index = drawn(n, seed)
        chosen = [b for b in BATCHES if set(b) <= set(index)]
        assert index == [i for b in chosen for i in b], "whole batches, in order, the short one last"
        assert len(chosen) == count


def test_a_choice_is_as_likely_as_it_is_large():
    # Midzuno's design: the chance of a set of batches is proportional to the examples in it.
    for n, count in [(8, 1), (14, 2)]:
        chances = {c: sum(len(BATCHES[i]) for i in c) for c in combinations(range(3), count)}
        total = sum(chances.values())
        found = Counter(
            tuple(i for i, b in enumerate(BATCHES) if b[0] in set(index))
            for index in (drawn(n, s) for s in range(4000))
        )
        assert set(found) == set(chances)
        for choice, size in chances.items():
            p = size / total
            assert abs(found[choice] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize(("num", "size"), [(16, 8), (5, 8), (8, 8), (24, 8)])
def test_partitions_without_a_short_batch_or_with_nothing_else(num, size):
    for n in range(1, num + 1):
        index = draw_batches(num, size, n, generator(n, "test"))
        assert len(index) % min(size, num) == 0
        assert len(set(index.tolist())) == len(index)
    assert torch.equal(draw_batches(num, size, num, generator(0, "test")), torch.arange(num))


def test_every_beginning_of_a_random_order_is_an_unbiased_sample() -> None:
    """Batches of 4, 4 and 2: the ratio mean of the first so many, over all that chance may do."""
    x = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1, 5, 5], dtype=torch.float64)
    means = torch.zeros(3, dtype=torch.float64)
    repeats = 4000
    for seed in range(repeats):
        order = random_order(10, 4, torch.Generator().manual_seed(seed))
        assert sorted(order.tolist()) == [0, 1, 2]
        for k in (1, 2, 3):
            means[k - 1] += x[examples_of(order[:k], 4, 10)].mean() / repeats
    assert means.tolist() == pytest.approx([1.4, 1.4, 1.4], abs=0.1)
    assert means[2] == pytest.approx(1.4, abs=1e-9)


def test_examples_of_units_ascend_and_the_short_batch_stays_last() -> None:
    assert examples_of(torch.tensor([2, 0]), 4, 10).tolist() == [0, 1, 2, 3, 8, 9]
    assert examples_of(torch.tensor([3, 1]), 1, 10).tolist() == [1, 3]
