"""`largest_stable_learning_rate`: thresholds of quadratics, runs of plain PyTorch, what ends a scan."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from tests import networks
from tests.measures.conftest import Theta, quadratic
from tests.operators.oracle import mean_loss, prepared, trainable
from tests.oracles import planted_matrix
from torch import Tensor, nn

from thalweg.core.errors import ConvergenceError
from thalweg.core.rng import generator
from thalweg.measures.dynamics.largest_stable_learning_rate import largest_stable_learning_rate
from thalweg.objective.objective import Objective

LAMBDA = 4.0


def bowl(**kwargs: Any) -> Objective:
    """A quadratic bowl whose minimum is nought, seen from outside; each step takes all the examples."""
    H, Q = planted_matrix([LAMBDA, 1.0, 0.5])
    return quadratic(torch.zeros(3, dtype=torch.float64), H, Q.sum(1), **kwargs)


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ({}, 2 / LAMBDA),
        ({"momentum": 0.5}, 3 / LAMBDA),
        ({"momentum": 0.5, "nesterov": True}, 3 / (2 * LAMBDA)),
    ],
)
def test_on_a_quadratic_it_is_the_classical_threshold(rule: dict[str, Any], threshold: float) -> None:
    found = largest_stable_learning_rate(
        bowl(), **rule, batch_size=7, num_steps=150, rtol=0.02, lowest=0.1, num_orders=2, seed=0
    )
    # So many steps see growth by a part in a hundred.
    assert found.value == pytest.approx(threshold, rel=0.02)
    assert bool((found.unstable <= 1.02 * found.stable).all())
    assert found.error.probe is not None
    assert found.error.probe.value == pytest.approx(0, abs=1e-12)  # no order of the data, no spread
    assert found.error.solver == pytest.approx(found.value * (math.sqrt(1.02) - 1), rel=0.5)


def trained_by_torch(model: Any, data: Any, mode: str, rate: float, momentum: float, order: int) -> float:
    """Loss over all the examples, in their partition of 6, after five steps of eight examples."""
    model = prepared(model, data, "cross_entropy", mode)
    mode = "running" if mode == "recalibrated" else mode
    x, y = data
    optimizer = torch.optim.SGD(trainable(model), lr=rate, momentum=momentum)
    rng, steps = generator(3, "largest_stable_learning_rate", order), []
    while len(steps) < 5:  # shuffled passes, less what is left over at the end of each
        steps += torch.randperm(21, generator=rng)[:16].split(8)
    for part in steps[:5]:
        optimizer.zero_grad()
        mean_loss(model, (x[part], y[part]), "cross_entropy", mode, 8).backward()
        optimizer.step()
    return float(mean_loss(model, data, "cross_entropy", mode, 6).detach())


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_every_run_is_that_of_torch(mode: Any, unchanged: Any) -> None:
    model, data = networks.cnn(), networks.images()
    with unchanged(model, data):
        o = Objective(model, data, batch_norm=mode, batch_size=6)
        found = largest_stable_learning_rate(
            o, momentum=0.5, batch_size=8, num_steps=5, lowest=0.05, rtol=0.5, num_orders=2, seed=3
        )
    runs = list(zip(found.trial_orders.tolist(), found.trial_rates.tolist(), found.trial_losses, strict=True))
    for order, rate, loss in runs:
        assert float(loss) == pytest.approx(trained_by_torch(model, data, mode, rate, 0.5, order), rel=1e-6)
    assert found.start_loss == pytest.approx(o.value())
    assert found.level == pytest.approx(0.9 * o.value())
    for order in (0, 1):
        trained = {rate: float(loss) <= found.level for k, rate, loss in runs if k == order}
        stable, unstable = float(found.stable[order]), float(found.unstable[order])
        assert trained[stable]
        assert not trained[unstable]
        assert unstable / stable <= 1.5
        begins = min(rate for rate, did in trained.items() if did)
        assert all(did for rate, did in trained.items() if begins <= rate <= stable)


def test_value_and_error_are_those_of_the_brackets() -> None:
    o = Objective(networks.mlp(), networks.vectors())
    found = largest_stable_learning_rate(
        o, batch_size=4, num_steps=12, lowest=0.1, rtol=0.2, num_orders=4, seed=1
    )
    middles = [(a * b) ** 0.5 for a, b in zip(found.stable.tolist(), found.unstable.tolist(), strict=True)]
    assert found.value == pytest.approx(math.prod(middles) ** 0.25)
    logs = torch.tensor(middles, dtype=torch.float64).log()
    assert found.error.probe is not None
    assert found.error.probe.value == pytest.approx(found.value * float(logs.std()) / 2)
    assert found.error.probe.dof == 3
    ends = (math.prod(found.stable.tolist()) ** 0.25, math.prod(found.unstable.tolist()) ** 0.25)
    assert found.error.solver is not None
    assert found.value - found.error.solver <= ends[0]
    assert found.value + found.error.solver == pytest.approx(ends[1])
    half = float(stats.t.ppf(0.975, 3)) * float(logs.std()) / 2
    assert found.interval(0.95) == pytest.approx((ends[0] * math.exp(-half), ends[1] * math.exp(half)))
    assert repr(found).startswith(f"LargestStableLearningRate({found.value:.3g}, ")
    assert "(95 %)" in repr(found)


@pytest.mark.slow
def test_its_standard_error_is_the_spread_over_orders() -> None:
    """Least squares, whose examples differ in curvature, so that the order decides what grows."""
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(12, 3, generator=rng, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.3, -0.5, 1.1]]))
    o = Objective(model, (x, torch.zeros(12, 1, dtype=torch.float64)), loss="mse")
    values, errors = [], []
    for seed in range(60):
        found = largest_stable_learning_rate(
            o, batch_size=3, num_steps=12, lowest=0.1, rtol=0.02, num_orders=4, seed=seed
        )
        assert found.error.probe is not None
        values.append(math.log(found.value))
        errors.append(found.error.probe.value / found.value)
    spread = float(torch.tensor(values).std())
    assert spread > 0.02
    assert math.sqrt(sum(e**2 for e in errors) / len(errors)) == pytest.approx(spread, rel=0.3)


# -- outcomes -------------------------------------------------------------------------------------------


def test_a_run_that_diverges_is_an_outcome() -> None:
    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return batch[0] * torch.exp(model.theta[0] ** 2)  # infinite soon, if steps are too long

    model = Theta(torch.ones(1, dtype=torch.float64))
    o = Objective(model, (torch.ones(3, dtype=torch.float64),), loss=loss)
    found = largest_stable_learning_rate(o, batch_size=3, num_steps=40, num_orders=2, seed=0)
    assert bool(found.trial_losses.isnan().any())
    assert not bool((found.trained & found.trial_losses.isnan()).any())
    # The first step goes to 1 - 2 e eta, from where it comes down if that is no further from nought than 1.
    assert found.value == pytest.approx(1 / math.e, rel=0.1)


def test_a_network_that_never_learns_has_not_trained_however_finite_its_loss() -> None:
    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return batch[0] * (2 + 0.1 * torch.tanh(model.theta[0]))

    o = Objective(
        Theta(torch.zeros(1, dtype=torch.float64)), (torch.ones(3, dtype=torch.float64),), loss=loss
    )
    with pytest.raises(
        ConvergenceError, match=r"no rate trains, of those doubled from 0.001 to 8, .*`num_steps`"
    ):
        largest_stable_learning_rate(o, highest=8.0, num_steps=20, num_orders=2, seed=0)
    found = largest_stable_learning_rate(
        bowl(), batch_size=7, num_steps=20, lowest=1e-4, rtol=0.5, num_orders=2, seed=0
    )
    assert not bool(found.trained[0]), "too slow a rate is not what ends the scan"
    assert found.value == pytest.approx(2 / LAMBDA, rel=0.3)


def test_a_scan_that_ends_too_soon_says_so() -> None:
    with pytest.raises(
        ConvergenceError, match=r"the highest rate still trains, .* to 0.3, .*raise `highest`"
    ):
        largest_stable_learning_rate(bowl(), highest=0.3, batch_size=7, num_steps=50, num_orders=2, seed=0)


def test_bad_input_is_refused() -> None:
    o = bowl()
    for name, value, message in (
        ("momentum", 1.0, r"`momentum` must lie in \[0, 1\)"),
        ("batch_size", 8, "`batch_size` must be at most the 7 examples"),
        ("num_steps", 0, "`num_steps` must be a whole number of at least 1"),
        ("num_orders", 1, "`num_orders` must be a whole number of at least 2"),
        ("loss_ratio", 1.0, r"`loss_ratio` must lie in \(0, 1\)"),
        ("rtol", 0.0, r"`rtol` must lie in \(0, 1\)"),
        ("lowest", 0.0, "`lowest` must be positive and finite"),
        ("highest", 1e-4, "`highest` must be above `lowest`, 0.001, got 0.0001"),
    ):
        with pytest.raises(ValueError, match=message):
            largest_stable_learning_rate(o, **{name: value}, seed=0)
    sunk = quadratic(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="`objective` must have a loss above nought where training starts"):
        largest_stable_learning_rate(sunk, seed=0)
