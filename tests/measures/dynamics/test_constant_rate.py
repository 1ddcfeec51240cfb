"""The discrete-time law against SciPy's Lyapunov equation, closed forms, torch's optimiser and dense sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from tests.measures.dynamics.quadratics import CURVATURES, covariance, hessian

from thalweg.measures.dynamics.constant_rate import (
    ConstantRate,
    continuous_temperature,
    excess_loss,
    stationary_covariance,
)

RULES = [ConstantRate(0.1), ConstantRate(0.3, 0.5), ConstantRate(0.05, 0.9), ConstantRate(0.1, 0.8, True)]


def dense(rule: ConstantRate) -> tuple[np.ndarray, np.ndarray]:
    """The step of (theta, v) ``(2 P, 2 P)`` and of the noise ``(2 P, P)``, written out from the update."""
    H, eye, mu = hessian().numpy(), np.eye(4), rule.momentum
    velocity = np.block([[H, mu * eye]])  # v' = mu v + H theta + noise
    if rule.nesterov:
        position = np.block([[eye, 0 * eye]]) - rule.lr * (np.block([[H, 0 * eye]]) + mu * velocity)
        return np.vstack([position, velocity]), np.vstack([-rule.lr * (1 + mu) * eye, eye])
    position = np.block([[eye, 0 * eye]]) - rule.lr * velocity
    return np.vstack([position, velocity]), np.vstack([-rule.lr * eye, eye])


@pytest.mark.parametrize("rule", RULES)
def test_lyapunov_with_curvature_and_noise_that_do_not_commute(rule: ConstantRate) -> None:
    H, S = hessian().numpy(), covariance().numpy() / 8
    assert np.abs(H @ S - S @ H).max() > 0.01
    A, B = dense(rule)
    whole = solve_discrete_lyapunov(A, B @ S @ B.T)
    Sigma = stationary_covariance(H, S, rule)
    np.testing.assert_allclose(Sigma, whole[:4, :4], rtol=1e-9, atol=1e-12)
    assert excess_loss(H, Sigma) == pytest.approx(np.trace(H @ whole[:4, :4]) / 2)


def test_closed_forms() -> None:
    h, lr, mu = np.array(CURVATURES), 0.07, 0.6
    ball = ConstantRate(lr, mu)
    expected = lr * (1 + mu) / (h * (1 - mu) * (2 * (1 + mu) - lr * h))
    np.testing.assert_allclose(ball.gains(h, h), expected, rtol=1e-12)
    crossed = lr / (h[:, None] + h - lr * h[:, None] * h)
    np.testing.assert_allclose(ConstantRate(lr).gains(h[:, None], h), crossed, rtol=1e-12)
    for nesterov in (False, True):
        short = ConstantRate(1e-5, mu, nesterov)
        np.testing.assert_allclose(
            h * short.gains(h, h) * 3, continuous_temperature(3 * np.ones(4), short), rtol=1e-3
        )


@pytest.mark.parametrize("rule", RULES)
def test_a_step_is_that_of_torch(rule: ConstantRate) -> None:
    theta = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=rule.lr, momentum=rule.momentum, nesterov=rule.nesterov)
    A, _ = dense(rule)
    z = np.concatenate([np.ones(4), np.zeros(4)])
    for _ in range(5):
        optimizer.zero_grad()
        (theta @ hessian() @ theta / 2).backward()
        optimizer.step()
        z = A @ z
        np.testing.assert_allclose(theta.detach().numpy(), z[:4], rtol=1e-12)
    pairs, b = rule.transition(CURVATURES)
    eigenvalues = np.concatenate([np.linalg.eigvals(pair) for pair in pairs])
    np.testing.assert_allclose(np.sort(np.abs(eigenvalues)), np.sort(np.abs(np.linalg.eigvals(A))), atol=1e-7)
    assert b[0] == -rule.lr * (1 + rule.momentum if rule.nesterov else 1)


@pytest.mark.parametrize("rule", RULES)
def test_the_threshold_parts_stable_from_unstable(rule: ConstantRate) -> None:
    t = rule.threshold
    assert rule.decay(0.999 * t) < 1 < rule.decay(1.001 * t)
    assert np.isinf(rule.gains([1.001 * t, -0.1, 0.0], [1.0, 1.0, 1.0])).all()
    assert np.isinf(rule.epoch_gains([1.001 * t, -0.1], 5, -0.25)).all()
    assert np.isinf(rule.relaxation(1.001 * t))
    assert np.isfinite(rule.relaxation(0.5 * t))
    near = rule.gains(0.999 * t, 0.999 * t)
    assert near > 10 * rule.gains(0.5 * t, 0.5 * t)
    with pytest.raises(ValueError, match=r"`hessian` must have eigenvalues above nought and below .*, got 0"):
        stationary_covariance(np.diag([0.0, 1.0]), np.eye(2), rule)
    with pytest.raises(ValueError, match="lower the rate"):
        stationary_covariance(np.diag([1.0, 1.01 * t]), np.eye(2), rule)


def test_relaxation() -> None:
    assert ConstantRate(0.01).relaxation(1.0) == pytest.approx(-1 / np.log(0.99))
    assert ConstantRate(0.1).relaxation(10.0) < 0.01  # there in one step
    # Complex pairs shrink by the root of the momentum.
    assert ConstantRate(0.1, 0.81).decay(1.0) == pytest.approx(0.9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("steps", "correlation"), [(5, -0.25), (6, -0.1), (1, 0.0), (4, 0.0)])
def test_epochs_against_dense_sums(rule: ConstantRate, steps: int, correlation: float) -> None:
    """One direction, all noises of an epoch in one vector, their covariance written out."""
    h = 1.3
    (A,), b = rule.transition([h])
    noise = np.full((steps, steps), correlation) + (1 - correlation) * np.eye(steps)

    def made(t: int) -> np.ndarray:
        W = np.zeros((2, steps))
        for s in range(t):
            W[:, s] = np.linalg.matrix_power(A, t - 1 - s) @ b
        return W @ noise @ W.T

    step = np.linalg.matrix_power(A, steps)
    start = solve_discrete_lyapunov(step, made(steps))
    powers = [np.linalg.matrix_power(A, t) for t in range(steps)]
    mean = np.mean([(P @ start @ P.T + made(t))[0, 0] for t, P in enumerate(powers)])
    assert rule.epoch_gains([h], steps, correlation)[0] == pytest.approx(mean, rel=1e-9)
    if correlation == 0:
        assert mean == pytest.approx(float(rule.gains(h, h)))


@pytest.mark.parametrize("rule", RULES)
def test_shuffled_passes_keep_flat_directions_cold(rule: ConstantRate) -> None:
    h = np.geomspace(1e-4, 0.6 * rule.threshold, 60)
    shuffled, afresh = h * rule.epoch_gains(h, 20, -1 / 19), h * rule.gains(h, h)
    assert (np.diff(shuffled) > 0).all()
    assert shuffled[0] < 0.01 * afresh[0]
    assert shuffled[-1] == pytest.approx(afresh[-1], rel=0.3)


def test_bad_input() -> None:
    for lr in (0.0, -1.0, float("nan"), "fast"):
        with pytest.raises(ValueError, match=r"`lr` must be positive and finite"):
            ConstantRate(lr)  # type: ignore[arg-type]
    for momentum in (1.0, -0.1, None):
        with pytest.raises(ValueError, match=r"`momentum` must lie in \[0, 1\)"):
            ConstantRate(0.1, momentum)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`nesterov` needs a `momentum`"):
        ConstantRate(0.1, 0.0, True)
    with pytest.raises(ValueError, match="`nesterov` must be True or False"):
        ConstantRate(0.1, 0.5, "yes")  # type: ignore[arg-type]
