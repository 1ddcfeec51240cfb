"""`pac_bayes_sigma`: closed forms, coverage, invariance, what is never reached."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tests.measures.sharpness.rescaled import relu_mlp, rescale_relu
from torch import Tensor, nn

from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.sharpness.average_sharpness import average_sharpness
from thalweg.measures.sharpness.pac_bayes_sigma import pac_bayes_sigma
from thalweg.objective.objective import Objective


@pytest.mark.parametrize("scaling", ["none", "element"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_of_a_quadratic_it_is_the_root_of_its_pairs(toys, scaling, size) -> None:
    """The mean of K pairs is a parabola in sigma, of which the samples at sigma one are the coefficients."""
    rng = torch.Generator().manual_seed(0)
    at = size * torch.randn(9, generator=rng, dtype=torch.float64)
    h = torch.linspace(0.1, 2, 9).double() / size**2
    o = toys.quadratic(torch.ones(9).double(), torch.diag(h), at=at)
    found = pac_bayes_sigma(o, target_rise=0.3, scaling=scaling, num_samples=5, max_sigma=1e4, seed=0)
    unit = average_sharpness(o, radius=3.0, scaling=scaling, num_samples=5, seed=0)
    assert unit.sigma == 1.0
    root = math.sqrt(0.3 / unit.value)
    assert found.error.solver is not None
    assert abs(found.value - root) <= found.error.solver <= 0.0201 * root
    assert found.samples.mean() == pytest.approx(0.3, rel=0.05)
    torch.testing.assert_close(found.samples, found.value**2 * unit.samples, rtol=1e-6, atol=0)
    assert found.radius == pytest.approx(3 * found.value)
    # Delta method on c sigma^2 = rise: relative error half that of c.
    assert found.error.probe is not None
    expected = found.value * float(unit.samples.std()) / math.sqrt(5) / (2 * unit.value)
    assert found.error.probe.value == pytest.approx(expected, rel=0.06)
    assert found.error.probe.dof == 4
    assert (found.sigmas.diff() > 0).all()
    assert (found.mean_rises.diff() > 0).all()


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
@pytest.mark.parametrize("scaling", ["none", "filter"])
def test_at_sigma_the_average_rise_is_the_target(toys, mode, scaling) -> None:
    o = Objective(toys.convnet(), toys.images(), batch_norm=mode, batch_size=8, micro_batch=5)
    found = pac_bayes_sigma(o, target_rise=0.2, scaling=scaling, num_samples=4, rtol=1e-4, seed=3)
    there = average_sharpness(o, radius=found.radius, scaling=scaling, num_samples=4, seed=3)
    assert there.sigma == pytest.approx(found.value, rel=1e-12)
    torch.testing.assert_close(there.samples, found.samples, rtol=1e-6, atol=1e-9)
    assert there.value == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize(
    ("spectrum", "repeats"),
    [
        (0.9 ** torch.arange(20).double(), 200),
        pytest.param(torch.ones(20).double(), 2000, marks=pytest.mark.slow),
        pytest.param(0.9 ** torch.arange(20).double(), 2000, marks=pytest.mark.slow),
        pytest.param(torch.ones(4).double(), 2000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("num_samples", [6, pytest.param(3, marks=pytest.mark.slow)])
def test_intervals_cover(toys, spectrum, repeats, num_samples) -> None:
    """With a bracket so narrow that its bound, which is added, does not hide what the standard error does.

    Six samples, and three, as the family takes.
    """
    o = toys.quadratic(torch.ones(len(spectrum)).double(), torch.diag(spectrum), num_examples=1)
    truth = math.sqrt(2 * 0.1 / float(spectrum.sum()))
    found = [pac_bayes_sigma(o, num_samples=num_samples, rtol=1e-3, seed=s) for s in range(repeats)]
    covered = np.mean([low <= truth <= high for low, high in (r.interval(0.95) for r in found)])
    slack = 0.015 if repeats == 2000 else 0.07
    print("pac_bayes_sigma", len(spectrum), num_samples, repeats, round(covered * repeats))
    assert 0.95 - slack <= covered <= 0.95 + slack


def test_the_same_pairs_make_networks_comparable(toys) -> None:
    h = torch.linspace(0.1, 1, 8).double()
    sigmas = [
        pac_bayes_sigma(
            toys.quadratic(torch.zeros(8).double(), torch.diag(c * h)), num_samples=2, rtol=1e-6, seed=0
        ).value
        for c in (1.0, 4.0)
    ]
    assert sigmas[0] / sigmas[1] == pytest.approx(2, rel=1e-5)


def test_element_scaled_it_is_blind_to_rescaled_relus() -> None:
    factors = torch.tensor([0.1, 0.5, 1, 2, 5, 10], dtype=torch.float64)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = (x, torch.arange(12) % 3)
    net = relu_mlp(inputs=4, num_hidden=1)
    pair = [Objective(m, data) for m in (net, rescale_relu(net, first=factors))]
    scaled = [pac_bayes_sigma(o, scaling="element", num_samples=3, seed=0).value for o in pair]
    plain = [pac_bayes_sigma(o, num_samples=3, seed=0).value for o in pair]
    assert scaled[0] == pytest.approx(scaled[1], rel=1e-9)
    assert abs(plain[0] - plain[1]) > 0.1 * plain[0]


def test_a_rise_that_is_never_reached_says_so(toys) -> None:
    bounded = Objective(
        toys.Theta(torch.ones(3).double()),
        torch.zeros(4).double(),
        loss=lambda model, batch: torch.tanh(model.theta.square().sum()) + batch[0],
    )
    message = r"up to `max_sigma` = 5.0 the loss rises by .* less than `target_rise` = 2"
    with pytest.raises(ConvergenceError, match=message) as caught:
        pac_bayes_sigma(bounded, target_rise=2, max_sigma=5.0, seed=0)
    partial = caught.value.partial
    assert partial.value == 5.0
    assert float(partial.samples.mean()) < 1
    assert partial.provenance["converged"] is False


def test_a_loss_that_ends_before_it_has_risen_says_so(toys) -> None:
    def cliff(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        r = model.theta.square().sum()
        return torch.where(r < 4, r, math.nan) + batch[0]

    o = Objective(toys.Theta(torch.zeros(3).double()), torch.zeros(4).double(), loss=cliff)
    with pytest.raises(NonFiniteLossError, match=r"not finite at sigma = .* before it has risen by 50"):
        pac_bayes_sigma(o, target_rise=50, num_samples=2, seed=0)
    # Before the cliff it is found.
    assert pac_bayes_sigma(o, target_rise=0.1, num_samples=2, seed=0).value > 0


def test_a_record_comes_back_and_evaluations_are_counted(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    seen: list[tuple[int, int]] = []
    found = pac_bayes_sigma(o, num_samples=3, seed=0, progress=lambda i, n: seen.append((i, n)))
    assert seen[-1] == (found.num_evaluations, found.num_evaluations)
    # The centre, trials of one pair, trials of three.
    assert (found.num_evaluations - 1 - 6 * len(found.sigmas)) % 2 == 0
    assert found.num_evaluations <= 45
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_rise": 0}, "`target_rise` must be positive and finite, got 0"),
        ({"max_sigma": math.inf}, "`max_sigma` must be positive and finite, got inf"),
        ({"num_samples": 1}, "`num_samples` must be a whole number of at least 2"),
        ({"rtol": 1.0}, r"`rtol` must lie in \(0, 1\)"),
        ({"scaling": "layer"}, "`scaling` must be one of"),
    ],
)
def test_bad_arguments_are_named(toys, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        pac_bayes_sigma(Objective(toys.convnet(), toys.images()), **{"seed": 0, **arguments})
