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
        objective(), lrs=[0.02, 0.05, 0.4, 0.6], batch_sizes=[2, 8], num_steps=3000, burn_in=200, **SHORT
    )


def test_the_law_and_where_it_breaks(found: tw.TemperatureScaling) -> None:
    """Curvature 4: at 0.4 a step is 0.8 of the threshold, at 0.6 beyond it."""
    assert found.outcomes[3] == ("diverged", "diverged")
    assert set(found.outcomes[0] + found.outcomes[1] + found.outcomes[2]) == {"stationary"}
    assert found.num_fitted == 6
    assert found.breaks.tolist() == [[False, False], [False, False], [True, True], [True, True]]
    torch.testing.assert_close(
        found.ratios, torch.tensor([[0.01, 0.0025], [0.025, 0.00625], [0.2, 0.05], [0.3, 0.075]]).double()
    )
    assert found.holds_up_to == pytest.approx(0.025)
    # What the exact law says of the same grid, weighted alike.
    assert not found.fits
    assert found.value > 1.05
    assert bool(
        ((found.temperatures[:3] / found.predicted[:3]).log().abs() < 4 * found.departure_errors[:3]).all()
    )
    torch.testing.assert_close(
        found.continuous, found.ratios * found.continuous[0, 0] / found.ratios[0, 0], rtol=1e-9, atol=0
    )
    assert "no power law within the errors, 6 of 8 runs, " in repr(found)
    assert "breaks in 4" in repr(found)


def test_short_steps_have_the_exponent_one() -> None:
    found = tw.temperature_scaling(
        objective(), lrs=[0.02, 0.04], batch_sizes=[1, 4], num_steps=4000, burn_in=200, tolerance=0.3, **SHORT
    )
    assert found.fits
    low, high = found.interval(0.999)
    assert low < 1 < high
    assert high - low < 0.3
    assert not bool(found.breaks.any())
    assert found.holds_up_to == pytest.approx(0.04)


def test_a_run_of_the_grid_is_that_of_the_measure(found: tw.TemperatureScaling) -> None:
    run = found.runs[2]
    arguments = dict(run.provenance["arguments"])
    again = tw.sgd_temperature(objective(), **arguments)
    assert again.value == pytest.approx(run.value, rel=1e-4)  # eigenvectors to their tolerance
    np.testing.assert_allclose(again.losses, run.losses)
    assert (run.lr, run.batch_size) == (0.05, 2)
    assert float(found.temperatures[1, 0]) == run.value


def test_record(found: tw.TemperatureScaling) -> None:
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert tw.Measurement.from_dict(json.loads(text)) == found
    assert found.provenance["arguments"]["lrs"] == [0.02, 0.05, 0.4, 0.6]
    assert found.provenance["function"] == found.measure == "temperature_scaling"


def test_progress_rises_to_its_total() -> None:
    calls: list[tuple[int, int]] = []
    tw.temperature_scaling(
        objective(),
        lrs=[0.3],
        batch_sizes=[4, 8],
        num_steps=400,
        burn_in=20,
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
