"""Pictures of curves, of instability and of seeds, from made-up numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from thalweg.analyses.instability import Instability
from thalweg.analyses.seed_spread import SeedSpread
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.measures.connectivity.bezier_path import BezierPath
from thalweg.report.plot import plot

PROVENANCE = {"objective": {"batch_norm": "recalibrated", "num_examples": 4096}}


def curve(num_steps: int = 100) -> BezierPath:
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    return BezierPath(
        value=0.3,
        provenance=PROVENANCE,
        alphas=t,
        losses=0.2 + 1.2 * t * (1 - t),
        accuracies=0.9 - 0.2 * t * (1 - t),
        penalties=torch.zeros(5),
        loss_standard_errors=torch.full((5,), 0.01),
        barrier=0.3,
        barrier_over_mean=0.3,
        barrier_alpha=0.5,
        kind="bezier",
        num_bends=2,
        control_points=torch.zeros(3, 4),
        arc_lengths=3 * t,
        arc_length=3.0,
        distance=2.0,
        training_losses=torch.linspace(1, 0.2, num_steps, dtype=torch.float64),
        training_positions=torch.rand(num_steps, dtype=torch.float64),
    )


def instability(num_seeds: int = 3, classes: bool = True) -> Instability:
    rng = torch.Generator().manual_seed(0)
    steps = torch.tensor([0, 10, 100, 1000])
    barriers = torch.rand(2, num_seeds, 4, generator=rng, dtype=torch.float64) / (1 + steps)
    return Instability(
        value=float(barriers[0, :, 0].mean()),
        error=ErrorBudget(probe=StandardError(0.1, num_seeds - 1)),
        provenance=PROVENANCE,
        branch_steps=steps,
        num_steps=2000,
        split="test",
        modes=("running", "recalibrated"),
        barriers=barriers,
        error_barriers=barriers / 4 if classes else barriers * torch.nan,
        solver_bounds=barriers / 50,
        end_losses=torch.zeros(2, num_seeds, 4, 2),
        end_accuracies=torch.ones(2, num_seeds, 4, 2),
        distances=torch.ones(num_seeds, 4),
    )


def data(line) -> list[list[float]]:
    return line.get_xydata().tolist()


def test_a_curve_shows_loss_accuracy_and_training(tmp_path) -> None:
    result = curve()
    figure = plot(result, tmp_path / "curve.png")
    loss, accuracy, training = figure.axes
    assert data(loss.get_lines()[0]) == torch.stack([result.alphas, result.losses], 1).tolist()
    assert accuracy.get_lines()[0].get_ydata().tolist() == result.accuracies.tolist()
    assert loss.get_xlabel() == accuracy.get_xlabel() == "position t on the curve"
    assert loss.get_title("left") == "Loss (bezier, 2 bends)"
    assert accuracy.get_title("left") == "Accuracy (length 1.5 × straight)"
    dots, means = training.get_lines()
    assert dots.get_ydata().tolist() == result.training_losses.tolist()
    # The mean of the last five steps stands at the last one.
    assert data(means)[-1] == pytest.approx([100, float(result.training_losses[-5:].mean())])
    assert figure.get_suptitle() == "N = 4,096, batch norm: recalibrated"


def test_an_untrained_curve_has_no_training_to_show() -> None:
    assert len(plot(curve(num_steps=0)).axes) == 2


def test_a_curve_without_classes_says_its_length_beside_the_loss() -> None:
    loss, training = plot(replace(curve(), accuracies=torch.full((5,), torch.nan))).axes
    assert loss.get_title("left") == "Loss (bezier, 2 bends,\nlength 1.5 × straight)"
    assert training.get_title("left") == "Training of the curve"


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_instability_shows_each_mode_each_seed_and_the_band(num_seeds, tmp_path) -> None:
    result = instability(num_seeds)
    figure = plot(result, tmp_path / "instability.png")
    assert figure.get_suptitle() == "N = 4,096", "the modes are in the legend"
    loss, error = figure.axes
    for axes, table in ((loss, result.barriers), (error, result.error_barriers)):
        drawn = [list(map(float, line.get_ydata())) for line in axes.get_lines()]
        for rows in table:
            assert rows.mean(0).tolist() in drawn
            assert all(row.tolist() in drawn for row in rows)
        assert axes.get_xlabel() == "step at which the runs part (of 2,000)"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "batch norm: running",
        "batch norm: recalibrated",
    ]
    for axes, name in ((loss, "barriers"), (error, "error_barriers")):
        bands = [path for c in axes.collections for path in c.get_paths()]
        assert len(bands) == (2 if num_seeds == 3 else 0), "a single seed has none"
        low, high = result.band(0.95, name)
        for m, band in enumerate(bands):
            assert band.vertices[:, 1].max() == pytest.approx(float(high[m].max()))
            assert band.vertices[:, 1].min() == pytest.approx(float(low[m].min()))


def test_without_classes_there_is_no_error_rate() -> None:
    assert len(plot(instability(classes=False)).axes) == 1


def test_seeds_have_a_row_each_and_their_mean_its_interval(tmp_path) -> None:
    values = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    result = SeedSpread(
        value=float(values.mean()),
        error=ErrorBudget(probe=StandardError(0.05, 2)),
        provenance=PROVENANCE,
        repeated="bezier_path",
        values=values,
        seeds=(1, 2, 3),
        results=(Measurement(value=0.1),) * 3,
    )
    (axes,) = plot(result, tmp_path / "seeds.png").axes
    dots, interval, mean = (list(map(float, line.get_xdata())) for line in axes.get_lines())
    assert dots == values.tolist()
    assert interval == list(result.interval(0.95))
    assert mean == [result.value]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["seed 1", "seed 2", "seed 3", "mean, 95 %"]
    assert axes.get_xlabel() == "value of bezier_path"
