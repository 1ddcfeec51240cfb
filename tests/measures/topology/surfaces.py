"""Surfaces given by their heights, and functions whose minima, saddles and loops are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.objective.folds import random_folds
from thalweg.objective.objective import Objective
from thalweg.solvers.surface import Surface


@dataclass(frozen=True, kw_only=True, repr=False)
class GivenSurface(Surface):
    """Whatever heights a test wants."""

    value: float = 0.0
    coordinates: tuple[Tensor, ...]
    losses: Tensor

    @property
    def axes(self) -> tuple[Tensor, ...]:
        return self.coordinates

    @property
    def heights(self) -> Tensor:
        return self.losses


def surface(losses: Tensor, *axes: Tensor, **kwargs: Any) -> GivenSurface:
    """A surface; coordinates are 0, 1, 2, ... unless given."""
    axes = axes or tuple(torch.arange(float(n), dtype=torch.float64) for n in losses.shape)
    return GivenSurface(coordinates=axes, losses=losses, **kwargs)


def surface_of(objective: Objective) -> GivenSurface:
    """A plane of 5 by 3 points through an objective, by three folds of its examples."""
    axes = (
        torch.linspace(-0.4, 0.4, 5, dtype=torch.float64),
        torch.linspace(-0.2, 0.2, 3, dtype=torch.float64),
    )
    ones = torch.ones_like(objective.params)
    along = ones, torch.where(torch.arange(len(ones), device=ones.device) % 2 == 0, ones, -ones)
    points = [(objective.params + a * along[0] + b * along[1], None) for a in axes[0] for b in axes[1]]
    folds = random_folds(objective, 3, seed=0)
    losses = torch.stack([fold.evaluate_points(points).losses.view(5, 3) for fold in folds])
    sizes = torch.tensor([fold.num_examples for fold in folds])
    mean = torch.einsum("f,fab->ab", sizes / sizes.double().sum(), losses)
    made_by = {"objective": objective.describe(), "arguments": {}}
    return surface(mean, *axes, fold_losses=losses, fold_sizes=sizes, provenance=made_by)


def of_function(f: Callable[..., Tensor], *counts: int, span: float = 1.5) -> GivenSurface:
    """f on the grid from -span to span, with so many points along each axis."""
    axes = tuple(torch.linspace(-span, span, n, dtype=torch.float64) for n in counts)
    return surface(f(*torch.meshgrid(*axes, indexing="ij")), *axes)


def with_noise(
    base: GivenSurface, scale: float, num_folds: int = 8, num_examples: int = 160, seed: int = 0
) -> GivenSurface:
    """The same from a sample of examples: each adds a random smooth field of its own, of mean nought."""
    rng = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(*base.axes, indexing="ij"))  # (D, *grid)
    num_waves = 6
    waves = 3.0 * torch.randn(num_waves, len(grid), generator=rng, dtype=torch.float64)
    angles = 2 * torch.pi * torch.rand(num_waves, generator=rng, dtype=torch.float64)
    fields = torch.cos(torch.einsum("wd,d...->w...", waves, grid) + angles.view(-1, *[1] * len(grid)))
    size = num_examples // num_folds
    # Of a fold's mean only the mean of its examples' amplitudes matters.
    amplitudes = torch.randn(num_folds, size, num_waves, generator=rng, dtype=torch.float64).mean(1)
    folds = base.losses + scale * torch.einsum("fw,w...->f...", amplitudes, fields)
    return surface(folds.mean(0), *base.axes, fold_losses=folds, fold_sizes=torch.full((num_folds,), size))


def bowl(*x: Tensor) -> Tensor:
    """One minimum, nothing else."""
    return sum((i + 1.0) * t.square() for i, t in enumerate(x))  # type: ignore[return-value]


def double_well(*x: Tensor) -> Tensor:
    """Minima near 0 and 0.2 at -1 and 1 on the first axis, and a saddle of height 1.1 near 0."""
    return (x[0].square() - 1).square() + 0.1 * (x[0] + 1) + 2.0 * sum(t.square() for t in x[1:])


def ring(x: Tensor, y: Tensor) -> Tensor:
    """A valley around a hill of height 1, a little lower on the right."""
    return (x.square() + y.square() - 1).square() - 0.05 * x
