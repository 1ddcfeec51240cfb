"""Weighted examples: every number is the weighted mean, and what cannot be weighted refuses."""

from __future__ import annotations

import pytest
import torch
from tests.networks import cnn, images, mlp, vectors

from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.objective.objective import Objective
from thalweg.operators.fisher import Fisher
from thalweg.operators.ggn import GGN
from thalweg.operators.gradient_covariance import GradientCovariance
from thalweg.operators.hessian import Hessian

INDEX = torch.tensor([3, 3, 0, 20, 7, 11, 5])
WEIGHTS = torch.tensor([0.5, 0.5, 2.0, 0.0, 1.25, 3.0, 0.1])


def repeated(objective: Objective) -> list[Objective]:
    """Each of the seven examples by itself."""
    return [objective.select(i[None]) for i in INDEX]


def test_everything_is_the_weighted_mean() -> None:
    whole = Objective(mlp(0), vectors(21), micro_batch=3)
    weighted, single = whole.select(INDEX, weights=WEIGHTS), repeated(whole)
    w = WEIGHTS.double() / len(INDEX)
    v = torch.randn(whole.space.dim, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    evaluations = [o.evaluate() for o in single]
    assert weighted.evaluate().loss == pytest.approx(
        float(w @ torch.tensor([e.loss for e in evaluations], dtype=torch.float64))
    )
    assert weighted.evaluate().accuracy == pytest.approx(
        float(w @ torch.tensor([e.accuracy for e in evaluations], dtype=torch.float64))
    )
    torch.testing.assert_close(
        weighted.gradient(), sum(a * o.gradient() for a, o in zip(w, single, strict=True))
    )
    for matrix in (Hessian, GGN):
        operator = matrix(whole)
        expected = sum(a * (operator.over(o) @ v) for a, o in zip(w, single, strict=True))
        torch.testing.assert_close(operator.over(weighted) @ v, expected)
        torch.testing.assert_close(matrix(weighted) @ v, expected)
    step = sam_sharpness(weighted, radius=0.1, seed=0)
    g = weighted.gradient()
    moved = weighted.at(weighted.params + 0.1 * g / g.norm())
    assert step.value == pytest.approx(moved.value() - weighted.value())
    assert step.loss == pytest.approx(weighted.value())


def test_weights_multiply_and_follow_the_examples() -> None:
    whole = Objective(mlp(0), vectors(21))
    weighted = whole.select(INDEX, weights=WEIGHTS)
    again = weighted.select(torch.tensor([2, 4]), weights=torch.tensor([10.0, 1.0]))
    assert again.value() == pytest.approx(
        (20 * whole.select(INDEX[2:3]).value() + 1.25 * whole.select(INDEX[4:5]).value()) / 2
    )
    assert weighted.is_weighted
    assert not whole.is_weighted
    assert whole.select(INDEX).describe() != weighted.describe()
    assert "weights" not in whole.describe()


def test_weighted_batches_keep_their_own_statistics() -> None:
    whole = Objective(cnn(), images(21), batch_norm="batch", batch_size=8)
    batch = torch.arange(8, 16)
    plain = whole.select(batch)
    twice = whole.select(batch, weights=torch.full((8,), 2.0))
    assert twice.value() == pytest.approx(2 * plain.value())
    torch.testing.assert_close(twice.gradient(), 2 * plain.gradient())


def test_squares_of_losses_refuse_weights() -> None:
    weighted = Objective(mlp(0), vectors(21)).select(INDEX, weights=WEIGHTS)
    for build in (Fisher, GradientCovariance):
        with pytest.raises(ValueError, match="is not defined for weighted examples"):
            build(weighted)
    with pytest.raises(ValueError, match="is not defined for weighted examples"):
        Fisher(Objective(mlp(0), vectors(21))).over(weighted)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            torch.ones(3),
            r"`weights` must be one floating number an index, \(7,\), got torch.float32",
        ),
        (torch.ones(7, dtype=torch.int64), "must be one floating number"),
        (torch.full((7,), -1.0), "`weights` must be finite and not negative"),
        (torch.full((7,), torch.inf), "`weights` must be finite and not negative"),
    ],
)
def test_weights_that_are_none(weights: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(mlp(0), vectors(21)).select(INDEX, weights=weights)
