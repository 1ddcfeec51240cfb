"""What slices of one, two and three dimensions share: heights on a rectangular grid of parameter space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from thalweg.core.measurement import Measurement


@dataclass(frozen=True, kw_only=True, repr=False)
class Surface(Measurement, ABC):
    """Losses on a grid.

    A point whose loss is not finite is NaN. Where the losses come from a sample of the examples,
    `fold_losses` says how they would vary with it.

    Parameters
    ----------
    fold_losses
        ``(F, *grid)`` float64: the surface by each of F disjoint random parts of the sample, the same
        examples at every point, so that points can be resampled jointly: draw F of the parts with
        replacement, and average them with their sizes as weights. The mean over all of them is `heights`.
        They are scaled so that this gives the right spread: with the finite-population correction where the
        surface is about the objective's own examples, of which the sample is a part; and without what all
        points have in common where the centre is known exactly. ``None`` where the losses are exact.
    fold_sizes
        ``(F,)`` int64: examples of each part. ``None`` likewise.
    interpolation_errors
        ``(*grid)`` float64: estimated error of points that were interpolated, zero at others. ``None`` where
        all were evaluated.
    """

    fold_losses: Tensor | None = None
    fold_sizes: Tensor | None = None
    interpolation_errors: Tensor | None = None

    @property
    def num_averaged(self) -> int:
        """Slices whose mean the heights are."""
        return 1

    @property
    @abstractmethod
    def axes(self) -> tuple[Tensor, ...]:
        """Coordinates along each dimension, float64, ascending."""

    @property
    @abstractmethod
    def heights(self) -> Tensor:
        """Losses on the grid, float64, shape ``(len(axes[0]), ...)``."""
