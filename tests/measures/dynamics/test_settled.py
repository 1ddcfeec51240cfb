"""What a run has settled to, counted over many runs of a quadratic side by side: coverage, size and power."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.measures.dynamics.quadratics import CURVATURES, covariance, hessian, oracle
from torch import Tensor

from thalweg.measures.dynamics.constant_rate import ConstantRate
from thalweg.measures.dynamics.constant_rate_walk import Walk, constant_rate_walk
from thalweg.measures.dynamics.settled import Criteria, Settled, noise_during, settled, settled_excess

BURN_IN = 200

# In each, 150 to 500 independent samples along the slowest of three directions; the steepest is at 0.3, 0.9,
# 0.11, 0.42 and 0.05 of the threshold.
CASES = [
    (ConstantRate(0.15), 2000),
    (ConstantRate(0.45), 1200),
    (ConstantRate(0.1, 0.8), 2000),
    (ConstantRate(0.4, 0.9), 4000),
    (ConstantRate(0.05), 6000),
]


def chains(
    rule: ConstantRate,
    repetitions: int,
    steps: int,
    *,
    burn_in: int = BURN_IN,
    start: float = 0.0,
    later: float = 1.0,
) -> Walk:
    """Runs side by side, Gaussian noise of covariance C / 8, begun so far up the flattest direction; in the
    second half of the run the noise is `later` times as strong."""
    H, root = hessian(), torch.linalg.cholesky(covariance() / 8)
    V = torch.linalg.eigh(H).eigenvectors.flip(1)
    rng = torch.Generator().manual_seed(1)
    made = itertools.count()

    def gradient(theta: Tensor, _batch: Tensor) -> Tensor:
        strength = later if next(made) >= burn_in + steps // 2 else 1.0
        noise = torch.randn(4, repetitions, generator=rng, dtype=torch.float64)
        return H @ theta + strength * (root @ noise)

    return constant_rate_walk(
        start * V[:, 3:].expand(4, repetitions).clone(),
        V,
        rule,
        gradient,
        lambda _: 0.0,
        itertools.repeat(torch.zeros(0)),
        burn_in=burn_in,
        num_steps=steps,
        loss_every=10**9,
    )


def each(walk: Walk, burn_in: int = BURN_IN, k: int = 3) -> list[Settled]:
    """Along the k steepest directions."""
    positions = walk.positions[burn_in:].numpy()
    return [
        settled(positions[:, :k, i], np.array(CURVATURES[:k]), Criteria()) for i in range(positions.shape[2])
    ]


def holds(mean: Any, truth: Any) -> np.ndarray:
    """Whether an interval at 95 % does, symmetric on a logarithmic scale as results state it."""
    room = stats.t.ppf(0.975, mean.dof) * mean.standard_error / mean.value
    return np.abs(np.log(mean.value / truth)) <= room


@pytest.mark.parametrize(("rule", "steps"), CASES)
@pytest.mark.parametrize("repetitions", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_coverage_and_size(rule: ConstantRate, steps: int, repetitions: int) -> None:
    truth, excess = oracle(rule, covariance().numpy() / 8)
    walk = chains(rule, repetitions, steps)
    runs = each(walk)
    held = np.mean([holds(run.temperatures, truth) for run in runs], 0)
    parts = {"mean": np.mean([holds(run.mean, truth.mean()) for run in runs]), **dict(enumerate(held))}

    def loss(theta: np.ndarray) -> np.ndarray:
        return np.einsum("i...,ij,j...->...", theta, hessian().numpy(), theta) / 2

    losses = (np.array(CURVATURES)[:, None] * walk.positions[BURN_IN:].numpy() ** 2).sum(1) / 2
    at_mean, at_halves = loss(walk.halves.mean(0).numpy()), loss(walk.halves.numpy().swapaxes(0, 1))
    excesses = [
        settled_excess(losses[:, i], at_mean[i], at_halves[:, i], Criteria()) for i in range(repetitions)
    ]
    q = [
        abs(e.mean.value - excess) <= stats.t.ppf(0.975, e.mean.dof) * e.mean.standard_error for e in excesses
    ]
    parts["excess"] = np.mean(q)
    verdicts = [run.outcome for run in runs]
    of_losses = [e.outcome for e in excesses]
    print("sgd_temperature", rule, parts, {v: verdicts.count(v) for v in set(verdicts)})
    room = 0.02 if repetitions == 2000 else 3.5 * math.sqrt(0.95 * 0.05 / repetitions)
    for name, part in parts.items():
        assert 0.95 - room < part < 0.95 + room, (name, part)
    for outcomes in (verdicts, of_losses):
        # Twice the level, so far out in the tails.
        assert outcomes.count("not stationary") <= 0.02 * repetitions + 3 * math.sqrt(0.02 * repetitions)
        assert outcomes.count("too short") <= max(1, 0.005 * repetitions)


@pytest.mark.parametrize("rule", [ConstantRate(0.1), ConstantRate(0.3, 0.8)])
def test_hotter_noise_in_the_second_half_is_seen(rule: ConstantRate) -> None:
    """Temperatures 1.7 times as high, each half worth over a hundred independent samples."""
    runs = each(chains(rule, 60, 4000, later=math.sqrt(1.7)))
    assert np.mean([run.outcome == "not stationary" for run in runs]) > 0.9
    assert np.mean([np.min(run.spread_drift) < 0.01 for run in runs]) > 0.95


def test_a_run_that_began_elsewhere_is_seen() -> None:
    """Twenty standard deviations up the flattest direction, back within a fortieth of the run: the mean
    variance along it is then twice what it settles to, with nothing in the second half to show for it."""
    runs = each(chains(ConstantRate(0.1), 40, 4000, burn_in=0, start=1.76), burn_in=0, k=4)
    assert np.mean([run.outcome == "not stationary" for run in runs]) > 0.9


def test_the_minimum_is_told_from_the_run() -> None:
    """The mean of a run is above it by what its halves' means show."""
    walk = chains(ConstantRate(0.15), 400, 400)
    H = hessian()
    whole, halves = walk.halves.mean(0), walk.halves

    def loss(theta: Tensor) -> np.ndarray:
        return ((H @ theta) * theta).sum(0).numpy() / 2

    plain, centers = loss(whole), 2 * loss(whole) - (loss(halves[0]) + loss(halves[1])) / 2
    _, excess = oracle(ConstantRate(0.15), covariance().numpy() / 8)
    assert plain.mean() > 4 * plain.std() / 20
    assert abs(centers.mean()) < 4 * centers.std() / 20
    assert abs(centers.mean()) < plain.mean() / 4
    found = settled_excess(np.full(40, 3.0), 2.0, [2.5, 1.5], Criteria())
    assert (found.center, float(found.mean.value)) == (2.0, 1.0)
    assert plain.mean() < excess


def test_noise_that_grows_with_the_distance() -> None:
    """Slopes a x + n with a and n drawn anew: x settles to lr^2 S0 / (1 - (1 - lr h)^2 - lr^2 Var(a)), the
    noise during the run to S0 + Var(a) Var(x), and of that noise the law is exact."""
    h, spread, lr, repetitions, steps = 1.0, 1.0, 0.5, 100, 3000
    rng = torch.Generator().manual_seed(4)

    def gradient(theta: Tensor, _batch: Tensor) -> Tensor:
        a, n = torch.randn(2, 1, repetitions, generator=rng, dtype=torch.float64)
        return (h + spread * a) * theta + n

    walk = constant_rate_walk(
        torch.zeros(1, repetitions, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
        ConstantRate(lr),
        gradient,
        lambda _: 0.0,
        itertools.repeat(torch.zeros(0)),
        burn_in=50,
        num_steps=steps,
        loss_every=10**9,
    )
    before, slopes = walk.positions[49:-1, 0].numpy(), walk.slopes[50:, 0].numpy()
    found = noise_during(before, slopes)
    variance = lr**2 / (1 - (1 - lr * h) ** 2 - lr**2 * spread**2)
    truth = 1 + spread**2 * variance
    assert truth == pytest.approx(1.5)
    assert abs(found.value.mean() - truth) < 4 * found.value.std() / math.sqrt(repetitions)
    errors = np.sqrt(np.mean(found.standard_error**2))
    assert errors == pytest.approx(found.value.std(), rel=0.3)
    assert variance == pytest.approx(float(ConstantRate(lr).gains(h, h)) * truth)
    still = noise_during(np.zeros((20, 1)), np.ones((20, 1)))
    assert (float(still.value[0]), float(still.standard_error[0])) == (0.0, 0.0)


def test_criteria() -> None:
    criteria = Criteria()
    assert criteria.verdict([0.5, 0.0049], [500, 500]) == "not stationary"  # two tests at 1 % together
    assert criteria.verdict([0.5, 0.0051], [500, 99]) == "too short"
    assert criteria.verdict([0.5, 0.0051], [500, 100]) == "stationary"
    assert Criteria(1e-3, 50).verdict([0.5, 0.0049], [500, 60]) == "stationary"
