"""Forms of the covariance between units against direct sums, leaving units out for real, and repetition."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from thalweg.stats.unit_forms import LeftOut, UnitForms

DIM = 3
M = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.4]])


def units(sizes: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(sizes), DIM)) + 1.0


def forms_of(
    G: np.ndarray, sizes: np.ndarray, total: float = math.inf, examples: float = math.inf
) -> tuple[LeftOut, LeftOut]:
    """tr(M C) and G'MG of units with mean gradients G."""
    g = sizes @ G / sizes.sum()
    E = G - g
    products = np.einsum("up,pq,uq->u", E, M, E)
    forms = UnitForms(sizes, total, examples)
    return forms.covariance(products), forms.of_mean(g @ M @ g, E @ M @ g, products)


@pytest.mark.parametrize("sizes", [[1] * 7, [8, 8, 8, 5]])
def test_leaving_out_is_measuring_without(sizes: list[int]) -> None:
    G, n = units(sizes), np.array(sizes, dtype=float)
    trace, square = forms_of(G, n, 100, 700)
    for u in range(len(sizes)):
        rest = [i for i in range(len(sizes)) if i != u]
        without_trace, without_square = forms_of(G[rest], n[rest], 100, 700)
        assert trace.without[u] == pytest.approx(float(without_trace.value))
        assert square.without[u] == pytest.approx(float(without_square.value))


def test_all_units_are_summed_over() -> None:
    G, n = units([8, 8, 5]), np.array([8.0, 8.0, 5.0])
    trace, square = forms_of(G, n, 3, 21)
    g = n @ G / 21
    direct = sum(k * (e - g) @ M @ (e - g) for k, e in zip(n, G, strict=True)) / 3
    assert float(trace.value) == pytest.approx(direct)
    assert float(square.value) == pytest.approx(g @ M @ g)
    assert float(trace.standard_error()) == float(square.standard_error()) == 0
    assert UnitForms(n, 3, 21).divisor == 1
    assert UnitForms(n).divisor == pytest.approx(3 / 2)


@pytest.mark.parametrize(
    ("size", "length", "most"), [(1, 3.0, 1.08), (4, 1.0, 1.08), (1, 0.0, 1.6)], ids=["1", "4", "no mean"]
)
def test_unbiased_and_honest(size: int, length: float, most: float) -> None:
    """Units of a distribution whose covariance and mean are known.

    Without a mean its square is all noise, of second order, of which the jackknife makes too much.
    """
    rng = np.random.default_rng(1)
    A = rng.normal(size=(DIM, DIM))
    mean, U = length * np.array([0.6, -0.4, 0.2]), 60
    truth = np.array([np.trace(M @ A @ A.T), mean @ M @ mean])
    found, errors = [], []
    for _ in range(1500):
        G = mean + rng.normal(size=(U, DIM)) @ A.T / math.sqrt(size)
        both = forms_of(G, np.full(U, float(size)))
        found.append([float(s.value) for s in both])
        errors.append([float(s.standard_error()) for s in both])
    spread = np.std(found, axis=0)
    assert np.all(np.abs(np.mean(found, axis=0) - truth) < 4 * spread / math.sqrt(1500))
    part = np.sqrt(np.mean(np.square(errors), axis=0)) / spread
    assert np.all(part > 0.92)
    assert part[0] < 1.08
    assert part[1] < most


def test_finite_populations() -> None:
    """Samples without replacement of a finite set: unbiased for its sums, and less uncertain."""
    rng, N, n = np.random.default_rng(2), 50, 30
    G = rng.normal(size=(N, DIM)) + 0.4
    truth = [float(s.value) for s in forms_of(G, np.ones(N), N, N)]
    found, errors = [], []
    for _ in range(1500):
        both = forms_of(G[rng.permutation(N)[:n]], np.ones(n), N, N)
        found.append([float(s.value) for s in both])
        errors.append([float(s.standard_error()) for s in both])
    spread = np.std(found, axis=0)
    assert np.all(np.abs(np.mean(found, axis=0) - truth) < 4 * spread / math.sqrt(1500))
    assert np.sqrt(np.mean(np.square(errors), axis=0)) == pytest.approx(spread, rel=0.08)


def test_quotients_go_through() -> None:
    trace, square = forms_of(units([1] * 9), np.ones(9))
    ratio: Callable[..., np.ndarray] = np.divide
    quotient = square.of(ratio, trace)
    assert float(quotient.value) == pytest.approx(float(square.value) / float(trace.value))
    assert quotient.without == pytest.approx(square.without / trace.without)


def test_two_units_leave_no_spread_out() -> None:
    trace, _ = forms_of(units([1, 1]), np.ones(2))
    assert math.isfinite(float(trace.value))
    assert math.isnan(float(trace.standard_error()))


@pytest.mark.parametrize("squares", [[1e308, 1.5e308, 1.7e308, 1e300], [math.inf, 1.0, 2.0, 3.0]])
def test_what_has_no_square_is_infinite_or_no_number_and_warns_of_nothing(squares: list[float]) -> None:
    """Lengths of gradients of a run that has diverged."""
    forms, huge = UnitForms(np.ones(4)), np.array(squares)
    trace, square = forms.covariance(huge), forms.of_mean(huge.max(), huge, huge)
    for part in (trace, square):
        assert not np.isfinite(part.value)
        assert not np.isfinite(part.standard_error())
