"""Lines, curves and alignments that are killed and go on: the same bits, and nothing done twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.killed import files, killed, needs_kill
from tests.networks import images, residual
from tests.symmetric_networks import CASES

from thalweg.core.array_store import ArrayStore
from thalweg.core.errors import DataError, NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.connectivity import curve_training
from thalweg.measures.connectivity.bezier_path import bezier_path
from thalweg.measures.connectivity.linear_path import linear_path
from thalweg.measures.connectivity.permutation import align_permutation
from thalweg.objective import resuming
from thalweg.objective.objective import Objective
from thalweg.solvers import matching

TRAINED: dict[str, Any] = {
    "num_points": 5,
    "num_steps": 12,
    "batch_size": 8,
    "learning_rate": 0.02,
    "seed": 0,
}


def two(mode: Any = "recalibrated", **options: Any) -> list[Objective]:
    return [Objective(residual(s), images(21), batch_norm=mode, batch_size=8, **options) for s in (0, 1)]


@pytest.fixture
def every(monkeypatch) -> Callable[[int, Objective], None]:
    """Visit the store after so many steps, or after each point."""

    def choose(steps: int, a: Objective) -> None:
        flops = 3 * 8 / a.num_examples * resuming._flops(a)
        monkeypatch.setattr(resuming, "SECONDS", (steps + 0.5) * flops / resuming.RATE)
        assert resuming.steps_at_risk(a, 8) == steps

    return choose


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """Grows by one with each gradient from here on."""
    taken: list[int] = []
    original = curve_training.value_and_gradient

    def counting(objective):
        taken.append(1)
        return original(objective)

    monkeypatch.setattr(curve_training, "value_and_gradient", counting)
    return taken


def interrupted(measure: Callable[..., Measurement], at: int) -> None:
    """Call the measure until it has told of its progress so many times."""
    told = 0

    def stop(_done: int, _total: int) -> None:
        nonlocal told
        told += 1
        if told == at:
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        measure(progress=stop)


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
@pytest.mark.parametrize("at", [1, 4, 9, 13, 15])
def test_an_interrupted_curve_goes_on_to_the_same_bits(mode, at, every, steps, tmp_path) -> None:
    a, b = two(mode)
    every(3, a)
    expected = bezier_path(a, b, population=True, **TRAINED)
    call = partial(bezier_path, a, b, population=True, **TRAINED, store=ArrayStore(tmp_path))
    interrupted(call, at)
    steps.clear()
    assert call() == expected
    assert len(steps) == 12 - min(12, at // 3 * 3), "what was stored was not done again"


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["bezier", "polygon"])
def test_killed_again_and_again(kind, momentum, every, steps, tmp_path) -> None:
    a, b = two()
    every(1, a)
    arguments = {**TRAINED, "kind": kind, "num_bends": 3, "momentum": momentum}
    expected = bezier_path(a, b, **arguments)
    call = partial(bezier_path, a, b, **arguments, store=ArrayStore(tmp_path))
    steps.clear()
    for _ in range(6):
        interrupted(call, 2)  # the steps stored, and one more
    assert call() == expected
    assert len(steps) == 12


@pytest.mark.parametrize(
    "change",
    ["learning_rate", "momentum", "num_steps", "batch_size", "seed", "kind", "start", "ends", "data", "mode"],
)
def test_another_training_is_never_taken_for_it(change, every, steps, tmp_path) -> None:
    every(1, two()[0])
    store = ArrayStore(tmp_path)
    bezier_path(*two(), **TRAINED, store=store)
    a, b = two("batch" if change == "mode" else "recalibrated", weight_decay=0.1 * (change == "ends"))
    if change == "data":
        a, b = (
            Objective(residual(s), images(21, seed=5), batch_norm=a.batch_norm, batch_size=8) for s in (0, 1)
        )
    other: dict[str, Any] = {
        "learning_rate": 0.03,
        "momentum": 0.5,
        "num_steps": 11,
        "batch_size": 7,
        "seed": 1,
        "kind": "polygon",
    }
    arguments = {**TRAINED, **({change: other[change]} if change in other else {})}
    if change == "start":
        bend = torch.stack([a.params, a.params, b.params], 1)
        arguments["control_points"] = bend
    steps.clear()
    found = bezier_path(a, b, **arguments, store=store)
    assert len(steps) == arguments["num_steps"]
    assert found == bezier_path(a, b, **arguments)


def test_a_training_that_diverges_diverges_again(every, tmp_path) -> None:
    a, b = two("running")
    every(1, a)
    arguments = {**TRAINED, "learning_rate": 1e12, "num_steps": 40}
    for _ in range(2):
        with pytest.raises(NonFiniteLossError, match="diverged at step") as raised:
            bezier_path(a, b, **arguments, store=ArrayStore(tmp_path))
    with pytest.raises(NonFiniteLossError) as alone:
        bezier_path(a, b, **arguments)
    assert str(raised.value) == str(alone.value)


def test_a_damaged_file_is_named(tmp_path) -> None:
    store = ArrayStore(tmp_path)
    bezier_path(*two(), **TRAINED, store=store)
    for path in files(tmp_path):
        whole = path.read_bytes()
        path.write_bytes(whole[:-3])
        with pytest.raises(DataError, match=path.name):
            bezier_path(*two(), **TRAINED, store=store)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "measure", [linear_path, partial(bezier_path, seed=0), partial(align_permutation, seed=0)]
)
def test_what_is_no_store_is_refused(measure, tmp_path) -> None:
    with pytest.raises(
        TypeError, match=r"`store` must keep arrays by key, got str; .* tw.ArrayStore\(folder\)"
    ):
        measure(*two(), store=str(tmp_path))


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_an_interrupted_line_goes_on_to_the_same_bits(mode, monkeypatch, tmp_path) -> None:
    a, b = two(mode)
    monkeypatch.setattr(resuming, "SECONDS", 0.0)  # a point at a time
    expected = linear_path(a, b, num_points=7, population=True)
    call = partial(linear_path, a, b, num_points=7, population=True, store=ArrayStore(tmp_path))
    for kept in (1, 4, 6):
        interrupted(call, 1)
        told: list[int] = []

        def stop(done: int, _total: int, told: list[int] = told, kept: int = kept) -> None:
            told.append(done)
            if done == kept + 1 and told.count(done) == 2:
                raise KeyboardInterrupt("stop")

        with pytest.raises(KeyboardInterrupt, match="stop"):
            call(progress=stop)
        assert len(files(tmp_path)) == kept
    before = files(tmp_path)
    assert call() == expected
    after = files(tmp_path)
    assert {path: after[path] for path in before} == before
    assert len(after) == 7
    assert call() == expected
    # Other ends, other points: nothing of it is taken.
    assert linear_path(b, a, num_points=7, store=ArrayStore(tmp_path)) == linear_path(b, a, num_points=7)
    assert len(files(tmp_path)) == 14


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_an_interrupted_alignment_keeps_its_runs(method, monkeypatch, tmp_path) -> None:
    a, b = (Objective(CASES["separate"].model(), CASES["separate"].data()) for _ in range(2))
    b = b.at(
        b.params + 0.1 * torch.randn(len(b.params), generator=torch.Generator().manual_seed(1), dtype=b.dtype)
    )
    expected = align_permutation(a, b, method=method, num_restarts=6, seed=0)
    runs: list[int] = []
    original = matching.ascend

    def counting(*args):
        runs.append(1)
        return original(*args)

    monkeypatch.setattr(matching, "ascend", counting)
    call = partial(align_permutation, a, b, method=method, seed=0, store=ArrayStore(tmp_path))
    extra = 0 if method == "weights" else 1  # the correlations
    call(num_restarts=2)
    assert len(runs) == len(files(tmp_path)) - extra == 2
    interrupted(partial(call, num_restarts=6), 3 if method == "weights" else 4)
    assert len(runs) == len(files(tmp_path)) - extra
    assert 2 < len(runs) < 6
    found = call(num_restarts=6)
    assert found == expected
    assert torch.equal(found.objective.params, expected.objective.params)
    assert len(runs) == 6
    align_permutation(a, b, method=method, num_restarts=1, seed=1, store=ArrayStore(tmp_path))
    align_permutation(b, a, method=method, num_restarts=1, seed=0, store=ArrayStore(tmp_path))
    assert len(runs) == 8, "another seed and another pair are others"


SCRIPT = """
import time, torch
import thalweg as tw
from tests.measures.connectivity.test_path_resume import TRAINED, two
from thalweg.objective import resuming
torch.set_num_threads(1)
resuming.SECONDS = 0.0
store = tw.ArrayStore({folder!r})
tw.bezier_path(*two(), **TRAINED, store=store, progress=lambda done, total: time.sleep(0.05))
"""


@needs_kill
@pytest.mark.parametrize("at", ["early", "late", "evaluating"])
def test_a_killed_process_goes_on_to_the_same_bits(at, monkeypatch, tmp_path) -> None:
    """kill -9 in the middle of training, or of the points that are evaluated after it."""
    store = ArrayStore(tmp_path)

    def is_time() -> bool:
        (name,) = found if len(found := list(files(tmp_path))) == 1 else [None]
        if at == "evaluating":
            return len(found) >= 3
        state = store.get(name.stem) if name else None
        return state is not None and len(state["losses"]) >= (2 if at == "early" else 9)

    killed(["-c", SCRIPT.format(folder=str(tmp_path))], is_time)
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = bezier_path(*two(), **TRAINED)
        assert bezier_path(*two(), **TRAINED, store=store) == expected
    finally:
        torch.set_num_threads(threads)
