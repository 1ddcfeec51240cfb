"""Random directions: norms, angles and streams."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.measures.surfaces.line import line_slice
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import random_direction


@pytest.fixture
def objective(toys) -> Objective:
    return Objective(toys.convnet(), toys.images(), batch_size=8)


@pytest.mark.parametrize("ignore", ["bias_and_norm", "none"])
def test_each_filter_has_the_norm_of_the_weights_it_moves(objective: Objective, ignore: str) -> None:
    direction = random_direction(objective, 0, ignore=ignore, seed=3)
    named = objective.space.unflatten(direction)
    weights = objective.named_params
    for name in ("conv.weight", "head.weight"):
        ours, theirs = (t[name].flatten(1).norm(dim=1) for t in (named, weights))
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    for name in ("conv.bias", "norm.weight", "norm.bias", "head.bias"):
        expected = weights[name].norm() if ignore == "none" else torch.zeros((), dtype=torch.float64)
        torch.testing.assert_close(named[name].norm(), expected, rtol=1e-13, atol=0)


def test_raw_directions_have_length_one_and_the_gaussians_angles(objective: Objective) -> None:
    raw = random_direction(objective, 0, normalisation="raw", ignore="none", seed=3)
    scaled = random_direction(objective, 0, normalisation="filter", ignore="none", seed=3)
    assert float(raw.norm()) == pytest.approx(1, abs=1e-14)
    # The same draw underneath: within a filter the two are parallel.
    a, b = (objective.space.unflatten(d)["conv.weight"].flatten(1) for d in (raw, scaled))
    torch.testing.assert_close(nn.functional.cosine_similarity(a, b), torch.ones(4, dtype=torch.float64))
    zeros = objective.space.unflatten(random_direction(objective, 0, normalisation="raw", seed=3))
    assert float(zeros["norm.weight"].norm()) == 0


def test_a_seed_fixes_the_directions_and_only_the_dtype_rounds_them(toys, objective: Objective) -> None:
    first, again, other, second = (
        random_direction(objective, i, seed=s) for i, s in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, second)
    single = objective.to_dtype(torch.float32)
    assert torch.equal(
        random_direction(single, 0, normalisation="raw", seed=3),
        random_direction(objective, 0, normalisation="raw", seed=3).float(),
    )


def test_the_stream_is_pinned(toys) -> None:
    """Recorded with torch 2.13.0. A change here changes every published slice: say so in the changelog."""
    o = toys.quadratic(torch.ones(20, dtype=torch.float64), torch.eye(20, dtype=torch.float64))
    found = random_direction(o, 0, normalisation="raw", ignore="none", seed=0)
    recorded = [0.007720706581519734, 0.41430754756268584, -0.06682099652015538, -0.2090041727733391]
    assert found[:4].tolist() == pytest.approx(recorded, rel=1e-12)


def test_directions_are_uniform_on_the_sphere(toys) -> None:
    """Not all positive, not nearly parallel: 2,000 in three dimensions have mean 0 and second moments 1/3."""
    P, n = 3, 2000
    o = toys.quadratic(torch.ones(P, dtype=torch.float64), torch.eye(P, dtype=torch.float64))
    D = torch.stack([random_direction(o, i, normalisation="raw", ignore="none", seed=0) for i in range(n)])
    assert float(D.mean(0).abs().max()) < 4.5 * math.sqrt(1 / (P * n))
    # Var(d_i^2) = 2 (P - 1) / (P^2 (P + 2)) and Var(d_i d_j) = 1 / (P (P + 2)) on the sphere.
    gap = D.T @ D / n - torch.eye(P, dtype=torch.float64) / P
    assert float(gap.diagonal().abs().max()) < 4.5 * math.sqrt(2 * (P - 1) / (P**2 * (P + 2) * n))
    assert float(gap.triu(1).abs().max()) < 4.5 * math.sqrt(1 / (P * (P + 2) * n))


def test_rescaling_a_relu_layer_changes_no_filter_normalised_slice(toys) -> None:
    def mlp(scale: float) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3)).double()
        with torch.no_grad():
            net[1].weight *= scale
            net[1].bias *= scale
            net[3].weight /= scale
        return net

    plain, scaled = (
        line_slice(Objective(mlp(s), toys.images()), num_points=5, num_directions=2, seed=0)
        for s in (1.0, 8.0)
    )
    torch.testing.assert_close(plain.losses_by_direction, scaled.losses_by_direction, rtol=1e-12, atol=0)
    raw, raw_scaled = (
        line_slice(Objective(mlp(s), toys.images()), num_points=5, normalisation="raw", seed=0)
        for s in (1.0, 8.0)
    )
    assert float((raw.losses - raw_scaled.losses).abs().max()) > 1e-3
