"""Components, loops and voids: closed forms, null controls, walls, and which features are said to be real."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from tests.measures.topology.surfaces import bowl, double_well, of_function, ring, surface, with_noise
from tests.networks import mlp, vectors

import thalweg as tw
from thalweg.measures.topology.cubical import cubical_pairs

inf = math.inf


def of(result: tw.Persistence, dimension: int) -> list[tuple[float, float]]:
    """Births and deaths of one dimension."""
    chosen = result.dimensions == dimension
    return list(zip(result.births[chosen].tolist(), result.deaths[chosen].tolist(), strict=True))


@pytest.mark.parametrize("counts", [(31,), (21, 31), (9, 11, 13)])
def test_a_bowl_is_one_component_and_nothing_else(counts):
    result = tw.persistence(of_function(bowl, *counts))
    assert of(result, 0) == [(pytest.approx(0, abs=1e-12), inf)]
    assert len(result.births) == result.value == 1
    assert result.birth_points == pytest.approx(0, abs=1e-7)
    assert result.death_points.isnan().all()
    assert result.noise_band == 0


@pytest.mark.parametrize("counts", [(31,), (31, 21), (31, 15, 13)])
def test_two_wells_join_at_the_known_height(counts):
    result = tw.persistence(of_function(double_well, *counts))
    (low, never), (high, saddle) = of(result, 0)
    fine = double_well(torch.linspace(-1.5, 1.5, 300_001, dtype=torch.float64))
    middle = len(fine) // 2
    # Minima and saddle lie on the first axis, not all on the grid.
    for seen, true in (
        (low, fine[:middle].min()),
        (high, fine[middle:].min()),
        (saddle, fine[100_000:200_000].max()),
    ):
        assert abs(seen - float(true)) <= result.grid_error
    assert never == inf
    assert result.value == 2
    assert result.merge_tree.saddle_upper_bound(0, 1) == saddle
    assert result.merge_tree.num_components(0.5) == 2
    assert result.merge_tree.num_components(1.5) == 1


def test_a_ring_shaped_valley_is_one_loop():
    result = tw.persistence(of_function(ring, 41, 41))
    assert result.value == 1
    assert result.num_significant(1) == 1
    closes, filled = of(result, 1)[0]
    # It closes where the valley is highest, on the left, and is filled at the hill in the middle.
    assert closes == pytest.approx(0.05, abs=result.grid_error)
    assert filled == pytest.approx(1, abs=result.grid_error)
    loop = int((result.dimensions == 1).nonzero()[0])
    assert result.birth_points[loop, 0] == pytest.approx(-1, abs=0.2)
    assert result.death_points[loop].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_shell_is_one_void():
    def shell(x, y, z):
        return (x.square() + y.square() + z.square() - 1).square()

    result = tw.persistence(of_function(shell, 17, 17, 17))
    void = result.dimensions == 2
    long = result.lifetimes > 0.5
    assert int((void & long).sum()) == 1
    assert int(((result.dimensions == 1) & long).sum()) == 0
    assert float(result.deaths[void & long]) == pytest.approx(1, abs=1e-6)


def test_points_are_connected_along_axes_and_not_across():
    # Two low corners: the path along the edges is what was evaluated.
    result = tw.persistence(surface(torch.tensor([[0.0, 3], [4, 1]], dtype=torch.float64)))
    assert of(result, 0) == [(0, inf), (1, 3)]
    assert of(result, 1) == []


def test_positions_are_in_the_order_of_the_axes():
    heights = torch.full((3, 5), 9.0, dtype=torch.float64)
    heights[0, 4], heights[2, 1] = 0, 1
    axes = torch.tensor([-1.0, 0, 1]).double(), torch.tensor([10.0, 20, 30, 40, 50]).double()
    result = tw.persistence(surface(heights, *axes))
    assert result.birth_points.tolist() == [[-1, 50], [1, 20]]
    # Loops: a hill in the middle of a valley, not on the diagonal.
    heights = torch.zeros(5, 7, dtype=torch.float64)
    heights[1, 5] = 2
    result = tw.persistence(surface(heights))
    assert of(result, 1) == [(0, 2)]
    assert result.death_points[-1].tolist() == [1, 5]


def test_walls_are_never_filled_in():
    # A line of points without a finite loss parts the slice for good; a single one is a loop that never dies.
    heights = torch.zeros(5, 9, dtype=torch.float64)
    heights[:, 4] = math.nan
    heights[2, 7] = math.inf
    heights[0, 0] = -1
    result = tw.persistence(surface(heights))
    assert of(result, 0) == [(-1, inf), (0, inf)]
    assert of(result, 1) == [(0, inf)]
    assert result.num_walls == 6
    assert result.merge_tree.parents.tolist() == [-1, -1]
    assert result.merge_tree.saddle_upper_bound(0, 1) == inf
    assert heights.isnan().sum() == 5, "the caller's losses are as they were"


def test_gudhis_pairs_are_complete():
    """Euler's formula at every level: components less loops are vertices less edges plus squares."""
    heights = np.random.default_rng(0).normal(size=(9, 8))
    result = tw.persistence(surface(torch.from_numpy(heights)))
    for level in np.sort(heights.ravel()):
        low = heights <= level
        edges = (low[1:] & low[:-1]).sum() + (low[:, 1:] & low[:, :-1]).sum()
        squares = (low[1:, 1:] & low[:-1, 1:] & low[1:, :-1] & low[:-1, :-1]).sum()
        alive = (result.births <= level) & (result.deaths > level)
        components, loops = (int(alive[result.dimensions == k].sum()) for k in (0, 1))
        assert components - loops == low.sum() - edges + squares


# -- what is real ---------------------------------------------------------------------------------------


def test_flags_are_lifetimes_against_noise_and_grid():
    result = tw.persistence(with_noise(of_function(double_well, 15, 15), 0.6), seed=0)
    life = result.lifetimes
    assert result.noise_band > 0
    assert torch.equal(result.outlives_noise, life > 2 * result.noise_band)
    assert torch.equal(result.outlives_grid, life > 2 * result.grid_error)
    assert torch.equal(result.is_significant, life > 2 * result.margin)
    assert result.value == result.is_significant[result.dimensions == 0].sum() == result.num_significant(0)
    assert len(set(map(tuple, torch.stack([result.outlives_noise, result.outlives_grid]).T.tolist()))) > 1


def test_with_a_ceiling_lifetimes_end_there_and_so_does_the_noise():
    base = of_function(double_well, 61, 61, span=3.0)
    factors = 1 + 0.02 * torch.randn(8, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folds = base.losses * factors  # ever noisier up the walls
    noisy = surface(folds.mean(0), *base.axes, fold_losses=folds, fold_sizes=torch.full((8,), 20))
    result, below = (tw.persistence(noisy, ceiling=c, seed=0) for c in (None, 1.5))
    assert below.noise_band < result.noise_band / 10
    assert below.grid_error < result.grid_error / 3
    assert (result.value, below.value) == (1, 2)
    assert torch.equal(result.deaths, below.deaths), "they are what they are"
    low = tw.persistence(noisy, ceiling=0.5, seed=0)
    lifetime = 0.5 - float(low.births[1])
    assert bool(low.outlives_grid[1]) == (lifetime > 2 * low.grid_error)


def test_points_that_were_interpolated_add_their_error_to_the_grids():
    base = of_function(double_well, 31, 31)
    errors = torch.zeros_like(base.losses)
    errors[0, 0], errors[3, 3] = 2.0, 0.25  # at a height of 6.0, and of 3.1
    plain = tw.persistence(base).grid_error
    interpolated = dataclasses.replace(base, interpolation_errors=errors)
    assert tw.persistence(interpolated).grid_error == pytest.approx(plain + 2)
    reach = 2.0 - (float(base.losses[0, 0]) - 5.0)
    below = tw.persistence(base, ceiling=5.0).grid_error
    assert tw.persistence(interpolated, ceiling=5.0).grid_error == pytest.approx(below + reach)


def test_a_finer_grid_resolves_what_a_coarse_one_cannot():
    found = [tw.persistence(of_function(double_well, n, n, span=1.6)) for n in (5, 9, 17, 33, 65)]
    errors = [r.grid_error for r in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(errors[-2] / 4, rel=0.1), "of second order"
    assert (found[0].value, found[-1].value) == (1, 2)


def significant(scale: float, seeds: range, f=bowl) -> list[float]:
    base = of_function(f, 25, 25)
    return [tw.persistence(with_noise(base, scale, seed=s), num_draws=199, seed=s).value for s in seeds]


def test_noise_on_a_bowl_is_not_taken_for_minima():
    seeds = range(40)
    base = of_function(bowl, 25, 25)
    seen = [len(tw.persistence(with_noise(base, 8.0, seed=s), seed=s).parents) for s in seeds]
    assert np.mean(np.array(seen) > 1) > 0.5, "noise enough to make minima"
    assert np.mean(np.array(significant(8.0, seeds)) == 1) >= 0.95
    assert np.mean(np.array(significant(0.2, seeds, double_well)) == 2) >= 0.95, "and two are found"


@pytest.mark.slow
def test_noise_on_a_bowl_in_2000_repetitions():
    assert np.mean(np.array(significant(8.0, range(2000))) == 1) >= 0.95


@pytest.mark.slow
def test_the_whole_diagram_is_within_the_band_in_2000_repetitions():
    """What the flags rest on: the bottleneck distance to the true diagram is at most the noise band."""
    import gudhi

    base = of_function(double_well, 15, 15)
    truth = tw.persistence(base)
    inside = 0
    for seed in range(2000):
        result = tw.persistence(with_noise(base, 0.5, seed=seed), num_draws=199, seed=seed)
        inside += all(
            gudhi.bottleneck_distance(np.array(of(result, k)), np.array(of(truth, k))) <= result.noise_band
            for k in (0, 1)
        )
    assert inside / 2000 >= 0.95


# -- what a result owes its caller ----------------------------------------------------------------------


def test_exact_losses_have_no_band_and_need_no_seed():
    result = tw.persistence(of_function(double_well, 15))
    assert result.noise_band == 0
    assert bool(result.outlives_noise.all())
    assert "exact losses" in repr(result)
    assert result.interval(0.999)[0] == result.value


def test_a_sample_needs_a_seed_its_own_or_the_surfaces():
    noisy = with_noise(of_function(double_well, 15), 0.3)
    with pytest.raises(TypeError, match=r"`seed` must be an integer, got None.*the surface names no seed"):
        tw.persistence(noisy)
    own = dataclasses.replace(noisy, provenance={"arguments": {"seed": 7}})
    result = tw.persistence(own)
    assert result == tw.persistence(own, seed=7)
    assert result.noise_band != tw.persistence(own, seed=8).noise_band
    assert result.provenance["arguments"] == {"ceiling": None, "level": 0.95, "num_draws": 2000, "seed": 7}


def test_provenance_tells_one_surface_from_another():
    base = with_noise(of_function(double_well, 15), 0.3)
    described = {"objective": {"batch_norm": "batch", "has_batch_norm": True}, "arguments": {"span": 1.5}}
    first = tw.persistence(dataclasses.replace(base, provenance=described), seed=0)
    assert first.batch_norm == "batch"
    assert "batch norm batch" in repr(first)
    assert first.provenance["surface"]["arguments"] == {"span": 1.5}
    other = tw.persistence(dataclasses.replace(base, fold_losses=base.fold_losses + 1), seed=0)
    assert other.provenance["surface"]["hash"] != first.provenance["surface"]["hash"]


@pytest.mark.parametrize("counts", [(15,), (9, 9), (5, 5, 5)])
def test_it_survives_json(counts, tmp_path):
    result = tw.persistence(with_noise(of_function(double_well, *counts), 2.0), ceiling=3.0, seed=0)
    for folder in (None, tmp_path):
        text = json.dumps(result.to_dict(folder), allow_nan=False)
        back = tw.Measurement.from_dict(json.loads(text), folder)
        assert back == result
        assert back.merge_tree.saddle_upper_bounds.tolist() == result.merge_tree.saddle_upper_bounds.tolist()


def test_it_says_what_it_is():
    result = tw.persistence(with_noise(of_function(ring, 15, 15), 0.2), seed=0)
    text = repr(result)
    assert "of the slice significant" in text
    assert "saddles are upper bounds" in text
    assert "\n" not in text
    assert result.interval() == (result.value, inf)
    assert result.interval(0.99) == (1, inf), "the band is at 95 %"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ceiling": -1.0}, ValueError, "`ceiling` must be a number above the lowest loss, .*, got -1.0"),
        ({"ceiling": math.nan}, ValueError, "`ceiling` must be a number above the lowest loss"),
        ({"ceiling": "1"}, ValueError, "`ceiling` must be a number above the lowest loss"),
        ({"level": 1.0}, ValueError, r"`level` must lie in \(0, 1\)"),
        ({"num_draws": 0}, ValueError, "`num_draws` must be a whole number"),
        ({"num_draws": 18}, ValueError, "`num_draws` must be at least 19"),
        ({"seed": 1.5}, TypeError, "`seed` must be an integer, got 1.5"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, error, message):
    noisy = with_noise(of_function(double_well, 15), 0.3)
    with pytest.raises(error, match=message):
        tw.persistence(noisy, **{"seed": 0, **arguments})


def test_what_is_no_surface_is_refused():
    with pytest.raises(TypeError, match=r"`surface` must be a slice of the loss on a grid, .* got Tensor"):
        tw.persistence(torch.zeros(3, 3))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"one to three axes and a loss for each point, got axes of \(2, 2, 2, 2\)"
    ):
        tw.persistence(surface(torch.zeros(2, 2, 2, 2)))
    with pytest.raises(ValueError, match=r"axes of \(3,\) points and losses of shape \(4,\)"):
        tw.persistence(surface(torch.zeros(4), torch.arange(3.0)))
    with pytest.raises(ValueError, match="`surface` must have a point of finite loss, got none among 4"):
        tw.persistence(surface(torch.full((2, 2), math.nan)))


def test_a_surface_saved_without_its_arrays_is_not_taken_for_exact():
    noisy = with_noise(of_function(double_well, 15), 0.3)
    with pytest.raises(ValueError, match=r"`surface` must have its fold losses.*saved without its arrays"):
        tw.persistence(dataclasses.replace(noisy, fold_losses=None), seed=0)
    with pytest.raises(ValueError, match="`surface` must have its losses, got one saved without its arrays"):
        tw.persistence(dataclasses.replace(noisy, losses=None), seed=0)


def test_folds_that_are_not_finite_where_the_loss_is_are_refused():
    noisy = with_noise(of_function(double_well, 15), 0.3)
    noisy.fold_losses[2, 4] = math.nan
    with pytest.raises(
        ValueError, match="`surface` must have finite fold losses wherever its loss is finite"
    ):
        tw.persistence(noisy, seed=0)
    noisy.losses[4] = math.nan  # then it is a wall like any other
    assert tw.persistence(noisy, seed=0).num_walls == 1


def test_without_gudhi_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(ImportError, match=r"needs the package gudhi, .*pip install 'thalweg\[topology\]'"):
        tw.persistence(of_function(bowl, 5))


def test_pairs_of_gudhi_are_the_longest_lived_first():
    heights = np.random.default_rng(1).normal(size=(12, 12))
    for pairs in cubical_pairs(heights):
        lifetimes = np.where(pairs.deaths < 0, inf, heights.flat[pairs.deaths] - heights.flat[pairs.births])
        assert (np.diff(lifetimes) <= 0).all() if len(lifetimes) > 1 else True


def test_lines_of_a_population_have_noise_and_means_over_several_are_refused():
    objective = tw.Objective(mlp(0), vectors(60))
    noisy, exact = (tw.line_slice(objective, num_points=9, population=p, seed=0) for p in (True, False))
    assert noisy.fold_losses is not None
    found = tw.persistence(noisy, num_draws=100)
    assert found.noise_band > 0
    assert "noise ± " in repr(found)
    assert "exact" not in repr(found)
    assert "exact losses" in repr(tw.persistence(exact))
    several = tw.line_slice(objective, num_points=9, num_directions=3, seed=0)
    with pytest.raises(ValueError, match=r"single slice, got the mean over 3 directions.*num_directions=1"):
        tw.persistence(several)


def test_components_lowest_at_the_edge_are_marked():
    """A saddle has no minimum, and its lowest points on a grid are two corners."""
    saddle = tw.persistence(of_function(lambda x, y: 5 + x * y, 9, 9))
    assert saddle.at_edge.tolist() == [True, True]
    assert saddle.num_significant_at_edge == 2
    assert "2 at its edge, perhaps no minimum" in repr(saddle)
    well = tw.persistence(of_function(lambda x, y: x**2 + y**2, 9, 9))
    assert well.at_edge.tolist() == [False]
    assert "edge" not in repr(well)
