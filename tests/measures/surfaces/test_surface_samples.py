"""Surfaces on a subset of the examples: targets met, intervals that cover, folds that say the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from thalweg.core.rng import generator
from thalweg.measures.surfaces.line import line_slice
from thalweg.measures.surfaces.plane import plane_slice
from thalweg.objective.objective import Objective
from thalweg.solvers import paired_rows

MODES = ("running", "recalibrated", "batch")


def per_example(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """A quadratic for each example, with a slope, a bend and a level of its own."""
    slopes, bends, levels = batch[0][:, :2], batch[0][:, 2], batch[0][:, 3]
    return levels + slopes @ model.theta + 0.5 * bends * model.theta.square().sum()


def rows(n: int, seed: int) -> Tensor:
    found = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return found + torch.tensor([0.3, -0.2, 3.0, 5.0], dtype=torch.float64)


def toy(toys, n: int, seed: int) -> Objective:
    at = torch.tensor([0.5, 1.0], dtype=torch.float64)
    return Objective(toys.Theta(at), rows(n, seed), loss=per_example, micro_batch=4096)


AXES = torch.eye(2, dtype=torch.float64)


def test_a_target_takes_a_subset_that_meets_it(toys) -> None:
    o = toy(toys, 20_000, 0)
    found, full = (plane_slice(o, num_points=(5, 3), directions=AXES, atol=a, seed=0) for a in (0.05, None))
    assert found.loss_standard_errors.max() <= 0.05
    assert found.loss_standard_errors.max() > 0.05 / math.sqrt(1.6), "and not by far more than it takes"
    assert found.num_examples < 5000
    assert found.num_example_losses == found.num_examples * 14 + 512 * 14 + 20_000
    assert found.value == o.value() == float(found.losses[2, 1])
    assert float(found.loss_standard_errors[2, 1]) == 0
    z = ((found.losses - full.losses) / found.loss_standard_errors)[found.loss_standard_errors > 0]
    assert 0 < z.abs().max() < 4.5
    assert found.dof == found.num_examples - 1
    assert full.num_examples == 20_000
    assert not full.loss_standard_errors.any()
    assert full.fold_losses is None
    assert torch.equal(found.loss_standard_errors, found.rise_standard_errors)


def test_a_relative_target_is_loosest_where_the_loss_is_high(toys) -> None:
    o = toy(toys, 20_000, 0)
    found = plane_slice(o, num_points=5, span=3.0, directions=AXES, rtol=0.02, atol=0.02, seed=0)
    assert (found.loss_standard_errors <= (0.02 * found.losses).clamp(min=0.02)).all()
    strict = plane_slice(o, num_points=5, span=3.0, directions=AXES, atol=0.02, seed=0)
    assert found.num_examples < strict.num_examples


def test_errors_are_of_paired_differences_and_of_a_finite_population(toys) -> None:
    o = toy(toys, 4000, 0)
    found = plane_slice(o, num_points=3, span=0.5, directions=AXES, atol=0.05, seed=0)
    n, N = found.num_examples, 4000
    assert n < N / 2
    order = paired_rows.random_order(N, 1, generator(0, "surface sample"))
    x = rows(N, 0)[order[:n]]
    at, moved = torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.5])
    rises = x[:, :2] @ (moved - at).double() + 0.5 * x[:, 2] * float(moved.square().sum() - at.square().sum())
    assert float(found.losses[0, 2]) == pytest.approx(o.value() + float(rises.mean()), rel=1e-12)
    expected = float(rises.std()) / math.sqrt(n) * math.sqrt(1 - n / N)
    assert float(found.loss_standard_errors[0, 2]) == pytest.approx(expected, rel=1e-9)


def test_a_target_that_needs_all_examples_takes_them(toys) -> None:
    o = toy(toys, 3000, 0)
    found, full = (plane_slice(o, num_points=3, directions=AXES, atol=a, seed=0) for a in (1e-9, None))
    assert torch.equal(found.losses, full.losses)
    assert not found.loss_standard_errors.any()
    assert math.isinf(found.dof)


def test_a_sample_found_too_small_grows_for_all_points(toys, monkeypatch) -> None:
    """As where the pilot saw only calm points: here it sees nothing at all."""
    o = toy(toys, 5000, 0)
    expected = plane_slice(o, num_points=5, directions=AXES, atol=0.1, seed=0)
    monkeypatch.setattr(
        paired_rows, "_needed", lambda tables, *a: 0.0 if len(tables[0].folds) == 512 else 700.0
    )
    found = plane_slice(o, num_points=5, directions=AXES, atol=0.1, seed=0)
    assert found.num_examples == math.ceil(700 * paired_rows.MARGIN)
    assert found.loss_standard_errors.max() <= 0.1
    monkeypatch.setattr(paired_rows, "_needed", lambda *a: 805 / paired_rows.MARGIN)
    at_once = plane_slice(o, num_points=5, directions=AXES, atol=0.1, seed=0)
    assert at_once.num_examples == found.num_examples
    for name in ("losses", "loss_standard_errors"):
        torch.testing.assert_close(getattr(found, name), getattr(at_once, name), rtol=1e-9, atol=1e-12)
    weights = found.fold_sizes.double() / found.num_examples
    assert len(weights) == paired_rows.LEAST_UNITS, "as many folds as the first sample had examples"
    mean = torch.einsum("f,fab->ab", weights, found.fold_losses)
    torch.testing.assert_close(mean, found.losses, rtol=1e-12, atol=1e-12)
    assert expected.losses[2, 2] == found.losses[2, 2]


@pytest.mark.parametrize("population", [False, True])
@pytest.mark.parametrize("atol", [None, 0.05])
def test_folds_average_to_the_surface_and_spread_as_its_errors_say(toys, population, atol) -> None:
    o = toy(toys, 4000, 1)
    found = plane_slice(o, num_points=3, directions=AXES, atol=atol, population=population, seed=0)
    if not population and atol is None:
        assert found.fold_losses is None
        assert found.fold_sizes is None
        return
    F = len(found.fold_losses)
    assert F == 64
    assert int(found.fold_sizes.sum()) == found.num_examples
    weights = found.fold_sizes.double() / found.num_examples
    mean = torch.einsum("f,fab->ab", weights, found.fold_losses)
    torch.testing.assert_close(mean, found.losses, rtol=1e-12, atol=1e-12)
    deviations = weights[:, None, None] * (found.fold_losses - found.losses)
    spread = (F / (F - 1) * deviations.square().sum(0)).sqrt()
    # Of the losses too: examples that no point was seen on have their part in the centre's.
    rise = (F / (F - 1) * (deviations - deviations[:, 1:2, 1:2]).square().sum(0)).sqrt()
    torch.testing.assert_close(rise, found.rise_standard_errors, rtol=0.3, atol=1e-12)
    torch.testing.assert_close(spread, found.loss_standard_errors, rtol=0.3, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_networks_in_each_mode(toys, mode) -> None:
    o = Objective(toys.convnet(), toys.images(1800), batch_norm=mode, batch_size=8, micro_batch=128)
    found, full = (plane_slice(o, num_points=3, span=0.4, atol=a, seed=0) for a in (0.02, None))
    assert found.num_examples < 1800
    assert found.num_examples % 8 == 0 or mode != "batch"
    assert found.value == o.value()
    assert found.loss_standard_errors.max() <= 0.02
    away = found.loss_standard_errors > 0
    assert int(away.sum()) == 8
    assert ((found.losses - full.losses)[away] / found.loss_standard_errors[away]).abs().max() < 4.5
    z = (found.accuracies - full.accuracies)[away] / found.accuracy_standard_errors[away].clamp(min=1e-3)
    assert z.abs().max() < 4.5
    assert found.dof == found.num_examples / (8 if mode == "batch" else 1) - 1


def test_a_line_has_targets_too(toys) -> None:
    o = toy(toys, 20_000, 0)
    found, full = (
        line_slice(o, num_points=5, num_directions=2, ignore="none", atol=a, seed=0) for a in (0.05, None)
    )
    assert found.num_examples < 20_000
    assert found.loss_standard_errors.max() <= 0.05
    assert found.value == full.value == o.value()
    away = found.loss_standard_errors > 0
    assert ((found.losses - full.losses)[away] / found.loss_standard_errors[away]).abs().max() < 4.5
    torch.testing.assert_close(found.losses, found.losses_by_direction.mean(0), rtol=1e-12, atol=0)
    assert found.fold_losses.shape == (64, 5)


@pytest.mark.parametrize("population", [False, True])
@pytest.mark.parametrize("repeats", [80, pytest.param(2000, marks=pytest.mark.slow)])
def test_intervals_cover(toys, repeats, population, monkeypatch) -> None:
    """A point at a time, over new data or new subsets; with a pilot, a target, and growth where needed."""
    monkeypatch.setattr(paired_rows, "PILOT_EXAMPLES", 24)
    monkeypatch.setattr(paired_rows, "MARGIN", 1.0)  # so that many samples do grow
    N, at = 500, torch.tensor([0.5, 1.0], dtype=torch.float64)
    covered, rises, sizes = [], [], set()
    fixed = toy(toys, N, 0)
    expected = torch.tensor([0.3, -0.2, 3.0, 5.0], dtype=torch.float64)
    for seed in range(repeats):
        o = toy(toys, N, seed) if population else fixed
        found = plane_slice(
            o, num_points=3, directions=AXES, atol=0.22, population=population, agreement=False, seed=seed
        )
        sizes.add(found.num_examples)
        examples = expected[None] if population else rows(N, 0)
        a, b = torch.meshgrid(at[0] + found.alphas, at[1] + found.betas, indexing="ij")
        m = examples.mean(0)
        truth = m[3] + m[0] * a + m[1] * b + 0.5 * m[2] * (a**2 + b**2)
        low, high = found.loss_interval(0.95)
        inside = (low <= truth) & (truth <= high)
        covered.append([bool(inside[0, 0]), bool(inside[2, 1]), bool(inside[2, 2])])
        z = (found.losses - found.value - truth + truth[1, 1]) / found.rise_standard_errors
        rises.append(abs(float(z[2, 2])) < stats.t.ppf(0.975, found.dof))
    assert len(sizes) > 10, "the sample is chosen anew each time"
    limit = 0.015 if repeats == 2000 else 4 * math.sqrt(0.95 * 0.05 / repeats)
    for share in (*np.mean(covered, axis=0), np.mean(rises)):
        print("plane_slice", "population" if population else "sampled", repeats, share)
        assert abs(share - 0.95) < limit, share
