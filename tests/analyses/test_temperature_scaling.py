"""The exponent of lr / B on quadratics, and where there is none."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.measures.dynamics.quadratics import objective

import thalweg as tw

SHORT: dict[str, Any] = {"num_directions": 2, "loss_every": 50, "seed": 1}


@pytest.fixture(scope="module")
def found() -> tw.TemperatureScaling:
    return tw.temperature_scaling(
        objective(), lrs=[0.05, 0.4, 0.6], batch_sizes=[2, 8], num_steps=1400, burn_in=100, **SHORT
    )


def test_the_law_and_where_it_breaks(found: tw.TemperatureScaling) -> None:
    """Curvature 4: at 0.4 a step is 0.8 of the threshold, at 0.6 beyond it."""
    assert found.outcomes[2] == ("diverged", "diverged")
    assert set(found.outcomes[0] + found.outcomes[1]) == {"stationary"}
    assert found.num_fitted == 4
    assert found.breaks.tolist() == [[False, False], [True, True], [True, True]]
    torch.testing.assert_close(
        found.ratios, torch.tensor([[0.025, 0.00625], [0.2, 0.05], [0.3, 0.075]]).double()
    )
    assert found.holds_up_to == pytest.approx(0.025)
    # What the exact law says of the same grid, weighted alike.
    assert not found.fits
    assert found.value > 1.05
    assert bool(
        ((found.temperatures[:2] / found.predicted[:2]).log().abs() < 4 * found.departure_errors[:2]).all()
    )
    torch.testing.assert_close(
        found.continuous, found.ratios * found.continuous[0, 0] / found.ratios[0, 0], rtol=1e-9, atol=0
    )
    assert "no power law within the errors, 4 of 6 runs, " in repr(found)
    assert "breaks in 4" in repr(found)
    # The rate is at fault, not the size of the batch.
    (_, of_size), (low, high) = found.exponents, found.exponent_intervals(0.999)
    assert float(low[1]) < 1 < float(high[1])
    assert float(found.exponents[0]) > float(of_size)


@pytest.mark.slow
def test_short_steps_have_the_exponent_one() -> None:
    found = tw.temperature_scaling(
        objective(), lrs=[0.02, 0.04], batch_sizes=[1, 4], num_steps=4000, burn_in=200, tolerance=0.3, **SHORT
    )
    assert found.fits
    low, high = found.interval(0.999)
    assert low < 1 < high
    assert high - low < 0.3
    lows, highs = found.exponent_intervals(0.999)
    assert bool(((lows < 1) & (highs > 1)).all())
    assert not bool(found.breaks.any())
    assert found.holds_up_to == pytest.approx(0.04)


def test_a_run_of_the_grid_is_that_of_the_measure(found: tw.TemperatureScaling) -> None:
    run = found.runs[0]
    arguments = dict(run.provenance["arguments"])
    again = tw.sgd_temperature(objective(), **arguments)
    assert again.value == pytest.approx(run.value, rel=1e-4)  # eigenvectors to their tolerance
    np.testing.assert_allclose(again.losses, run.losses)
    assert (run.lr, run.batch_size) == (0.05, 2)
    assert float(found.temperatures[0, 0]) == run.value


def test_the_fits_are_those_of_the_runs(found: tw.TemperatureScaling) -> None:
    """Of the ratio, and of rate and size apart, by the normal equations."""
    runs = [run for run in found.runs if run.is_stationary]
    y = np.log([run.value for run in runs])
    weights = np.array([run.value / run.error.probe.value for run in runs]) ** 2  # type: ignore[union-attr]

    def slopes(*columns: list[float]) -> np.ndarray:
        design = np.column_stack([np.ones(len(runs)), *np.log(columns)])
        return np.linalg.solve(design.T @ (weights[:, None] * design), design.T @ (weights * y))[1:]

    rates, inverses = [run.lr for run in runs], [1 / run.batch_size for run in runs]
    assert found.value == pytest.approx(slopes([a * b for a, b in zip(rates, inverses, strict=True)])[0])
    np.testing.assert_allclose(found.exponents.numpy(), slopes(rates, inverses))


def test_record(found: tw.TemperatureScaling) -> None:
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert tw.Measurement.from_dict(json.loads(text)) == found
    assert found.provenance["arguments"]["lrs"] == [0.05, 0.4, 0.6]
    assert found.provenance["function"] == found.measure == "temperature_scaling"


def test_progress_rises_to_its_total() -> None:
    calls: list[tuple[int, int]] = []
    tw.temperature_scaling(
        objective(),
        lrs=[0.3],
        batch_sizes=[4, 8],
        num_steps=160,
        burn_in=20,
        min_effective_size=10,
        progress=lambda done, whole: calls.append((done, whole)),
        **SHORT,
    )
    done = [c[0] for c in calls]
    assert done == sorted(done)
    assert calls[-1][0] == calls[-1][1]


def test_nothing_stationary_is_told_with_what_there_is() -> None:
    with pytest.raises(tw.ConvergenceError, match=r"of 2 runs these are 2 diverged: lower `lrs`") as caught:
        tw.temperature_scaling(
            objective(),
            lrs=[0.7, 0.9],
            batch_sizes=[4],
            num_steps=100,
            burn_in=0,
            **SHORT | {"loss_every": 5},
        )
    partial = caught.value.partial
    assert math.isnan(partial.value)
    assert partial.holds_up_to == 0
    assert bool(partial.breaks.all())
    assert bool(partial.exponents.isnan().all() and partial.exponent_errors.isnan().all())


def test_one_rate_tells_no_two_exponents() -> None:
    few = SHORT | {"num_steps": 200, "burn_in": 20, "min_effective_size": 10, "drift_level": 1e-6}
    found = tw.temperature_scaling(objective(), lrs=[0.3], batch_sizes=[2, 8], **few)
    assert math.isfinite(found.value)
    assert bool(found.exponents.isnan().all())
    assert bool(torch.stack(found.exponent_intervals()).isnan().all())


def test_bad_input() -> None:
    for kwargs, match in [
        ({"lrs": []}, "`lrs` must be a list of different numbers, got"),
        ({"lrs": [0.1, 0.1]}, "`lrs` must be a list of different numbers"),
        ({"lrs": 0.1}, "`lrs` must be a list of different numbers, got 0.1"),
        ({"batch_sizes": [4, 50]}, "`batch_size` must be at most the 40 examples"),
        ({"lrs": [0.1, 0.2], "batch_sizes": [4], "momentum": 2}, "`momentum` must lie in"),
        ({"lrs": [0.1], "batch_sizes": [4]}, "must make at least two different lr / B"),
        ({"tolerance": 0.0}, r"`tolerance` must lie in \(0, 1\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            tw.temperature_scaling(objective(), **{"lrs": [0.1], "batch_sizes": [4, 8], "seed": 0, **kwargs})  # type: ignore[arg-type]
