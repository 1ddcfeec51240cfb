"""Chains among wells against the laws: those that must hold, and those that must be seen to fail."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from tests.devices import DEVICES
from tests.measures.conftest import Theta, convnet, images
from tests.measures.dynamics.wells import (
    CURVATURES,
    MINIMA_1,
    MINIMA_2,
    MINIMA_3,
    one_parameter,
    three_wells,
    two_parameters,
)
from torch import Tensor

import thalweg as tw
from thalweg.measures.dynamics.core_passages import core_rates, relaxation
from thalweg.measures.dynamics.wells import find_wells
from thalweg.objective.objective import Objective

QUICK: dict[str, Any] = {
    "minima": MINIMA_1,
    "temperature": 0.2,
    "num_chains": 64,
    "burn_in": 10,
    "num_steps": 40,
}


@pytest.fixture(scope="module")
def quick() -> tw.StationaryLaw:
    """Next to no steps: what does not hang on chance, and that nothing is claimed."""
    return tw.stationary_law(one_parameter(), seed=0, **QUICK)


def test_a_run_that_has_not_settled_says_so(quick: tw.StationaryLaw) -> None:
    assert quick.outcome in ("not stationary", "too short")
    assert not quick.is_stationary
    assert quick.outcome in repr(quick)
    assert quick.lr == pytest.approx(0.1 / CURVATURES[1], rel=1e-4)


def test_chains_that_never_leave_are_not_taken_for_a_law() -> None:
    """Ten temperatures deep: in the wells they began in, with neither trend nor escape."""
    cold = {"temperature": 0.035, "num_chains": 100, "burn_in": 100, "num_steps": 120}
    found = tw.stationary_law(one_parameter(2), seed=0, **QUICK | cold)
    assert float(found.effective_sizes.min()) > 90
    assert float(found.drifts.min()) > 0.01
    assert found.outcome == "not stationary"
    assert float(found.memories.max()) < 1e-6


def test_lengths_follow_the_slowest_exchange() -> None:
    """The well in between empties at once; the outer two take long to hear of each other."""
    o, t, lr = three_wells(), 0.1, 0.05
    found = tw.stationary_law(o, minima=MINIMA_3, temperature=t, lr=lr, num_chains=32, num_points=301, seed=0)
    rates = core_rates(find_wells(o, torch.tensor(MINIMA_3), t, 301), t)
    assert found.burn_in == found.num_steps == math.ceil(5 * relaxation(rates) / lr)
    assert found.burn_in > 2 * 5 / (rates.sum() * lr)


def test_what_it_holds(quick: tw.StationaryLaw) -> None:
    torch.testing.assert_close(quick.determinants, torch.tensor(CURVATURES).double(), rtol=1e-5, atol=0)
    assert quick.widest == 0
    assert quick.value == float(quick.occupancies[0])
    assert float(quick.occupancies.sum()) == pytest.approx(1)
    assert quick.well_temperatures.tolist() == [0.2, 0.2]
    assert bool(quick.prediction("multiplicative").isnan().all())
    ratio, low, high = quick.departure("basin_mass", 0.9)
    assert bool(((low <= ratio) & (ratio <= high)).all())
    torch.testing.assert_close(ratio * quick.prediction("basin_mass"), quick.occupancies)
    assert quick.p_value("kramers").shape == (2,)
    with pytest.raises(ValueError, match=r"`name` must be one of gibbs, .*kramers"):
        quick.prediction("boltzmann")
    back = tw.Measurement.from_dict(json.loads(json.dumps(quick.to_dict({}), allow_nan=False)), {})
    assert back.value == quick.value
    assert tw.plot(quick) is not None


def test_the_same_seed_gives_the_same_and_another_does_not(quick: tw.StationaryLaw) -> None:
    torch.manual_seed(7)
    assert tw.stationary_law(one_parameter(), seed=0, **QUICK) == quick
    assert (
        tw.stationary_law(one_parameter(), seed=1, **QUICK).occupancies.tolist() != quick.occupancies.tolist()
    )
    uneven = one_parameter(micro_batch=3)
    again = tw.stationary_law(uneven, seed=0, **QUICK)
    torch.testing.assert_close(again.occupancies, quick.occupancies, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("noise", ["isotropic", "sgd"])
def test_single_precision_on_every_device(device: str, noise: Any) -> None:
    precise, single = (
        tw.stationary_law(one_parameter(noise=3.0, dtype=dtype, device=place), seed=0, noise=noise, **QUICK)
        for dtype, place in ((torch.float64, "cpu"), (torch.float32, device))
    )
    known = precise.predicted.isfinite()
    torch.testing.assert_close(single.predicted[known], precise.predicted[known], rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(single.predicted_times, precise.predicted_times, rtol=2e-2, atol=0)
    # The same chance on every device: chains part ways only where one is on a border.
    torch.testing.assert_close(single.occupancies, precise.occupancies, rtol=0, atol=5e-3)
    assert single.outcome == precise.outcome


def test_provenance_and_progress(quick: tw.StationaryLaw) -> None:
    calls: list[tuple[int, int]] = []
    tw.stationary_law(
        one_parameter(), seed=0, progress=lambda done, whole: calls.append((done, whole)), **QUICK
    )
    assert calls[-1] == (50, 50)
    taken = quick.provenance["arguments"]
    assert set(taken) == {
        *("minima", "temperature", "noise", "lr", "batch_size", "num_chains", "burn_in", "num_steps"),
        *("num_points", "drift_level", "min_effective_size", "seed"),
    }
    assert taken["minima"] == [[-0.9], [1.1]]
    json.dumps(quick.provenance, allow_nan=False)


def test_rate_and_temperatures_of_sgd() -> None:
    """T is the mean over the wells of lr C / (2 B), and C grows as exp(2 K x)."""
    found = tw.stationary_law(one_parameter(noise=3.0), seed=0, noise="sgd", batch_size=2, **QUICK)
    assert float(found.well_temperatures.mean()) == pytest.approx(0.2)
    ratio = float(found.well_temperatures[1] / found.well_temperatures[0])
    assert ratio == pytest.approx(math.exp(4 * 0.459), rel=1e-4)
    assert found.batch_size == 2
    assert "SGD's noise" in repr(found)
    assert bool(found.prediction("multiplicative").isfinite().all())


def test_a_run_that_diverges_is_an_outcome() -> None:
    """Heavy tails of the gradient throw chains up walls of the sixth degree."""
    wild = one_parameter(noise=6.0, growth=2.0)
    found = tw.stationary_law(wild, seed=0, noise="sgd", **QUICK | {"num_steps": 400, "temperature": 1.5})
    assert found.outcome == "diverged"
    assert math.isnan(found.value)
    assert bool(found.p_values.isnan().all())
    assert bool(found.predicted.isfinite().all())
    assert "diverged" in repr(found)
    assert json.loads(json.dumps(found.to_dict({}), allow_nan=False))["value"] is None


def test_what_is_refused() -> None:
    o = one_parameter()
    for changes, message in (
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"noise": "white"}, "`noise` must be one of isotropic, sgd"),
        ({"minima": [[0.0]]}, "`minima` must hold at least two points of 1 finite coordinates"),
        ({"minima": "left"}, "`minima` must be points"),
        ({"num_chains": 4}, "`num_chains` must be a whole number of at least 16"),
        ({"num_chains": 16, "minima": [[float(i)] for i in range(9)]}, "`num_chains` must be .* least 18"),
        ({"batch_size": 2}, "`batch_size` must be None with noise='isotropic'"),
        ({"noise": "sgd", "lr": 0.1}, "`lr` must be None with noise='sgd'"),
        ({"noise": "sgd", "batch_size": 9}, "`batch_size` must be at most the 8 examples"),
        ({"noise": "sgd", "temperature": 5.0}, "`temperature` must be below"),
        ({"lr": 1.0}, "`lr` must be below 2 over the largest curvature"),
    ):
        with pytest.raises(ValueError, match=message):
            tw.stationary_law(o, seed=0, **QUICK | changes)
    silent = one_parameter(noise=0.0)
    with pytest.raises(
        ValueError, match="`noise` must be 'isotropic' where the examples' gradients do not differ"
    ):
        tw.stationary_law(silent, seed=0, noise="sgd", **QUICK)
    network = tw.Objective(convnet(), images())
    with pytest.raises(ValueError, match=r"`objective` must have one or two parameters.*basin_mass"):
        tw.stationary_law(network, seed=0, **QUICK)
    with pytest.raises(TypeError, match=r"`objective` must be a thalweg\.Objective"):
        tw.stationary_law(torch.nn.Linear(1, 1), seed=0, **QUICK)  # type: ignore[arg-type]
    with pytest.raises(tw.NonFiniteLossError, match="not finite"):
        tw.stationary_law(o.at(torch.full((1,), math.nan, dtype=torch.float64)), seed=0, **QUICK)


# -- the laws themselves ------------------------------------------------------------------------------------

LONG: dict[str, Any] = {"num_chains": 800, "seed": 0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "minima"), [(one_parameter, MINIMA_1), (two_parameters, MINIMA_2)], ids=["one", "two"]
)
def test_isotropic_noise_has_gibbs_law(build: Any, minima: Any) -> None:
    found = tw.stationary_law(build(2), minima=minima, temperature=0.1, **LONG)
    assert found.outcome == "stationary"
    assert float(found.p_value("gibbs")) > 1e-3
    ratio, low, high = found.departure("gibbs", 0.999)
    assert bool(((low < 1) & (high > 1)).all())
    # The formula taken for a density is far off, and seen to be.
    assert float(found.p_value("as_density")) < 1e-10
    # Times are off by the step: within a few per cent of the backward equation's.
    ratio, low, high = found.departure("first_passage", 0.999)
    assert bool((ratio - 1).abs().max() < 0.12)
    assert bool(((low < 1.08) & (high > 0.92)).all())
    assert int(found.num_escapes.min()) > 500


@pytest.mark.slow
def test_sgd_noise_has_another_law() -> None:
    """Larger where the well is sharp, as near minima of networks: it drives chains out of there."""
    o = one_parameter(8, noise=3.0)
    found = tw.stationary_law(o, minima=MINIMA_1, temperature=0.1, noise="sgd", **LONG)
    assert found.outcome == "stationary"
    for law in ("gibbs", "basin_mass"):
        assert float(found.p_value(law)) < 1e-10
        _, low, _ = found.departure(law, 0.999)
        assert float(low[0]) > 1.1
    ratio, _, _ = found.departure("multiplicative", 0.999)
    assert abs(float(ratio[0]) - 1) < 0.02
    # Noise of one size everywhere obeys the same law as Langevin's.
    even = one_parameter(8, noise=3.0, growth=1e-3)
    found = tw.stationary_law(even, minima=MINIMA_1, temperature=0.1, noise="sgd", **LONG)
    ratio, _, _ = found.departure("gibbs", 0.999)
    assert abs(float(ratio[0]) - 1) < 0.04


def test_a_loss_may_be_any_callable() -> None:
    """Three wells of one parameter, by the brackets of a polynomial."""

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        x = model.theta[0]
        return (x * (x**2 - 1) * (x**2 - 4)) ** 2 / 8 + 0 * batch[0]

    start = Theta(torch.zeros(1, dtype=torch.float64))
    o = Objective(start, (torch.ones(2, dtype=torch.float64),), loss=loss)
    places = [[-2.0], [-1.0], [0.0], [1.0], [2.0]]
    found = tw.stationary_law(o, **QUICK | {"minima": places, "num_chains": 100}, seed=0)
    assert found.predicted.shape == (4, 5)
    torch.testing.assert_close(
        found.prediction("gibbs"), found.prediction("gibbs").flip(0), rtol=1e-3, atol=1e-4
    )
    assert bool(found.prediction("kramers").isfinite().all())
    assert float(found.p_value("gibbs")) <= 1
