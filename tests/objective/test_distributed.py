"""One objective over several processes is the objective on one: gloo ranks against one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.objective import on_ranks
from tests.objective.on_ranks import CASES, LENGTHS, PRECISIONS, Found, found_of, make
from torch import Tensor

import thalweg as tw

# Of three ranks, none has half of anything; two differ in no line of code.
SIZES = (pytest.param(2, marks=pytest.mark.slow), 3)

# Sums in another order, divided by the largest entry; the precision of results in single precision.
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-5}


@pytest.fixture(scope="module", params=SIZES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    """What each rank found of every case."""
    folder, size = tmp_path_factory.mktemp("ranks"), request.param
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-W", "error::UserWarning", on_ranks.__file__]
    started = [
        subprocess.Popen(
            [*program, str(rank), str(size), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        texts = [process.communicate(timeout=3000)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * size, "\n".join(texts)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Found]:
    """The same by one process."""
    torch.set_num_threads(1)
    return found_of(lambda objective: objective)


def assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    """Equal to rounding, by the size of the largest entry."""
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    if not found.is_floating_point():
        assert torch.equal(found, expected), name
        return
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= ROUNDING[found.dtype] * scale, name


def test_every_rank_has_the_same_bits(ranks: list[dict[str, Found]]) -> None:
    for case in CASES:
        for name, tensor in ranks[0][case.__name__].items():
            assert all(torch.equal(tensor, other[case.__name__][name]) for other in ranks), name


def test_they_are_those_of_one_process_to_rounding(
    ranks: list[dict[str, Found]], alone: dict[str, Found]
) -> None:
    for case, expected in alone.items():
        assert set(ranks[0][case]) == set(expected)
        for name in set(expected) - {"messages"}:
            assert_close(ranks[0][case][name], expected[name], f"{case}: {name}")


def test_a_product_is_one_message_and_counts_all_examples(ranks: list[dict[str, Found]]) -> None:
    assert [int(found["products"]["messages"]) for found in ranks] == [1] * len(ranks)
    assert [int(found["products"]["counted"]) for found in ranks] == [21 * 3] * len(ranks)


def test_rows_keep_the_order_of_the_data_and_sums_their_dtype(ranks: list[dict[str, Found]]) -> None:
    found = ranks[-1]["reductions"]
    assert torch.equal(found["order"], torch.arange(21))
    assert torch.equal(found["first"], on_ranks.images(21)[0])
    assert all(found[f"{n}.{d}"].dtype == d for n in LENGTHS for d in PRECISIONS)


def test_an_error_on_one_rank_is_that_of_one_process_on_all(
    ranks: list[dict[str, Found]], tmp_path: Path
) -> None:
    here = on_ranks.troubles(lambda objective: objective, tmp_path)
    for name in ("value", "gradient", "product", "measure", "not a tensor"):
        assert [found["troubles"][name] for found in ranks] == [here[name]] * len(ranks), name
    assert "example 20, in the batch of examples 20 to 20, has loss nan" in here["value"]
    # Its class cannot be rebuilt elsewhere.
    assert [found["troubles"]["odd"] for found in ranks] == ["RuntimeError: OddError: 1 and 2"] * len(ranks)


def test_ranks_that_go_apart_are_told_so_and_can_go_on(ranks: list[dict[str, Found]]) -> None:
    for name, what in {
        "structure": "the form of the result",
        "point": "the point",
        "columns": "what is evaluated or multiplied",
        "examples": "the examples",
    }.items():
        told = {found["troubles"][name] for found in ranks}
        assert len(told) == 1, name
        words = f"the {len(ranks)} ranks no longer compute the same, but differ in {what}"
        assert f"NondeterminismError: {words}" in told.pop()
    for found in ranks:
        text = found["troubles"]["objective"]
        assert "ValueError: distributed() needs the same objective on every rank, but ranks 0 and 1" in text
        assert "differ in data: " in text
        assert "`store` keeps what one process evaluates; leave it out" in found["troubles"]["store"]
        for name in ("nested", "nested in another"):
            assert "RuntimeError: a pass over the data began within another" in found["troubles"][name]
    last = torch.tensor(make("recalibrated").value())
    for found in ranks:
        assert_close(found["troubles"]["afterwards"], last, "afterwards")


def test_without_a_group_there_is_nothing_to_share():
    with pytest.raises(ValueError, match=r"distributed\(\) needs a process group, and there is none; start"):
        make().distributed()


def test_how_many_ranks_there_are_is_not_in_the_provenance(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        one = make()
        shared = one.distributed()
        assert shared.describe() == one.describe()
        found, expected = (tw.hessian_trace(o, rtol=0.3, seed=0) for o in (shared, one))
        assert found.to_dict() == expected.to_dict()  # one rank adds up in the same order
    finally:
        torch.distributed.destroy_process_group()
