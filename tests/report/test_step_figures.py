"""Pictures of steps along the gradient and of stable rates: what is drawn is what the result says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from tests.operators.cases import CASES

import thalweg as tw
from thalweg.core.measurement import StandardError


def test_three_panels_hold_mean_interval_and_all_batches() -> None:
    objective = CASES["residual-batch"].objective()
    result = tw.gradient_predictiveness(objective, batch_size=8, num_batches=3, seed=0)
    figure = tw.plot(result)
    assert figure.get_suptitle() == "N = 21, batch norm: batch"
    rows = (result.losses, result.gradient_changes, result.gradient_changes / result.distances)
    for axes, row in zip(figure.axes, rows, strict=True):
        mean = axes.get_lines()[0]
        np.testing.assert_allclose(mean.get_xdata(), result.learning_rates.numpy())
        np.testing.assert_allclose(mean.get_ydata(), row.mean(0).numpy())
        band, spread = (c.get_paths()[0].vertices[:, 1] for c in axes.collections)
        half = StandardError(float(row[:, 0].std()) / math.sqrt(3), 2).half_width(0.95)
        assert band.max() >= float(row[:, 0].mean()) + half - 1e-9
        assert (spread.min(), spread.max()) == pytest.approx((float(row.min()), float(row.max())))
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    before = figure.axes[0].get_lines()[1]
    assert before.get_ydata()[0] == pytest.approx(float(result.center_losses.mean()))


def test_one_gradient_has_no_bands() -> None:
    result = tw.gradient_predictiveness(CASES["residual-batch"].objective(), gradient="full", seed=0)
    assert not any(axes.collections for axes in tw.plot(result).axes)


def test_runs_end_at_their_losses_and_those_that_diverged_are_marked() -> None:
    objective = CASES["residual-batch"].objective()
    found = tw.largest_stable_learning_rate(
        objective, batch_size=8, num_steps=4, loss_ratio=0.95, rtol=0.5, num_orders=2, seed=0
    )
    losses = found.trial_losses.clone()
    last = int((found.trial_orders == 0).sum()) - 1
    losses[last] = math.nan
    result = dataclasses.replace(found, trial_losses=losses)
    (axes,) = tw.plot(result).axes
    ends, crosses = axes.get_lines()[0], axes.get_lines()[1]
    own = found.trial_orders == 0
    order = found.trial_rates[own].argsort()
    np.testing.assert_allclose(ends.get_xdata(), found.trial_rates[own][order].numpy())
    np.testing.assert_allclose(ends.get_ydata(), losses[own][order].numpy())
    assert list(crosses.get_xdata()) == [float(found.trial_rates[last])]
    assert crosses.get_ydata()[0] > float(torch.nan_to_num(losses).max())
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"{result.value:.3g}" in labels
    assert "diverged" in labels
