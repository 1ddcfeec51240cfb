"""What batches are drawn, and that their mean has the covariance that is said."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from thalweg.core.rng import generator
from thalweg.measures.dynamics.batch_draws import BatchDraws

N, B = 12, 4


def drawn(draws: BatchDraws, steps: int) -> torch.Tensor:
    """``(steps, b)``."""
    return torch.stack(list(itertools.islice(draws(generator(0, "draws")), steps)))


@pytest.mark.parametrize("sampling", ["replacement", "without_replacement", "epochs"])
def test_covariance_of_steps(sampling: str) -> None:
    draws = BatchDraws(N, B, sampling=sampling)  # type: ignore[arg-type]
    g = torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
    g -= g.mean()
    steps = 12_000
    noise = g[drawn(draws, steps)].mean(1)
    expected = float(g.square().mean()) * draws.variance_factor
    squares = noise.square()
    assert abs(float(squares.mean()) - expected) < 4 * float(squares.std()) / math.sqrt(steps)
    epochs = noise.view(-1, 3)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        products = epochs[:, i] * epochs[:, j]
        expected_product = draws.correlation * expected
        assert abs(float(products.mean()) - expected_product) < 4 * float(products.std()) / math.sqrt(
            steps / 3
        )
    assert (sampling == "epochs") == (draws.correlation == pytest.approx(-1 / 2))


def test_an_epoch_takes_each_example_once_and_leaves_what_fills_no_batch() -> None:
    first = drawn(BatchDraws(14, B, sampling="epochs"), 6).view(2, -1)
    for epoch in first:
        assert len(set(epoch.tolist())) == 12
    assert set(first.flatten().tolist()) == set(range(14))  # other ones are left out in each
    once = drawn(BatchDraws(14, B, sampling="without_replacement"), 50)
    assert all(len(set(row.tolist())) == B for row in once)
    assert len(set(drawn(BatchDraws(14, 14), 1)[0].tolist())) < 14


def test_whole_batches_by_their_examples() -> None:
    draws = BatchDraws(21, 8, in_batches=True)
    assert (draws.num_units, draws.num_drawn, draws.num_steps, draws.variance_factor) == (3, 1, 3, 1)
    taken = [tuple(index.tolist()) for index in itertools.islice(draws(generator(0)), 4200)]
    counts = [taken.count(tuple(range(i, min(i + 8, 21)))) for i in (0, 8, 16)]
    assert sum(counts) == 4200
    for count, size in zip(counts, (8, 8, 5), strict=True):
        assert abs(count - 200 * size) < 4 * math.sqrt(4200 * 0.25)
    assert {len(index) for index in itertools.islice(BatchDraws(16, 8, True, "epochs")(generator(0)), 6)} == {
        8
    }
    with pytest.raises(ValueError, match=r"`sampling` must be 'replacement' .* last batch .* has 5 examples"):
        BatchDraws(21, 8, True, "epochs")


def test_all_examples_without_replacement_are_no_noise() -> None:
    for sampling in ("without_replacement", "epochs"):
        whole = BatchDraws(N, N, sampling=sampling)  # type: ignore[arg-type]
        single = BatchDraws(1, 1, sampling=sampling)  # type: ignore[arg-type]
        one_batch = BatchDraws(N, N, True, sampling)  # type: ignore[arg-type]
        for draws in (whole, single, one_batch):
            assert draws.variance_factor == 0
            assert draws.correlation == 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`sampling` must be one of replacement, .* did you mean 'epochs'"):
        BatchDraws(N, B, sampling="epoch")  # type: ignore[arg-type]
