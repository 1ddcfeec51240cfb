"""Learning coefficients of models whose own is known, warnings, and how often intervals hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from tests.measures.conftest import Theta, convnet, images
from torch import Tensor

import thalweg as tw
from thalweg.measures.dynamics import sgld
from thalweg.measures.dynamics.local_learning_coefficient import _estimates
from thalweg.measures.dynamics.settled import Criteria
from thalweg.measures.dynamics.sgld import Chains
from thalweg.objective.objective import Objective

# n beta of the toys: eight examples, all in every batch.
SCALE = 400.0


def toy(f: Any, P: int, **kwargs: Any) -> Objective:
    """A loss of the parameters alone, at nought."""

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return f(model.theta) + 0 * batch[0]

    start = Theta(torch.zeros(P, dtype=torch.float64))
    return Objective(start, (torch.ones(8, dtype=torch.float64),), loss=loss, batch_size=8, **kwargs)


def coefficient(o: Objective, **changes: Any) -> tw.LocalLearningCoefficient:
    arguments = {
        "inverse_temperature": SCALE / 8, "localization": 1.0, "num_chains": 16, "burn_in": 150,
        "num_steps": 500,
    }  # fmt: skip
    return tw.local_learning_coefficient(o, **arguments | changes, seed=0)


def regular(h: Tensor) -> Any:
    return lambda t: (h * t.square()).sum() / 2


def test_a_regular_model_has_half_its_dimension() -> None:
    h = torch.tensor([0.05, 1.0, 10.0, 100.0, 3.0], dtype=torch.float64)
    found = coefficient(toy(regular(h), 5))
    truth = float((SCALE * h / (SCALE * h + 1)).sum()) / 2  # 2.5, less what the localization leaves out
    assert 2.4 < truth < 2.5
    assert found.error.probe is not None
    assert found.error.probe.value < 0.08
    assert abs(found.value - truth) < 4 * found.error.probe.value
    assert found.outcome == "stationary"
    assert not found.warnings
    assert abs(found.temperature - 1) < 4 * found.temperature_error
    assert found.num_burn_ins == 1
    assert found.stiffness == pytest.approx(0.1, rel=0.01)


def test_localization_is_a_damping() -> None:
    """Half the effective dimension at gamma / (n beta)."""
    h = torch.tensor([0.05, 1.0, 10.0], dtype=torch.float64)
    found = coefficient(toy(regular(h), 3), localization=SCALE)
    density = tw.spectral_density(toy(regular(h), 3), seed=0)
    half = float(density.effective_dimension(1.0)) / 2
    assert abs(found.value - half) < 4 * found.error.probe.value  # type: ignore[union-attr]


def by_quadrature(f: Any, P: int, gamma: float) -> float:
    """n beta E[f] over exp(-n beta f - gamma |w|^2 / 2), f even in every coordinate."""
    ends = [(0.0, 8 / math.sqrt(gamma))] * P

    def weight(*w: float) -> float:
        return math.exp(-SCALE * f(w) - gamma * sum(x * x for x in w) / 2)

    options = {"limit": 200, "epsabs": 1e-10}
    mass = integrate.nquad(weight, ends, opts=options)[0]
    return SCALE * integrate.nquad(lambda *w: f(w) * weight(*w), ends, opts=options)[0] / mass


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3])
def test_a_normal_crossing(k: int) -> None:
    """w^(2k) has 1 / (2k); the step finds the curvature that is nought where the chains begin."""
    found = coefficient(toy(lambda t: t[0] ** (2 * k), 1), num_steps=3000, burn_in=500, localization=0.1)
    assert by_quadrature(lambda w: w[0] ** (2 * k), 1, 0.1) == pytest.approx(1 / (2 * k), rel=0.03)
    assert abs(found.value - 1 / (2 * k)) < 4 * found.error.probe.value  # type: ignore[union-attr]
    assert found.error.probe.value < 0.03  # type: ignore[union-attr]
    assert found.num_burn_ins > 1
    assert found.step < 0.1


@pytest.mark.slow
def test_two_lines_that_cross() -> None:
    """(w1 w2)^2: one half, of multiplicity two, so that the estimate nears it by a logarithm of n only."""
    found = coefficient(
        toy(lambda t: (t[0] * t[1]) ** 2, 2), num_steps=8000, burn_in=1500, num_chains=24, localization=5.0
    )
    truth = by_quadrature(lambda w: (w[0] * w[1]) ** 2, 2, 5.0)
    assert 0.25 < truth < 0.5
    assert abs(found.value - truth) < 4 * found.error.probe.value  # type: ignore[union-attr]
    assert found.error.probe.value < 0.03  # type: ignore[union-attr]
    # At a point of one line away from the crossing there is one direction that counts, and none that is
    # singular.
    off = toy(lambda t: (t[0] * (t[1] + 2)) ** 2, 2)
    assert abs(coefficient(off, localization=20.0).value - 0.5) < 0.1


def regression(num_examples: int = 600, d: int = 6) -> Objective:
    """Linear regression with noise of variance one at its minimum: half the squared error is minus the
    log-likelihood."""
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(num_examples, d, generator=rng, dtype=torch.float64)
    y = x.sum(1) + torch.randn(num_examples, generator=rng, dtype=torch.float64)

    def loss(model: Theta, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (batch[0] @ model.theta - batch[1]).square() / 2

    return Objective(
        Theta(torch.linalg.lstsq(x, y[:, None]).solution[:, 0]), (x, y), loss=loss, batch_size=200
    )


@pytest.mark.slow
def test_real_batches_and_the_usual_temperature() -> None:
    """Six parameters: three, a little more by the batches' heat, which is measured."""
    found = tw.local_learning_coefficient(
        regression(), localization=1.0, num_chains=8, burn_in=150, num_steps=600, seed=0
    )
    assert found.inverse_temperature == pytest.approx(1 / math.log(600))
    assert found.batch_size == 200
    assert abs(found.value / found.sharp_temperature - 3) < 0.25
    assert 1 < found.sharp_temperature < 1.2


def test_batches_are_compared_with_themselves() -> None:
    """Without that the spread of the examples' losses would be in every rise."""
    o = regression()
    found = tw.local_learning_coefficient(
        o, localization=1.0, burn_in=10, num_steps=60, batch_size=50, seed=0
    )
    scale = 600 / math.log(600)
    losses = o.evaluate_points([(o.params, None)]).example_losses
    plain = scale * float(losses.std()) / 50**0.5
    assert scale * float(found.rises.std()) < 0.7 * plain


def test_the_bias_of_one_batch_is_none_of_the_first_step() -> None:
    """Every chain begins at the point itself, where no batch rises."""
    found = tw.local_learning_coefficient(
        regression(), burn_in=1, num_steps=16, num_chains=3, batch_size=7, seed=0
    )
    assert found.rises.shape == (16, 3)
    one = toy(regular(torch.ones(2, dtype=torch.float64)), 2, weight_decay=0.5)
    with_decay = coefficient(one, burn_in=300)
    h = 1.5  # the L2 term is part of the objective
    assert abs(with_decay.value - SCALE * h / (SCALE * h + 1)) < 4 * with_decay.error.probe.value  # type: ignore[union-attr]


def test_warnings() -> None:
    h = torch.tensor([1.0, 4.0], dtype=torch.float64)
    up = toy(lambda t: 5 * t.sum() + (h * t.square()).sum() / 2, 2)
    downhill = coefficient(up, localization=200.0)
    assert downhill.value < 0
    assert "negative: the point is no minimum" in downhill.warnings[0]
    assert "negative" in repr(downhill)
    short = coefficient(toy(regular(h), 2), num_chains=2, burn_in=2, num_steps=20)
    assert short.outcome in ("too short", "not stationary")
    assert "longer burn_in" in " ".join(short.warnings)
    # Flat directions need many more steps than the sharp ones, if these set the pace.
    uneven = torch.tensor([1000.0, 1e-4, 1e-4, 1e-4], dtype=torch.float64)
    cold = coefficient(toy(regular(uneven), 4), num_directions=0, burn_in=20, num_steps=100)
    assert cold.temperature < 0.5
    assert any("flat ones take a burn_in of 8,0" in warning for warning in cold.warnings)
    assert not cold.is_stationary
    # A record of before that was written down.
    older = {k: v for k, v in cold.to_dict().items() if k not in ("relaxation", "distance", "radius")}
    restored = tw.Measurement.from_dict(older)
    assert math.isnan(restored.relaxation)
    assert any("flat ones take a longer burn_in" in warning for warning in restored.warnings)
    # Batches of two are hot.
    hot = tw.local_learning_coefficient(
        regression(), localization=1.0, batch_size=2, step=0.4, burn_in=100, num_steps=200, seed=0
    )
    assert any("smaller step or larger batches" in warning for warning in hot.warnings)


def test_the_heat_of_small_batches_is_told_by_all_directions_where_none_is_followed() -> None:
    """The mean of data that spread by 3: each batch has a mean of its own, and chains run after it."""
    data = 3 * torch.randn(1000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return (batch[0] - model.theta).square().sum(-1) / 2

    o = Objective(Theta(data.mean(0)), (data,), loss)
    settings: dict[str, Any] = {"localization": 1.0, "num_directions": 0, "num_steps": 600, "seed": 0}
    small = tw.local_learning_coefficient(o, batch_size=32, **settings)
    assert math.isnan(small.sharp_temperature)
    assert small.value > 3.6  # half of six
    assert any("all directions at" in w and "larger batches" in w for w in small.warnings)
    assert not tw.local_learning_coefficient(o, batch_size=1000, **settings).warnings


def test_a_place_that_the_chains_leave_behind() -> None:
    """Nothing but the localization holds them, and the point is next to nought."""
    start = torch.full((6,), 0.1, dtype=torch.float64)
    flat = toy(lambda t: 1e-5 * (t - 0.1).square().sum(), 6).at(start)
    found = coefficient(flat)
    assert found.radius == pytest.approx(0.1 * 6**0.5)
    assert found.distance == pytest.approx(6**0.5, rel=0.1)
    assert any("another place is sampled" in warning for warning in found.warnings)
    assert not any("another place" in w for w in coefficient(flat, localization=1e4).warnings)


def test_chains_are_held_by_default_where_there_are_many_parameters() -> None:
    few = {"num_chains": 1, "burn_in": 1, "num_steps": 16, "num_directions": 0, "seed": 0}
    f, P = (lambda t: 1e-3 * t.square().sum()), 900
    near, far = (toy(f, P).at(torch.full((P,), a, dtype=torch.float64)) for a in (0.05, 1.0))
    # 900 parameters and a length of 1.5, or 30; nought has none.
    for o, gamma in ((near, 400.0), (far, 100.0), (toy(f, P), 100.0)):
        found = tw.local_learning_coefficient(o, **few)  # type: ignore[arg-type]
        assert found.localization == pytest.approx(gamma)
        assert found.provenance["arguments"]["localization"] is None


def test_plain_dynamics_begin_at_the_largest_curvature() -> None:
    """One random vector would see the mean of 40, a fortieth of it."""
    h = torch.zeros(40, dtype=torch.float64)
    h[7] = 1000.0
    found = coefficient(toy(regular(h), 40), num_directions=0, burn_in=5, num_steps=20, num_chains=2)
    assert found.num_burn_ins == 1
    assert found.stiffness == pytest.approx(0.1, rel=0.01)
    assert math.isnan(found.sharp_temperature)


def test_parameters_held_constant_stay_in_the_l2_term() -> None:
    """Chains that can hardly move see hardly a rise, whatever the others' share of the loss."""
    o = tw.Objective(convnet(), images(), weight_decay=0.5, batch_size=8)
    part = max(o.space.names, key=lambda name: o.restrict(name).space.dim)
    held = o.restrict(part)
    assert held.space.dim > 64
    few = {"localization": 1e10, "num_chains": 2, "burn_in": 2, "num_steps": 16, "num_directions": 2}
    assert abs(tw.local_learning_coefficient(held, seed=0, **few).value) < 1e-3


def test_a_function_without_a_floor_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgld, "MOST_ROUNDS", 2)
    found = coefficient(toy(lambda t: -(t[0] ** 4), 1), num_steps=16)
    assert found.outcome == "diverged"
    assert math.isnan(found.value)
    assert "a smaller step or a larger localization" in found.warnings[0]
    assert "diverged" in repr(found)
    text = json.dumps(found.to_dict({}), allow_nan=False)
    assert tw.Measurement.from_dict(json.loads(text), {}) == found


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_every_mode_of_batch_norm(mode: Any) -> None:
    o = tw.Objective(convnet(), images(), batch_norm=mode, batch_size=8)
    few = {"num_chains": 2, "burn_in": 3, "num_steps": 16, "num_directions": 3}
    found = tw.local_learning_coefficient(o, seed=0, **few)
    assert math.isfinite(found.value)
    assert found.batch_size == 8
    assert tw.plot(found) is not None
    if mode == "batch":
        with pytest.raises(
            ValueError, match=r"`batch_size` must be the objective's own, 8, with batch_norm='batch'"
        ):
            tw.local_learning_coefficient(o, batch_size=5, seed=0, **few)


def ar1(rng: np.random.Generator, rho: float, n: int, C: int) -> np.ndarray:
    """Stationary series of variance one and mean nought."""
    x = np.empty((n, C))
    x[0] = rng.standard_normal(C)
    for t in range(1, n):
        x[t] = rho * x[t - 1] + math.sqrt(1 - rho**2) * rng.standard_normal(C)
    return x


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_coverage_of_correlated_chains(rho: float) -> None:
    """1,000 runs of four chains of 300 steps about a known mean."""
    rng = np.random.default_rng(1)
    held, alarms = 0, 0
    flat = torch.ones(300, 4, dtype=torch.float64)
    for _ in range(1000):
        rises = torch.from_numpy(3.0 + ar1(rng, rho, 300, 4))
        found: Any = _estimates(Chains(rises, flat, flat, flat, 0.1, 0.1, 10.0, 1, False), 2.0, Criteria())
        half = found["error"].half_width(0.95)
        held += abs(found["value"] - 6.0) <= half
        alarms += found["outcome"] == "not stationary"
    assert 920 <= held <= 970
    assert alarms <= 35


def test_chains_that_disagree_are_not_stationary() -> None:
    rng = np.random.default_rng(0)
    flat = torch.ones(300, 4, dtype=torch.float64)
    apart = torch.from_numpy(ar1(rng, 0.0, 300, 4) + np.array([0, 0, 0, 1.0]))
    found: Any = _estimates(Chains(apart, flat, flat, flat, 0.1, 0.1, 10.0, 1, False), 1.0, Criteria())
    assert found["outcome"] == "not stationary"
    assert found["chain_spread"] < 1e-6
    assert found["drift"] > 0.01


def test_chains_that_are_cold_are_no_law_though_nothing_drifts() -> None:
    rng = np.random.default_rng(0)
    rises, heat = (torch.from_numpy(ar1(rng, 0.3, 300, 4)) for _ in range(2))
    for temperature, outcome in ((0.95, "stationary"), (0.4, "not warmed up")):
        chains = Chains(rises, 1 + heat, temperature + heat, heat**2, 0.1, 0.1, 500.0, 1, False)
        assert _estimates(chains, 1.0, Criteria())["outcome"] == outcome


def test_what_is_refused() -> None:
    o = toy(regular(torch.ones(2, dtype=torch.float64)), 2)
    for argument, value, message in (
        ("inverse_temperature", 0.0, "`inverse_temperature` must be positive"),
        ("localization", -1.0, "`localization` must be positive"),
        ("step", 0.0, "`step` must be positive"),
        ("step", 2.0, "`step` must be below 2"),
        ("num_chains", 0, "`num_chains` must be a whole number of at least 1"),
        ("num_steps", 15, "`num_steps` must be a whole number of at least 16"),
        ("num_directions", -1, "`num_directions` must be a whole number of at least 0"),
        ("batch_size", 9, "`batch_size` must be at most the 8 examples"),
        ("drift_level", 0.0, "`drift_level` must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            tw.local_learning_coefficient(o, seed=0, **{argument: value})
    with pytest.raises(ValueError, match="`inverse_temperature` must be given for 2 examples"):
        tw.local_learning_coefficient(o.select(torch.tensor([0, 1])), seed=0)
