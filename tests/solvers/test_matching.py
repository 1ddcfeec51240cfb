"""Matching by coordinate ascent: against all permutations of tiny layers, planted orders, promises."""

from __future__ import annotations

from itertools import pairwise, permutations, product

import pytest
import torch
from torch import Tensor

from thalweg.core.rng import generator
from thalweg.solvers.matching import InnerProduct, PairScores, Term, Units, ascend, match


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(layer: int, dim: int, size: int) -> Units:
    return Units(layer, dim, torch.arange(size)[:, None])


def two_layers(seed: int, n: int = 4, m: int = 3) -> list[Term]:
    """A dense network of two hidden layers, n and m wide, in two versions."""
    shapes = {"first": (n, 2), "second": (m, n), "third": (2, m)}
    where = {"first": [units(0, 0, n)], "second": [units(0, 1, n), units(1, 0, m)], "third": [units(1, 1, m)]}
    return [
        InnerProduct(normal(seed + i, *shape), normal(seed + i + 50, *shape), where[name])
        for i, (name, shape) in enumerate(shapes.items())
    ]


def recurrent(a: list[Tensor], b: list[Tensor]) -> list[Term]:
    """A plain recurrent layer: its units stand on both sides of one weight."""
    n = len(a[0])
    where = ([units(0, 0, n)], [units(0, 0, n), units(0, 1, n)], [units(0, 1, n)])
    return [InnerProduct(x, y, own) for x, y, own in zip(a, b, where, strict=True)]


def similarity(terms: list[Term], orders: list[Tensor]) -> float:
    """S by reordering each array from the start."""
    total = 0.0
    for term in terms:
        x = term.start
        for layer, order in enumerate(orders):
            x = term.reordered(x, layer, order)
        total += term.similarity(x)
    return total


def best_of_all(terms: list[Term], sizes: list[int]) -> float:
    every = product(*(permutations(range(n)) for n in sizes))
    return max(similarity(terms, [torch.tensor(order) for order in orders]) for orders in every)


@pytest.mark.parametrize("seed", range(0, 600, 100))
def test_two_layers_reach_the_best_of_all_permutations(seed):
    terms, sizes = two_layers(seed), [4, 3]
    found = match(terms, sizes, num_restarts=24, seed=0)
    best = found.runs[found.best]
    assert best.similarities[-1] == pytest.approx(best_of_all(terms, sizes), abs=1e-12)
    assert similarity(terms, list(best.orders)) == pytest.approx(best.similarities[-1], abs=1e-12)


def test_a_single_layer_needs_one_start():
    """With one layer, and no array of which it takes two sides, the assignment is the optimum."""
    for seed in range(10):
        terms: list[Term] = [
            InnerProduct(normal(seed, 4, 3), normal(seed + 90, 4, 3), [units(0, 0, 4)]),
            InnerProduct(normal(seed + 1, 2, 4), normal(seed + 91, 2, 4), [units(0, 1, 4)]),
        ]
        found = match(terms, [4], num_restarts=3, seed=seed)
        ends = [run.similarities[-1] for run in found.runs]
        assert ends == pytest.approx([best_of_all(terms, [4])] * 3, abs=1e-12)


@pytest.mark.parametrize("seed", range(0, 500, 100))
def test_every_run_rises_to_where_no_layer_alone_can_do_better(seed):
    terms, sizes = two_layers(seed), [4, 3]
    for run in match(terms, sizes, num_restarts=8, seed=1).runs:
        assert all(later > earlier for earlier, later in pairwise(run.similarities))
        for layer, n in enumerate(sizes):
            for order in permutations(range(n)):
                orders = list(run.orders)
                orders[layer] = torch.tensor(order)
                assert similarity(terms, orders) <= run.similarities[-1] + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_order_of_a_recurrent_layer_is_found(seed):
    n = 12
    a = [normal(seed, n, 5), normal(seed + 10, n, n), normal(seed + 20, 3, n)]
    planted = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    b = [a[0][planted], a[1][planted][:, planted], a[2][:, planted]]
    found = match(recurrent(a, b), [n], num_restarts=10, seed=0)
    assert torch.equal(planted[found.orders[0]], torch.arange(n))
    for run in found.runs:
        assert all(later > earlier for earlier, later in pairwise(run.similarities))


def test_the_slope_of_a_quadratic_term_is_that_of_both_sides():
    terms = recurrent(*[[normal(s, 3, 2), normal(s + 1, 3, 3), normal(s + 2, 2, 3)] for s in (0, 5)])
    A, B = normal(1, 3, 3), normal(6, 3, 3)
    torch.testing.assert_close(terms[1].gains(terms[1].start, 0), A @ B.T + A.T @ B)


def test_a_step_that_the_slope_recommends_but_that_does_not_rise_is_not_taken():
    """For a quadratic term alone the best assignment of the slope can be worse than staying."""
    rejected = 0
    for seed in range(200):
        A, B = normal(seed, 3, 3), normal(seed + 1000, 3, 3)
        terms: list[Term] = [InnerProduct(A, B, [units(0, 0, 3), units(0, 1, 3)])]
        run = ascend(terms, [torch.arange(3)], generator(0, "test"))
        assert run.similarities[-1] >= run.similarities[0]
        assert similarity(terms, list(run.orders)) == pytest.approx(run.similarities[-1], abs=1e-12)
        slopes = terms[0].gains(terms[0].start, 0)
        best = max(permutations(range(3)), key=lambda p: float(slopes[range(3), list(p)].sum()))
        rejected += best != (0, 1, 2) and similarity(terms, [torch.tensor(best)]) < run.similarities[0]
    assert rejected > 5, "the case must come up"


def test_scores_of_pairs_with_two_kinds_of_units_against_all_permutations():
    """Heads and the features in them, six entries in all."""
    rows = torch.arange(6).reshape(2, 3)
    for seed in range(5):
        scores = normal(seed, 6, 6)
        terms: list[Term] = [PairScores(scores, [Units(0, 1, rows), Units(1, 1, rows.T)])]
        found = match(terms, [2, 3], num_restarts=12, seed=0)
        best = max(
            float(sum(scores[3 * h + f, 3 * heads[h] + features[f]] for h in range(2) for f in range(3)))
            for heads in permutations(range(2))
            for features in permutations(range(3))
        )
        assert found.runs[found.best].similarities[-1] == pytest.approx(best, abs=1e-12)


def test_the_first_run_starts_from_the_units_as_they_are_and_equal_ones_stay():
    terms = two_layers(0)
    found = match(terms, [4, 3], num_restarts=4, seed=0)
    identity = [torch.arange(4), torch.arange(3)]
    assert found.runs[0].similarities[0] == pytest.approx(similarity(terms, identity), abs=1e-12)
    starts = {run.similarities[0] for run in found.runs}
    assert len(starts) == 4
    # Two units of the same weights are not exchanged for nothing.
    x = normal(3, 3, 2)[[0, 0, 1, 2]]
    (order,) = match([InnerProduct(x, x, [units(0, 0, 4)])], [4], num_restarts=1, seed=0).orders
    assert order.tolist() == [0, 1, 2, 3]


def test_the_seed_decides_and_progress_is_told():
    terms, seen = two_layers(0), []
    found = match(terms, [4, 3], num_restarts=5, seed=2, progress=lambda *at: seen.append(at))
    assert seen == [(i, 5) for i in range(1, 6)]
    again, other = (match(terms, [4, 3], num_restarts=5, seed=seed) for seed in (2, 3))
    assert [r.similarities for r in again.runs] == [r.similarities for r in found.runs]
    assert [r.similarities for r in other.runs] != [r.similarities for r in found.runs]
    # Further runs change nothing in those before.
    fewer = match(terms, [4, 3], num_restarts=2, seed=2)
    assert [r.similarities for r in fewer.runs] == [r.similarities for r in found.runs[:2]]
