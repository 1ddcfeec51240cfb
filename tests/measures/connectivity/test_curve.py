"""`Curve`: de Casteljau's construction, a parabola's known length, and what holds to the bit."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg.measures.connectivity.curve import Curve, check_kind

KINDS = ("bezier", "polygon")
POSITIONS = (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.625, 0.9, 1.0)


def points(num_bends: int, dim: int = 7, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rng = torch.Generator().manual_seed(num_bends)
    return [torch.randn(dim, generator=rng, dtype=torch.float64).to(dtype) for _ in range(num_bends + 2)]


def de_casteljau(control: list[Tensor], t: float) -> Tensor:
    while len(control) > 1:
        control = [(1 - t) * x + t * y for x, y in pairwise(control)]
    return control[0]


def chain(control: list[Tensor], t: float) -> Tensor:
    K = len(control) - 1
    table = torch.stack(control).numpy()
    columns = [np.interp(t * K, np.arange(K + 1), table[:, i]) for i in range(table.shape[1])]
    return torch.tensor(columns, dtype=torch.float64)


@pytest.mark.parametrize("num_bends", [1, 2, 3, 5])
@pytest.mark.parametrize(("kind", "oracle"), [("bezier", de_casteljau), ("polygon", chain)])
def test_points_are_those_of_the_textbook(kind, oracle, num_bends) -> None:
    control = points(num_bends)
    curve = Curve(kind, control)
    for t in POSITIONS:
        torch.testing.assert_close(curve.at(t), oracle(control, t), rtol=0, atol=1e-13)
        coefficients = curve.coefficients(t)
        assert min(coefficients) >= 0
        assert sum(coefficients) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_are_derivatives(kind) -> None:
    control = [w.requires_grad_() for w in points(2)]
    weights = points(0)[0]
    for t in POSITIONS:
        gradients = torch.autograd.grad(weights @ Curve(kind, control).at(t), control, allow_unused=True)
        for j, (gradient, c) in enumerate(zip(gradients, Curve(kind, control).coefficients(t), strict=True)):
            found = torch.zeros(7, dtype=torch.float64) if gradient is None else gradient
            torch.testing.assert_close(found, c * weights, rtol=0, atol=1e-13, msg=f"{j} at {t}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bends", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_ends_and_an_unbent_curve_are_exact_to_the_bit(kind, num_bends, dtype) -> None:
    a, b = (w.to(dtype) for w in points(0))
    a[0] = b[0] = 0.1  # a weight that both ends share
    a[1], b[1] = -0.0, 0.5
    straight = Curve.straight(kind, a, b, num_bends)
    for t in POSITIONS:
        line = a if t == 0 else b if t == 1 else torch.where(a == b, a, (1 - t) * a + t * b)
        assert torch.equal(straight.at(t), line)
    bent = Curve(kind, [a, *(w.to(dtype) for w in points(num_bends)[1:-1]), b])
    assert bent.at(0.0).numpy().tobytes() == a.numpy().tobytes()
    assert bent.at(1.0).numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("height", [0.01, 1.0, 20.0])
def test_a_parabola_has_its_length(height: float) -> None:
    """Control points (-1, 0), (0, h), (1, 0) give y = h (1 - x^2) / 2, with x = 2 t - 1."""
    curve = Curve("bezier", [torch.tensor(p, dtype=torch.float64) for p in ((-1, 0), (0, height), (1, 0))])

    def length(x: float) -> float:  # of y from -1 to x
        def part(u: float) -> float:
            return (u * math.sqrt(1 + (height * u) ** 2) + math.asinh(height * u) / height) / 2

        return part(x) + part(1)

    ts = np.linspace(0, 1, 11).tolist()
    found = curve.arc_lengths(ts)
    assert found.tolist() == pytest.approx([length(2 * t - 1) for t in ts], rel=1e-6, abs=1e-12)
    fine = curve.arc_lengths(np.linspace(0, 1, 101).tolist())
    assert float(fine[-1]) == pytest.approx(length(1), rel=1e-12)


def test_a_chain_is_as_long_as_its_pieces_together() -> None:
    control = points(3)
    pieces = [float(torch.linalg.vector_norm(y - x)) for x, y in pairwise(control)]
    found = Curve("polygon", control).arc_lengths(np.linspace(0, 1, 9).tolist())
    corners = np.concatenate([[0], np.cumsum(pieces)])
    assert found.tolist() == pytest.approx(np.interp(np.linspace(0, 4, 9), np.arange(5), corners).tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_is_walked_at_even_speed(kind) -> None:
    a, b = points(0)
    found = Curve.straight(kind, a, b, 2).arc_lengths([0.0, 1 / 3, 0.5, 1.0])
    distance = float(torch.linalg.vector_norm(b - a))
    assert found.tolist() == pytest.approx([0, distance / 3, distance / 2, distance])


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="`kind` must be one of bezier, polygon, got 'spline'"):
        check_kind("spline")
