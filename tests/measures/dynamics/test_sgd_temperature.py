"""Temperatures of runs against the closed form on quadratics, and runs against torch's own optimiser."""

from __future__ import annotations

import copy
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests import networks
from tests.measures.conftest import Theta
from tests.measures.dynamics.quadratics import covariance, hessian, objective, oracle, rows
from torch import Tensor

import thalweg as tw
from thalweg.core.rng import generator
from thalweg.measures.dynamics.batch_draws import BatchDraws
from thalweg.measures.dynamics.constant_rate import ConstantRate
from thalweg.measures.dynamics.temperature_run import Schedule, predicted_excess
from thalweg.objective.objective import Objective

LONG: dict[str, Any] = {
    "num_directions": 3,
    "burn_in": 200,
    "num_steps": 2000,
    "loss_every": 10,
    "batch_size": 8,
}


def z_scores(found: tw.SGDTemperature, truth: np.ndarray) -> np.ndarray:
    """On the logarithmic scale of the intervals."""
    T = found.temperatures.numpy()
    return np.log(T / truth) / (found.temperature_errors.numpy() / T)


@pytest.mark.parametrize(
    ("lr", "momentum", "nesterov", "sampling"),
    [
        pytest.param(0.1, 0.0, False, "replacement", marks=pytest.mark.slow),
        (0.3, 0.0, False, "without_replacement"),
        (0.1, 0.8, False, "replacement"),
        pytest.param(0.3, 0.9, False, "replacement", marks=pytest.mark.slow),
        pytest.param(0.1, 0.6, True, "without_replacement", marks=pytest.mark.slow),
    ],
)
def test_quadratic(lr: float, momentum: float, nesterov: bool, sampling: Any) -> None:
    """C and H do not commute; 2,000 steps, so that each z is of a temperature known to some 10 %."""
    found = tw.sgd_temperature(
        objective(), lr=lr, momentum=momentum, nesterov=nesterov, sampling=sampling, seed=3, **LONG
    )
    factor = 1 / 8 if sampling == "replacement" else 32 / (8 * 39)
    truth, excess = oracle(ConstantRate(lr, momentum, nesterov), covariance().numpy() * factor)
    np.testing.assert_allclose(found.predicted.numpy(), truth, rtol=1e-5)
    np.testing.assert_allclose(found.noise_trace, float(covariance().trace()) * factor, rtol=1e-9)
    assert found.outcome == "stationary"
    assert (np.abs(z_scores(found, truth)) < 3.3).all()
    assert (found.temperature_errors / found.temperatures < 0.2).all()
    assert abs(found.excess_loss - excess) < 3.3 * found.excess_loss_error
    assert found.excess_low <= excess * (1 + 1e-6)
    assert excess <= found.excess_high * (1 + 1e-6)
    assert abs(found.loss_center) < 0.1 * excess
    low, high = found.interval(0.999)
    assert low < float(found.predicted.mean()) < high
    surplus = (found.run_noise_variances - found.noise_variances).abs()
    assert bool((surplus < 4 * found.run_noise_errors).all())
    torch.testing.assert_close(found.noise_growth * found.noise_variances, found.run_noise_variances)
    c = (found.eigenvectors.T @ covariance() @ found.eigenvectors).diagonal()  # type: ignore[union-attr]
    torch.testing.assert_close(found.continuous, lr * c / (16 * (1 - momentum)), rtol=1e-6, atol=0)


def test_shuffled_passes() -> None:
    """Five batches an epoch: much colder than drawn afresh, as predicted."""
    found = tw.sgd_temperature(objective(), lr=0.05, momentum=0.5, sampling="epochs", seed=4, **LONG)
    afresh, _ = oracle(ConstantRate(0.05, 0.5), covariance().numpy() * 32 / (8 * 39))
    assert (found.predicted.numpy() < 0.7 * afresh).all()
    assert (np.abs(z_scores(found, found.predicted.numpy())) < 3.3).all()


def test_all_directions_give_the_excess() -> None:
    found = tw.sgd_temperature(objective(), lr=0.2, seed=0, **LONG | {"num_directions": 4, "num_steps": 200})
    assert found.excess_low == pytest.approx(found.excess_high)
    assert found.excess_low == pytest.approx(float(found.predicted.sum()) / 2)


def test_the_range_of_the_excess_holds_whatever_the_curvature_of_the_rest() -> None:
    """Nesterov's temperature is least at curvatures in between."""
    rule = ConstantRate(0.1, 0.9, True)
    draws, known = BatchDraws(40, 8), (np.array([10.0]), np.array([1.0]))
    low, high = predicted_excess(rule, draws, *known, trace=3.0)
    h = np.geomspace(1e-3, 10, 997)
    excesses = (10 * rule.gains(10.0, 10.0) + 2 * h * rule.gains(h, h)) / 2
    assert low == pytest.approx(excesses.min(), rel=1e-3)
    assert high == pytest.approx(excesses.max(), rel=1e-3)
    assert low < 0.9 * min(excesses[0], excesses[-1])


# -- the run ----------------------------------------------------------------------------------------------


def torch_positions(
    o: Objective,
    model: torch.nn.Module,
    x: Tensor,
    y: Tensor,
    draws: BatchDraws,
    steps: int,
    seed: int,
    **options: Any,
) -> Tensor:
    """``(steps, P)``: parameters by `torch.optim.SGD` on a copy of the model, fed the same batches."""
    model = copy.deepcopy(model).train(draws.in_batches)
    optimizer = torch.optim.SGD(model.parameters(), **options)
    places = []
    for index in itertools.islice(draws(generator(seed, "sgd_temperature", "batches")), steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[index]), y[index]).backward()
        optimizer.step()
        places.append(o.space.flatten({k: p.detach() for k, p in model.named_parameters()}))
    return torch.stack(places)


@pytest.mark.parametrize("mode", ["running", "batch"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_run_is_that_of_torch(mode: Any, nesterov: bool) -> None:
    x, y = networks.images(21)
    model = networks.residual(0)
    o = Objective(model.eval(), (x, y), batch_norm=mode, batch_size=8, weight_decay=0.01)
    options = {"lr": 0.05, "momentum": 0.7, "nesterov": nesterov}
    found = tw.sgd_temperature(o, num_directions=2, burn_in=6, num_steps=24, loss_every=1, seed=5, **options)
    draws = BatchDraws.of(o, None, "replacement")
    places = torch_positions(o, model, x, y, draws, 30, 5, weight_decay=0.01, **options)
    V = found.eigenvectors
    assert V is not None
    torch.testing.assert_close(found.positions[1:], (places - o.params) @ V, rtol=1e-8, atol=1e-10)
    assert found.positions[0].tolist() == [0, 0]
    assert found.losses[0] == found.loss_start == pytest.approx(o.value())
    for step in (1, 30):
        assert float(found.losses[step]) == pytest.approx(o.at(places[step - 1]).value())
    counted = (places[6:] - o.params) @ V
    spread = found.eigenvalues * (counted - counted.mean(0)).square().mean(0)
    assert (found.temperatures >= spread).all()  # what the mean's own chance takes is put back
    assert (found.temperatures <= 2 * spread * (1 + 1e-9)).all()
    halves = [o.at(p).value() for p in (places[6:].mean(0), places[6:18].mean(0), places[18:].mean(0))]
    assert found.loss_center == pytest.approx(2 * halves[0] - (halves[1] + halves[2]) / 2)
    assert found.excess_loss == pytest.approx(float(found.losses[7:].mean()) - found.loss_center)


def test_tied_parameters_move_once() -> None:
    tokens, classes = networks.tokens()
    model = networks.tied()
    o = Objective(model, (tokens, classes), batch_size=8)
    found = tw.sgd_temperature(o, lr=0.05, num_directions=1, burn_in=0, num_steps=16, loss_every=1, seed=5)
    places = torch_positions(
        o, model, tokens, classes, BatchDraws.of(o, None, "replacement"), 16, 5, lr=0.05, momentum=0
    )
    V = found.eigenvectors
    assert V is not None
    torch.testing.assert_close(found.positions[1:], (places - o.params) @ V, rtol=1e-8, atol=1e-10)


def test_recalibrated_statistics_are_held() -> None:
    x, y = networks.images(21)
    model = networks.residual(0)
    o = Objective(model, (x, y), batch_norm="recalibrated", batch_size=8)
    held = Objective(model, (x, y), batch_norm="running", batch_size=8).at(o.params, o.effective_buffers)
    few: dict[str, Any] = {"lr": 0.05, "num_directions": 2, "burn_in": 4, "num_steps": 20, "seed": 1}
    ours, theirs = tw.sgd_temperature(o, **few), tw.sgd_temperature(held, **few)
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-9, atol=0)


# -- outcomes ---------------------------------------------------------------------------------------------


def test_a_run_that_diverges_is_an_outcome() -> None:
    found = tw.sgd_temperature(objective(), lr=0.6, seed=0, **LONG)
    assert found.outcome == found.excess_outcome == "diverged"
    assert found.diverged_at is not None
    assert 10 < found.diverged_at < 300
    assert repr(found).startswith(f"SGDTemperature(diverged at step {found.diverged_at}, predicted inf")
    assert math.isnan(found.value)
    assert all(math.isnan(end) for end in found.interval())
    assert bool(found.temperatures.isnan().all())
    assert float(found.predicted[0]) == math.inf
    assert bool(found.predicted[1:].isfinite().all())
    assert len(found.losses) == len(found.loss_steps) == len(found.positions)
    back = tw.Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert back == found
    low, high = found.temperature_intervals()
    assert bool(low.isnan().all() and high.isnan().all())


def test_overflow_is_divergence_too() -> None:
    """The loss is looked at too seldom to see it rise: the gradient overflows first."""
    single = objective().to_dtype(torch.float32)
    found = tw.sgd_temperature(single, lr=5.0, seed=0, **LONG | {"loss_every": 4000})
    assert found.outcome == "diverged"
    assert len(found.losses) == 1


def test_divergence_between_evaluations_is_seen_at_the_end() -> None:
    found = tw.sgd_temperature(objective(), lr=0.6, seed=0, **LONG | {"num_steps": 100, "loss_every": 10**6})
    assert found.outcome == "diverged"
    assert found.diverged_at == 300
    assert len(found.losses) == 1


def test_a_run_that_still_falls_is_not_stationary() -> None:
    """Begun far up the flattest direction, without a burn-in, over about its relaxation time."""
    _, V = torch.linalg.eigh(hessian())
    o = objective()
    far = o.at(20 * V[:, 0])
    found = tw.sgd_temperature(
        far, lr=0.004, seed=0, **LONG | {"burn_in": 0, "num_steps": 500, "num_directions": 4, "loss_every": 2}
    )
    assert found.outcome == found.excess_outcome == "not stationary"
    assert "not stationary" in repr(found)
    assert float(found.position_drift[3]) < 1e-3
    assert not found.is_stationary


def test_a_short_run_says_so() -> None:
    found = tw.sgd_temperature(objective(), lr=0.05, seed=0, **LONG | {"num_steps": 1000})
    assert found.outcome == "too short"
    assert float(found.effective_sizes.min()) < 100
    seldom = tw.sgd_temperature(objective(), lr=0.2, seed=0, **LONG | {"num_steps": 100, "loss_every": 1000})
    assert seldom.excess_outcome == "too short"
    assert math.isnan(seldom.excess_loss)


def test_lengths_follow_the_slowest_direction() -> None:
    schedule = Schedule.of(ConstantRate(0.2), hessian_eigenvalues(), BatchDraws(40, 8), None, None, None)
    slowest = -1 / math.log(1 - 0.2 * 0.5)
    assert schedule.num_steps == math.ceil(400 * slowest) == 3797
    assert schedule.burn_in == 100
    assert schedule.loss_every == 2  # 40 / (3 * 8)
    assert schedule.cost(BatchDraws(40, 8)) == 3897 * 8 + 3897 // 2 * 40


def hessian_eigenvalues() -> Tensor:
    return torch.linalg.eigvalsh(hessian()).flip(0)


def test_no_noise_no_temperature() -> None:
    still = tw.sgd_temperature(
        objective(),
        lr=0.2,
        batch_size=40,
        sampling="without_replacement",
        num_directions=2,
        num_steps=200,
        seed=0,
    )
    assert still.predicted.tolist() == [0.0, 0.0]
    assert still.value < 1e-25
    assert still.excess_low == still.excess_high == 0


# -- intervals --------------------------------------------------------------------------------------------


def test_intervals_of_a_result_are_those_counted() -> None:
    """As `test_settled` counts them, and what the eigenvalues may be off by."""
    found = tw.sgd_temperature(objective(), lr=0.2, seed=0, **LONG | {"num_steps": 300, "rtol": 0.05})
    T, q = found.temperatures.numpy(), stats.t.ppf(0.975, found.temperature_dofs.numpy())
    bounds = found.residuals.numpy() / found.eigenvalues.numpy()
    ratio = np.exp(q * found.temperature_errors.numpy() / T + bounds)
    low, high = found.temperature_intervals(0.95)
    np.testing.assert_allclose(high.numpy(), T * ratio)
    np.testing.assert_allclose(low.numpy(), T / ratio)
    assert found.error.solver == pytest.approx(float(np.mean(bounds * T)))
    low, high = found.interval(0.95)
    assert low * high == pytest.approx(found.value**2)
    assert high / found.value == pytest.approx(math.exp(found.error.half_width(0.95) / found.value))


# -- bad input --------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    o = objective()
    saddle_rows = rows()

    def saddle(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return batch[0] @ model.theta + model.theta[0].square() - model.theta[1:].square().sum()

    for kwargs, match in [
        ({"lr": 0.0}, "`lr` must be positive"),
        ({"momentum": 1.0}, r"`momentum` must lie in \[0, 1\)"),
        (
            {"batch_size": 41},
            "`batch_size` must be at most the 40 examples that batches are drawn from, got 41",
        ),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"num_directions": 0}, "`num_directions` must be a whole number of at least 1"),
        ({"num_directions": 5}, "`num_directions` must be at most P = 4, the number of parameters, got 5"),
        ({"num_steps": 15}, "`num_steps` must be a whole number of at least 16"),
        ({"burn_in": -1}, "`burn_in` must be a whole number of at least 0"),
        ({"loss_every": 0}, "`loss_every` must be a whole number of at least 1"),
        ({"drift_level": 1.0}, r"`drift_level` must lie in \(0, 1\), got 1.0"),
        ({"min_effective_size": 0.5}, "`min_effective_size` must be finite and at least 1, got 0.5"),
        ({"sampling": "shuffled"}, "`sampling` must be one of replacement, without_replacement, epochs"),
        ({"rtol": 2.0}, "`rtol`"),
        ({"max_matvecs": 0}, "`max_matvecs`"),
    ]:
        with pytest.raises(ValueError, match=match):
            tw.sgd_temperature(o, **{"lr": 0.1, "seed": 0, **kwargs})  # type: ignore[arg-type]
    flat = Objective(Theta(torch.zeros(4, dtype=torch.float64)), (saddle_rows,), loss=saddle)
    with pytest.raises(ValueError, match=r"`num_directions` must be at most 1, since .* is -2, along"):
        tw.sgd_temperature(flat, lr=0.1, num_directions=2, seed=0)
    batched = Objective(networks.residual(), networks.images(21), batch_norm="batch", batch_size=8)
    with pytest.raises(ValueError, match=r"`batch_size` must be the objective's own, 8"):
        tw.sgd_temperature(batched, lr=0.1, batch_size=4, seed=0)
    with pytest.raises(ValueError, match=r"`sampling` must be 'replacement' where the last batch"):
        tw.sgd_temperature(batched, lr=0.1, sampling="epochs", seed=0)
    with pytest.raises(tw.NonFiniteLossError, match=r"not finite|example 0"):
        tw.sgd_temperature(
            o.at(torch.full((4,), math.inf, dtype=torch.float64)), lr=0.1, num_directions=2, seed=0
        )
