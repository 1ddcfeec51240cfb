"""Pictures of wells, masses and learning coefficients show the numbers of their results."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.measures.conftest import convnet, images
from tests.measures.dynamics.wells import MINIMA_1, MINIMA_2, one_parameter, two_parameters

import thalweg as tw

QUICK: dict[str, Any] = {"temperature": 0.2, "num_chains": 64, "burn_in": 10, "num_steps": 40, "seed": 0}


@pytest.mark.parametrize(
    ("build", "minima"), [(one_parameter, MINIMA_1), (two_parameters, MINIMA_2)], ids=["one", "two"]
)
def test_wells_and_laws(build: Any, minima: Any) -> None:
    law = tw.stationary_law(build(), minima=minima, num_points=101, **QUICK)
    wells, occupancies, _, run = tw.plot(law).axes[:4]
    shown = {line.get_label(): line.get_ydata() for line in occupancies.get_lines()}
    np.testing.assert_allclose(shown["basin mass"], law.prediction("basin_mass"))
    np.testing.assert_allclose(shown["Gibbs, quadrature"], law.prediction("gibbs"))
    assert "noise that changes" not in shown
    assert [text.get_text() for text in wells.texts] == ["1", "2"]
    np.testing.assert_allclose(run.get_lines()[0].get_ydata(), law.block_occupancies[:, 0])


def test_times_have_their_intervals_whatever_the_laws_say() -> None:
    """Where a pass has no saddle Kramers' law says nothing."""
    law = tw.stationary_law(one_parameter(), minima=MINIMA_1, num_points=101, **QUICK | {"num_steps": 800})
    silent = dataclasses.replace(law, predicted_times=torch.full_like(law.predicted_times, torch.nan))
    axes = tw.plot(silent).axes[2]
    (bars,) = axes.containers[0].lines[2]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.stack([end.numpy() for end in law.escape_intervals()], 1))
    assert (ends[:, 0] < law.escape_times.numpy()).all()


def test_a_run_without_an_end_is_drawn() -> None:
    wild = one_parameter(noise=6.0, growth=2.0)
    law = tw.stationary_law(
        wild, minima=MINIMA_1, noise="sgd", **QUICK | {"temperature": 1.5, "num_steps": 400}
    )
    assert law.outcome == "diverged"
    assert "diverged" in tw.plot(law).axes[1].get_title(loc="left")


def test_mass_against_the_damping() -> None:
    mass = tw.basin_mass(tw.Objective(convnet(), images()), num_probes=3, num_steps=6, seed=0)
    (axes,) = tw.plot(mass).axes
    lines = [line.get_ydata() for line in axes.get_lines()]
    assert any(len(y) == 5 and np.allclose(y, mass.free_energies) for y in lines)
    assert any(len(y) == 1 and y[0] == mass.value for y in lines)
    assert axes.get_xscale() == "log"


def test_chains_of_a_learning_coefficient() -> None:
    o = tw.Objective(convnet(), images(), batch_size=8)
    found = tw.local_learning_coefficient(o, num_chains=3, burn_in=4, num_steps=30, seed=0)
    rises, chains = tw.plot(found).axes
    assert len(rises.get_lines()) == 4
    np.testing.assert_allclose(
        rises.get_lines()[0].get_ydata(), 37 * found.inverse_temperature * found.rises[:, 0]
    )
    drawn = [np.asarray(line.get_ydata()) for line in chains.get_lines()]
    assert any(np.array_equal(y, found.chain_values) for y in drawn)
