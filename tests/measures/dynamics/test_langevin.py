"""Langevin's law on quadratics, where both schemes have closed forms; gradients of many points at once."""

from __future__ import annotations

import pytest
import torch
from tests.networks import images, residual
from torch import Tensor

from thalweg.core.rng import generator
from thalweg.measures.dynamics.chain_gradients import ChainGradients
from thalweg.measures.dynamics.langevin import Langevin, LowRankScale, Scheme
from thalweg.objective.objective import Objective

CURVATURES = torch.tensor([0.5, 2.0, 10.0], dtype=torch.float64)
NUM_CHAINS = 20_000


def variances(scheme: Scheme, step: float, root: LowRankScale | None = None, num_steps: int = 120) -> Tensor:
    """Over many chains, after as many steps as the flattest direction needs to forget where it began."""
    dynamics = Langevin(step, 0.3, generator(1, scheme), root, scheme)
    theta = torch.zeros(NUM_CHAINS, 3, dtype=torch.float64)
    for _ in range(num_steps):
        theta = dynamics(theta, CURVATURES * theta)
    return theta.var(0)


@pytest.mark.parametrize("step", [0.05, 0.15])
def test_on_a_quadratic_the_scheme_is_exact_and_euler_too_hot(step: float) -> None:
    unit = (2 / NUM_CHAINS) ** 0.5  # relative standard error of a variance
    left = (1 - step * CURVATURES).abs() ** 240  # what 120 steps leave of the start, squared
    exact = 0.3 / CURVATURES * (1 - left)
    z = (variances("leimkuhler_matthews", step) / exact - 1) / unit
    assert bool((z.abs() < 4).all())
    euler = 0.3 / (CURVATURES * (1 - step * CURVATURES / 2)) * (1 - left)
    z = (variances("euler", step) / euler - 1) / unit
    assert bool((z.abs() < 4).all())
    assert float(euler[-1] / exact[-1]) > 1.3


def test_another_matrix_changes_the_pace_and_not_the_law() -> None:
    """Directions that do not commute with the curvature; the flat one relaxes in a twentieth of the steps."""
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator(3, "turn")))[0]
    turned = Langevin(0.2, 0.3, generator(2, "turned"), LowRankScale(Q[:, :2], torch.tensor([0.5, 1.0]), 0.7))
    theta = torch.zeros(NUM_CHAINS, 3, dtype=torch.float64)
    for _ in range(150):
        theta = turned(theta, CURVATURES * theta)
    unit = (2 / NUM_CHAINS) ** 0.5
    assert bool((((theta.var(0) * CURVATURES / 0.3) - 1).abs() < 4 * unit).all())
    best = LowRankScale(torch.eye(3, dtype=torch.float64)[:, 1:], CURVATURES[1:].rsqrt(), 0.5**-0.5)
    few = variances("leimkuhler_matthews", 0.3, best, num_steps=12)
    assert bool((((few * CURVATURES / 0.3) - 1).abs() < 4 * unit).all())
    plain = variances("leimkuhler_matthews", 0.05, num_steps=12)
    assert float(plain[0] * 0.5 / 0.3) < 0.5


def test_a_low_rank_scale_is_the_dense_matrix() -> None:
    V = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64, generator=generator(0, "V")))[0]
    scales = torch.tensor([3.0, 0.5], dtype=torch.float64)
    dense = 0.7 * torch.eye(5, dtype=torch.float64) + V @ torch.diag(scales - 0.7) @ V.T
    U = torch.randn(5, 4, dtype=torch.float64, generator=generator(0, "U"))
    scale = LowRankScale(V, scales, 0.7)
    torch.testing.assert_close(scale.into(U), dense @ U)
    torch.testing.assert_close(scale.back(U), dense.T @ U)


def test_without_temperature_it_is_gradient_descent() -> None:
    theta = torch.randn(4, 3, dtype=torch.float64, generator=generator(0, "start"))
    moved = Langevin(0.1, 0.0, generator(0, "none"))(theta, CURVATURES * theta)
    torch.testing.assert_close(moved, theta - 0.1 * CURVATURES * theta)


# -- gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_all_points_together_as_one_by_one(mode: str) -> None:
    """21 examples in micro-batches of 5, or batches of 8; an L2 term; batches with an example twice."""
    x, y = images(21)
    o = Objective(
        residual(0),
        (x, y),
        batch_norm=mode,
        batch_size=8,
        micro_batch=5,
        weight_decay=0.1,  # type: ignore[arg-type]
    ).frozen()
    rng = torch.Generator().manual_seed(0)
    theta = o.params + 0.1 * torch.randn(3, o.space.dim, dtype=torch.float64, generator=rng)
    own = [torch.arange(8), torch.arange(8, 16), torch.arange(16, 21)]
    drawn = torch.tensor([[3, 3, 20], [0, 1, 2], [7, 9, 7]])
    for batches in (None, own if mode == "batch" else drawn):
        together, each = (ChainGradients(o, way)(theta, batches) for way in (True, False))
        for ours, theirs in zip(together, each, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ChainGradients(o).losses(theta)[1].item(), o.at(theta[1]).value())


def test_the_l2_term_of_what_was_made_constant() -> None:
    x, y = images(6)
    whole = Objective(residual(1), (x, y), weight_decay=0.5)
    o = whole.restrict(whole.space.names[0])
    theta = o.params + torch.tensor([[0.0], [0.3]], dtype=torch.float64)
    truth = torch.tensor([o.at(point).value() for point in theta], dtype=torch.float64)
    assert float(truth[0]) == pytest.approx(whole.value())
    for together in (True, False):
        gradients = ChainGradients(o, together)
        torch.testing.assert_close(gradients(theta)[0], truth)
    torch.testing.assert_close(gradients.losses(theta), truth)


def test_gradients_of_single_examples() -> None:
    x, y = images(6)
    o = Objective(residual(1), (x, y), weight_decay=0.1)
    found = ChainGradients(o).example_gradients(o.params[None])
    assert found.shape == (1, 6, o.space.dim)
    torch.testing.assert_close(found[0, 4], o.select(torch.tensor([4])).gradient())
    torch.testing.assert_close(found[0].mean(0), o.gradient())


def test_what_is_not_finite_stays_as_it_is() -> None:
    x, y = images(6)
    o = Objective(residual(1), (x, y))
    theta = torch.stack([o.params, o.params * torch.nan])
    losses, slopes = ChainGradients(o, together=False)(theta)
    assert losses.isnan().tolist() == [False, True]
    assert bool(slopes[1].isnan().all())
    assert not bool(slopes[0].isnan().any())
