"""Means over probes, their standard errors and intervals."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from thalweg.core.rounding import at_most
from thalweg.linalg.estimate import Estimate

SAMPLES = torch.tensor([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]], dtype=torch.float64)


def test_mean_and_standard_error() -> None:
    estimate = Estimate.of(SAMPLES)
    torch.testing.assert_close(estimate.value, torch.tensor([3.0, 4.0], dtype=torch.float64))
    # Deviations -2, -1, 3: variance 7, over three.
    torch.testing.assert_close(
        estimate.standard_error, torch.tensor([math.sqrt(7 / 3), 0.0], dtype=torch.float64)
    )
    assert estimate.dof == 2


def test_interval_takes_student_quantiles_and_adds_what_the_solver_left() -> None:
    low, high = Estimate.of(SAMPLES, torch.tensor([0.5, 0.25], dtype=torch.float64)).interval(0.95)
    half = 4.302653 * math.sqrt(7 / 3) + 0.5
    assert float(low[0]) == pytest.approx(3 - half, rel=1e-6)
    assert float(high[0]) == pytest.approx(3 + half, rel=1e-6)
    assert (float(low[1]), float(high[1])) == (3.75, 4.25)
    with pytest.raises(ValueError, match=r"`level` must lie in \(0, 1\), got 1.5"):
        Estimate.of(SAMPLES).interval(1.5)


def test_one_probe_knows_nothing_of_its_spread() -> None:
    estimate = Estimate.of(torch.tensor([2.0]).double())
    assert estimate.interval() == (-math.inf, math.inf)
    assert estimate.budget.half_width() == math.inf


def test_budget_of_a_number() -> None:
    one = Estimate.of(SAMPLES[:, 0], torch.tensor(0.5).double())
    assert one.budget.half_width(0.95) == pytest.approx(float(one.interval(0.95)[1]) - 3)
    assert Estimate.of(SAMPLES[:, 1]).budget.half_width() == 0
    assert repr(Estimate.of(SAMPLES[:, 1])) == "Estimate(4 exact)"


def test_a_share_stays_within_its_support() -> None:
    share = dataclasses.replace(Estimate.of(SAMPLES[:, 0] / 10), support=(0.0, 1.0))
    low, high = share.interval()
    assert float(low) == 0
    assert 0.3 < float(high) < 1
    assert str(share) == f"0.3, 0 to {at_most(float(high), 3)} (95 %)"
    assert Estimate.of(SAMPLES[:, 0] / 10).interval()[0] < 0


def test_rounding_is_no_uncertainty() -> None:
    samples = torch.tensor([0.5, 0.5, 0.5 + 1e-16], dtype=torch.float64)
    assert str(Estimate.of(samples, torch.tensor(1e-17).double())) == "0.5 exact"
    assert "± 1e-05" in str(Estimate.of(samples, torch.tensor(1e-5).double()))


def test_several_estimates_of_one_kind_are_one() -> None:
    rng = torch.Generator().manual_seed(0)
    parts = [
        dataclasses.replace(Estimate.of(torch.rand(4, generator=rng), torch.tensor(0.1)), support=(0.0, 2.0))
        for _ in range(3)
    ]
    whole = Estimate.stack(parts)
    for i, part in enumerate(parts):
        for ends in zip(whole.interval(0.9), part.interval(0.9), strict=True):
            assert float(ends[0][i]) == float(ends[1])


def test_jackknife_of_a_mean_is_the_standard_error() -> None:
    mean, jackknifed = Estimate.of(SAMPLES), Estimate.jackknifed(lambda m: m, SAMPLES)
    torch.testing.assert_close(jackknifed.standard_error, mean.standard_error)
    torch.testing.assert_close(jackknifed.value, mean.value)


def test_jackknife_of_a_square_is_the_delta_method() -> None:
    rng = torch.Generator().manual_seed(0)
    samples = 5 + torch.randn(400, generator=rng, dtype=torch.float64)
    found = Estimate.jackknifed(torch.square, samples)
    delta = 2 * float(samples.mean()) * float(Estimate.of(samples).standard_error)
    assert float(found.standard_error) == pytest.approx(delta, rel=0.01)
