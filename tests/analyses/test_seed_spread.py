"""`seed_spread`: the mean of calls anyone could make, with Student's interval."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from tests.networks import mlp, vectors

from thalweg.analyses.seed_spread import seed_spread
from thalweg.core.array_store import ArrayStore
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.rng import generator, normal, stream_seed
from thalweg.measures.connectivity.bezier_path import BezierPath, bezier_path
from thalweg.measures.connectivity.linear_path import linear_path
from thalweg.measures.sharpness.average_sharpness import average_sharpness
from thalweg.objective.objective import Objective


@pytest.fixture
def ends() -> list[Objective]:
    return [Objective(mlp(s), vectors(21), batch_size=8) for s in (0, 1)]


def test_it_is_the_mean_of_the_calls(ends) -> None:
    arguments = {"num_steps": 20, "num_points": 5, "population": True}
    found = seed_spread(bezier_path, *ends, num_seeds=4, seed=3, **arguments)
    seeds = [stream_seed(3, "repeat", i) for i in range(4)]
    each = [bezier_path(*ends, seed=s, **arguments) for s in seeds]
    assert found.seeds == tuple(seeds)
    assert found.results == tuple(each)
    values = np.array([path.barrier for path in each])
    assert found.values.tolist() == values.tolist()
    assert found.value == pytest.approx(values.mean())
    assert found.error.probe.value == pytest.approx(values.std(ddof=1) / 2)
    assert found.error.probe.dof == 3
    assert found.error.grid == pytest.approx(np.mean([path.error.grid for path in each]))
    assert found.error.solver is None
    assert found.error.data.value == pytest.approx(np.mean([path.error.data.value for path in each]))
    assert found.error.data.dof == 20
    assert isinstance(found.lowest, BezierPath)
    assert found.lowest.barrier == values.min()
    fewer = seed_spread(bezier_path, *ends, num_seeds=2, seed=3, **arguments)
    assert fewer.results == tuple(each[:2])


def test_records_and_progress(ends) -> None:
    calls: list[tuple[int, int]] = []
    found = seed_spread(
        average_sharpness,
        ends[0],
        num_samples=3,
        num_seeds=2,
        seed=0,
        progress=lambda *c, calls=calls: calls.append(c),
    )
    assert calls[-1][0] == calls[-1][1]
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    arguments = found.provenance["arguments"]
    assert (arguments["measure"], arguments["num_seeds"], arguments["seed"]) == ("average_sharpness", 2, 0)
    assert arguments["num_samples"] == 3
    assert found.provenance["objective"] == ends[0].describe()
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert back == found


@dataclass(frozen=True, kw_only=True)
class Draw(Measurement):
    """A number drawn with the seed."""

    measure: ClassVar[str] = "draw"


def draw(seed: int, progress=None, solver: float | None = None, data: float | None = None) -> Draw:
    value = float(normal(generator(seed, "draw"), 1, like=torch.zeros(1, dtype=torch.float64)))
    return Draw(value=5 + value, error=ErrorBudget(solver, None, data and StandardError(data, 9)))


def test_intervals_cover_the_mean_over_all_seeds() -> None:
    found = [seed_spread(draw, num_seeds=3, seed=s) for s in range(2000)]
    covered = np.mean([low < 5 < high for low, high in (f.interval(0.95) for f in found)])
    assert abs(covered - 0.95) < 0.015
    assert found[0].error.probe.half_width(0.95) == pytest.approx(
        stats.t.ppf(0.975, 2) * float(found[0].values.std()) / math.sqrt(3)
    )


def test_errors_that_all_repeats_share_are_kept() -> None:
    assert seed_spread(draw, num_seeds=2, seed=0).error.solver is None
    found = seed_spread(draw, num_seeds=2, seed=0, solver=0.25, data=0.5)
    assert found.error.solver == 0.25
    assert found.error.data == StandardError(0.5, 9)


def test_one_seed_shows_no_spread(ends) -> None:
    with pytest.raises(ValueError, match="`num_seeds` must be a whole number of at least 2, got 1"):
        seed_spread(bezier_path, *ends, num_seeds=1, seed=0)
    with pytest.raises(TypeError, match=r"`measure` must be a function that takes a `seed`.*got linear_path"):
        seed_spread(linear_path, *ends, seed=0)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        seed_spread(bezier_path, *ends, seed=None)


@pytest.mark.parametrize("at", [1, 3])
def test_a_killed_spread_goes_on_to_the_same_bits(ends, at, tmp_path) -> None:
    """Of a measure without a store the results are kept, of one with its own it is that."""
    for measure, given, arguments in (
        (average_sharpness, ends[:1], {"num_samples": 3}),
        (bezier_path, ends, {"num_steps": 5, "num_points": 5}),
    ):
        store = ArrayStore(tmp_path / measure.__name__)
        expected = seed_spread(measure, *given, num_seeds=4, seed=3, **arguments)
        begun: list[int] = []

        def counted(*objectives, begun=begun, measure=measure, **kwargs):
            begun.append(1)
            if len(begun) > at:
                raise KeyboardInterrupt("stop")
            return measure(*objectives, **kwargs)

        counted = functools.wraps(measure)(counted)  # the same signature and source, as far as keys go
        with pytest.raises(KeyboardInterrupt, match="stop"):
            seed_spread(counted, *given, num_seeds=4, seed=3, store=store, **arguments)
        num_kept = len(list(store.folder.iterdir()))
        assert num_kept == (at if measure is average_sharpness else 2 * at)
        calls: list[tuple[int, int]] = []
        found = seed_spread(
            measure,
            *given,
            num_seeds=4,
            seed=3,
            store=store,
            progress=lambda *c, calls=calls: calls.append(c),
            **arguments,
        )
        assert found == expected
        assert found.results == expected.results
        assert calls[-1][0] == calls[-1][1]
        assert len(list(store.folder.iterdir())) == num_kept * 4 // at


def test_another_call_is_never_taken_for_it(ends, tmp_path) -> None:
    store, (a, b) = ArrayStore(tmp_path), ends
    arguments = {"num_samples": 3, "num_seeds": 2, "seed": 3}
    first = seed_spread(average_sharpness, a, store=store, **arguments)
    for objective, more in (
        (b, {}),
        (a.subset(12), {}),
        (a, {"num_samples": 4}),
        (a, {"seed": 4}),
        (a, {"radius": 0.1}),
    ):
        before = len(list(tmp_path.iterdir()))
        found = seed_spread(average_sharpness, objective, store=store, **{**arguments, **more})
        assert len(list(tmp_path.iterdir())) == before + 2
        assert found == seed_spread(average_sharpness, objective, **{**arguments, **more}) != first
    with pytest.raises(
        TypeError, match="`solver` must be made of numbers, texts and tensors where a `store`"
    ):
        seed_spread(draw, num_seeds=2, seed=0, solver=object(), store=store)
    with pytest.raises(TypeError, match="`store` must keep arrays by key"):
        seed_spread(draw, num_seeds=2, seed=0, store="folder")
