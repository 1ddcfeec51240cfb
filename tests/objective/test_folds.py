"""Folds: disjoint, complete, and of whole batches where the batch matters."""

from __future__ import annotations

import pytest
import torch
from tests.networks import images, mlp, residual, vectors

from thalweg.objective.folds import random_folds
from thalweg.objective.objective import Objective


def losses_and_sizes(objective: Objective, num_folds: int, seed: int = 0) -> tuple[float, list[int]]:
    folds = random_folds(objective, num_folds, seed=seed)
    sizes = [f.num_examples for f in folds]
    return sum(f.value() * n for f, n in zip(folds, sizes, strict=True)) / sum(sizes), sizes


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_their_mean_is_the_objective(mode) -> None:
    objective = Objective(residual(), images(21), batch_norm=mode, batch_size=8)
    mean, sizes = losses_and_sizes(objective, 3)
    assert mean == pytest.approx(objective.value(), rel=1e-12)
    assert sorted(sizes) == ([5, 8, 8] if mode == "batch" else [7, 7, 7])
    for seed in range(6):  # whichever batches the short one is dealt out with
        mean, sizes = losses_and_sizes(objective, 2, seed)
        assert mean == pytest.approx(objective.value(), rel=1e-12)
        assert sorted(sizes) in ([[8, 13], [5, 16]] if mode == "batch" else [[10, 11]])


def test_they_are_random_and_follow_the_seed() -> None:
    objective = Objective(mlp(), vectors(21))
    first, again, other = (random_folds(objective, 3, seed=s)[0].value() for s in (0, 0, 1))
    assert first == again != other
    assert first != objective.select(torch.arange(7)).value()


def test_too_few_and_too_many() -> None:
    objective = Objective(residual(), images(21), batch_norm="batch", batch_size=8)
    with pytest.raises(ValueError, match="`num_folds` must lie between 2 and the 3 batches there are, got 4"):
        random_folds(objective, 4, seed=0)
    with pytest.raises(ValueError, match="between 2 and the 21 examples there are, got 1"):
        random_folds(Objective(mlp(), vectors(21)), 1, seed=0)
