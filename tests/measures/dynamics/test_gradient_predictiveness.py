"""`gradient_predictiveness`: quadratics in closed form, networks by plain PyTorch, its standard error."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import pytest
import torch
from scipy import stats
from tests import networks
from tests.measures.conftest import Theta, moved, quadratic
from tests.operators.oracle import flat_gradient, mean_loss, prepared, trainable
from tests.oracles import planted_matrix
from torch import Tensor, nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.rng import generator
from thalweg.measures.dynamics.gradient_predictiveness import (
    LEARNING_RATES,
    GradientPredictiveness,
    gradient_predictiveness,
)
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")
RATES = [0.05, 0.3, 0.7]


def drawn(n: int, size: int, count: int, seed: int) -> list[Tensor]:
    """The batches of a seed."""
    rng = generator(seed, "gradient_predictiveness")
    return [torch.randperm(n, generator=rng)[:size].sort().values for _ in range(count)]


# -- quadratics ---------------------------------------------------------------------------------------------


def test_a_quadratic_is_in_closed_form() -> None:
    H, _ = planted_matrix([5.0, 2.0, 0.5, -1.0])
    at = torch.tensor([0.4, -1.0, 2.0, 0.3], dtype=torch.float64)
    o = quadratic(torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64), H, at)
    rows = cast(Any, o)._examples.batch[0]
    found = gradient_predictiveness(o, learning_rates=RATES, batch_size=3, num_batches=4, seed=2)
    assert found.losses.shape == found.gradient_changes.shape == found.distances.shape == (4, 3)
    loss_ranges, gradient_ranges = [], []
    for i, part in enumerate(drawn(7, 3, 4, 2)):
        g = rows[part].mean(0) + H @ at
        loss = float(rows[part].mean(0) @ at + at @ H @ at / 2)
        losses = [loss - r * float(g @ g) + r**2 / 2 * float(g @ H @ g) for r in RATES]
        assert float(found.center_losses[i]) == pytest.approx(loss)
        assert float(found.gradient_norms[i]) == pytest.approx(float(g.norm()))
        assert found.losses[i].tolist() == pytest.approx(losses)
        assert found.distances[i].tolist() == pytest.approx([r * float(g.norm()) for r in RATES])
        assert found.gradient_changes[i].tolist() == pytest.approx([r * float((H @ g).norm()) for r in RATES])
        assert float(found.smoothness[i]) == pytest.approx(float((H @ g).norm() / g.norm()))
        loss_ranges.append(max(losses) - min(losses))
        gradient_ranges.append(0.65 * float((H @ g).norm()))
    assert float(found.loss_range) == pytest.approx(sum(loss_ranges) / 4)
    assert float(found.gradient_range) == pytest.approx(sum(gradient_ranges) / 4)
    assert found.value == pytest.approx(float(found.smoothness.mean()))


def test_along_an_eigenvector_the_smoothness_is_its_eigenvalue_whatever_the_rates() -> None:
    H, Q = planted_matrix([5.0, 2.0, 0.5])
    for rates in (RATES, [1e-3, 10.0]):
        o = quadratic(3 * Q[:, 1], H)
        found = gradient_predictiveness(o, learning_rates=rates, gradient="full", seed=0)
        assert found.value == pytest.approx(2.0)
        assert found.error.data is None
        assert found.batch_size == 7


# -- networks -----------------------------------------------------------------------------------------------


def at_point(model: nn.Module, batch: Any, data: Any, mode: str, size: int) -> tuple[float, Tensor]:
    """Loss and gradient of a batch; recalibrated statistics are those of all the data at the point."""
    if mode == "recalibrated":
        model, mode = prepared(model, data, "cross_entropy", mode), "running"
    model = prepared(model, batch, "cross_entropy", mode)
    value = mean_loss(model, batch, "cross_entropy", mode, size)
    return float(value.detach()), flat_gradient(value, trainable(model))


def followed(model: nn.Module, batch: Any, data: Any, mode: str, size: int) -> list[tuple[float, float]]:
    """Loss and change of the gradient after each step."""
    _, g = at_point(model, batch, data, mode, size)
    pairs = []
    for rate in RATES:
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        there = moved(model, torch.cat([g.new_zeros(frozen), -rate * g]))  # the frozen layer is the first
        loss, other = at_point(there, batch, data, mode, size)
        pairs.append((loss, float((other - g).norm())))
    return pairs


@pytest.mark.parametrize("mode", MODES)
def test_every_batch_is_what_plain_pytorch_makes_of_it(mode: Any, unchanged: Any) -> None:
    model, (x, y) = networks.cnn(), networks.images()
    with unchanged(model, (x, y)):
        # The objective's own partition, 6, would cut the batches asked for.
        o = Objective(model, (x, y), batch_norm=mode, batch_size=6, micro_batch=4)
        found = gradient_predictiveness(o, learning_rates=RATES, batch_size=8, num_batches=3, seed=3)
    for i, part in enumerate(drawn(21, 8, 3, 3)):
        losses, changes = zip(*followed(model, (x[part], y[part]), (x, y), mode, 8), strict=True)
        assert found.losses[i].tolist() == pytest.approx(losses, rel=1e-8)
        assert found.gradient_changes[i].tolist() == pytest.approx(changes, rel=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_the_full_gradient_is_that_of_the_objective_with_its_partition(mode: Any) -> None:
    model, data = networks.cnn(), networks.images()
    o = Objective(model, data, batch_norm=mode, batch_size=8)
    found = gradient_predictiveness(o, learning_rates=RATES, gradient="full", seed=0)
    losses, changes = zip(*followed(model, data, data, mode, 8), strict=True)
    assert found.losses[0].tolist() == pytest.approx(losses, rel=1e-8)
    assert found.gradient_changes[0].tolist() == pytest.approx(changes, rel=1e-8)
    assert float(found.center_losses[0]) == pytest.approx(o.value())
    assert float(found.gradient_norms[0]) == pytest.approx(float(o.gradient().norm()))
    assert found == gradient_predictiveness(o, learning_rates=RATES, gradient="full", seed=0)


def test_the_l2_term_is_in_loss_and_gradient() -> None:
    model, data = networks.mlp(), networks.vectors()
    plain, decayed = (Objective(model, data, weight_decay=w) for w in (0.0, 0.5))
    found = gradient_predictiveness(decayed, gradient="full", learning_rates=RATES, seed=0)
    g = plain.gradient() + 0.5 * plain.params
    points = [plain.params - r * g for r in RATES]
    changes = [(plain.at(p).gradient() + 0.5 * p - g).norm() for p in points]
    losses = [plain.at(p).value() + 0.25 * float(p @ p) for p in points]
    assert found.gradient_changes[0].tolist() == pytest.approx([float(c) for c in changes])
    assert found.losses[0].tolist() == pytest.approx(losses)


# -- value and error ----------------------------------------------------------------------------------------


def numbers(found: GradientPredictiveness) -> dict[str, tuple[float, float, tuple[float, float]]]:
    """Mean, standard error and 95 % interval of the three."""
    assert found.error.data is not None
    rest = {"loss_range": found.loss_range, "gradient_range": found.gradient_range}
    return {"smoothness": (found.value, found.error.data.value, found.interval(0.95))} | {
        name: (float(e), float(e.standard_error), (float(e.interval()[0]), float(e.interval()[1])))
        for name, e in rest.items()
    }


def test_each_number_is_a_mean_over_the_batches() -> None:
    o = Objective(networks.mlp(), networks.vectors())
    found = gradient_predictiveness(o, batch_size=8, num_batches=5, seed=0)
    assert found.learning_rates.tolist() == list(LEARNING_RATES)
    samples = {
        "smoothness": (found.gradient_changes / found.distances).amax(1),
        "gradient_range": found.gradient_changes.amax(1) - found.gradient_changes.amin(1),
        "loss_range": found.losses.amax(1) - found.losses.amin(1),
    }
    for name, (value, error, (low, high)) in numbers(found).items():
        assert value == pytest.approx(float(samples[name].mean()))
        assert error == pytest.approx(float(samples[name].std()) / math.sqrt(5))
        half = error * float(stats.t.ppf(0.975, 4))
        assert (low, high) == pytest.approx((value - half, value + half))


def test_one_batch_of_all_is_the_full_gradient() -> None:
    o = Objective(networks.mlp(), networks.vectors())
    one = gradient_predictiveness(o, batch_size=21, seed=0)
    assert one.error.data is None
    assert float(one.loss_range.standard_error) == float(one.gradient_range.standard_error) == 0
    assert one.value == pytest.approx(gradient_predictiveness(o, gradient="full", seed=0).value)
    assert (
        gradient_predictiveness(
            Objective(networks.mlp(), networks.vectors(), batch_size=6), seed=0
        ).batch_size
        == 6
    )


def least_squares(n: int) -> tuple[Objective, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    y = torch.randn(n, 1, generator=rng, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.3, -0.5, 1.1]]))
    return Objective(model, (x, y), loss="mse"), x, y[:, 0]


def numbers_of(o: Objective, A: Tensor, b: Tensor) -> dict[str, float]:
    """The three of one batch of least squares, by the closed form."""
    g, H = 2 / len(A) * A.T @ (A @ o.params - b), 2 / len(A) * A.T @ A
    falls = [-r * g @ g + r**2 / 2 * g @ H @ g for r in RATES]
    change = float((H @ g).norm())
    return {
        "smoothness": change / float(g.norm()),
        "gradient_range": (RATES[-1] - RATES[0]) * change,
        "loss_range": float(max(falls) - min(falls)),
    }


def test_the_mean_over_all_batches_is_met() -> None:
    o, x, y = least_squares(6)
    batches = [numbers_of(o, x[list(p)], y[list(p)]) for p in itertools.combinations(range(6), 2)]
    found = gradient_predictiveness(o, learning_rates=RATES, batch_size=2, num_batches=400, seed=1)
    for name, (value, error, _) in numbers(found).items():
        every = torch.tensor([batch[name] for batch in batches], dtype=torch.float64)
        assert abs(value - float(every.mean())) < 4 * error
        assert error == pytest.approx(float(every.std(correction=0)) / math.sqrt(400), rel=0.2)


@pytest.mark.parametrize("repeats", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_its_intervals_cover(repeats: int) -> None:
    """Batches of a dozen of eighteen, nearer to a Gaussian than pairs."""
    o, x, y = least_squares(18)
    batches = [numbers_of(o, x[list(p)], y[list(p)]) for p in itertools.combinations(range(18), 12)]
    means = {name: sum(batch[name] for batch in batches) / len(batches) for name in batches[0]}
    inside = dict.fromkeys(means, 0)
    for seed in range(repeats):
        found = gradient_predictiveness(o, learning_rates=RATES, batch_size=12, num_batches=8, seed=seed)
        for name, (_, _, (low, high)) in numbers(found).items():
            inside[name] += low <= means[name] <= high
    allowed = 0.02 if repeats == 2000 else 4 * math.sqrt(0.95 * 0.05 / repeats)
    for count in inside.values():
        assert count / repeats == pytest.approx(0.95, abs=allowed)


def test_what_rounding_makes_of_short_steps_is_in_the_error() -> None:
    model, (x, y) = networks.mlp(), networks.vectors()
    single = Objective(model, (x, y)).to_dtype(torch.float32)
    rates = [1e-5, 2e-5]
    rough = gradient_predictiveness(single, gradient="full", learning_rates=rates, seed=0)
    exact = gradient_predictiveness(
        single.to_dtype(torch.float64), gradient="full", learning_rates=rates, seed=0
    )
    assert rough.error.solver is not None
    assert exact.error.solver is not None
    assert rough.error.solver > 1e-4 * rough.value > 1e4 * exact.error.solver
    assert abs(rough.value - exact.value) < rough.error.solver


# -- what is refused ----------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    o = Objective(networks.mlp(), networks.vectors())
    for rates in ([0.1], [0.2, 0.1], [0.1, 0.1], [-0.1, 0.1], [0.1, math.inf], "ab", 0.3, [True, 2]):
        with pytest.raises(ValueError, match=r"`learning_rates` must be at least two positive .* ascending"):
            gradient_predictiveness(o, learning_rates=rates, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`gradient` must be one of batch, full, got 'fall'"):
        gradient_predictiveness(o, gradient="fall", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`batch_size` belongs to gradient='batch', got 8 with 'full'"):
        gradient_predictiveness(o, gradient="full", batch_size=8, seed=0)
    with pytest.raises(ValueError, match="`batch_size` must be at most the 21 examples"):
        gradient_predictiveness(o, batch_size=22, seed=0)
    with pytest.raises(ValueError, match="`num_batches` must be a whole number of at least 2, got 1"):
        gradient_predictiveness(o, num_batches=1, seed=0)
    with pytest.raises(ValueError, match=r"`learning_rates` must move the parameters, but 1e-30 .* batch 0"):
        gradient_predictiveness(o, learning_rates=[1e-30, 0.1], batch_size=5, seed=0)


def test_a_gradient_of_nought_leads_nowhere() -> None:
    o = quadratic(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), num_examples=1)
    with pytest.raises(ValueError, match=r"`objective` must have a gradient .* that of all the examples is"):
        gradient_predictiveness(o, gradient="full", seed=0)


def test_a_step_out_of_bounds_is_named() -> None:
    def loss(model: Any, batch: tuple[Tensor]) -> Tensor:
        return torch.log(model.theta[0] + batch[0])  # falls towards its pole

    model = Theta(torch.zeros(1, dtype=torch.float64))
    o = Objective(model, (torch.ones(3, dtype=torch.float64),), loss=loss)
    with pytest.raises(
        NonFiniteLossError, match=r"after a step of 5 .* all the examples: .*Leave such steps"
    ):
        gradient_predictiveness(o, gradient="full", learning_rates=[0.1, 5.0], seed=0)


def test_the_one_line_says_of_which_steps() -> None:
    found = gradient_predictiveness(Objective(networks.mlp(), networks.vectors()), batch_size=7, seed=0)
    assert isinstance(found, GradientPredictiveness)
    assert "(95 %), steps of 0.05 to 0.4" in repr(found)
    assert "± " in str(found.loss_range)
