"""The losses on a rectangular grid about a point: all of it, or where needed and interpolated between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.core.tolerance import Tolerance
from thalweg.objective.objective import Objective
from thalweg.solvers.adaptive_grid import coarse_points, filled, refine
from thalweg.solvers.paired_rows import PairedRows
from thalweg.solvers.row_table import Array, Rows


@dataclass(frozen=True)
class GridLosses:
    """What the grid holds, each ``(*grid)`` float64 but for `fold_losses` ``(F, *grid)``; see `GridSlice`.

    Where a row is a mean over M points, `losses`, `accuracies` and `penalties` are those means, and
    `point_losses` and `point_accuracies` ``(M, *grid)`` are what they are of. `sample` makes the objective on
    the examples that the points were compared on.
    """

    point_losses: Tensor
    point_accuracies: Tensor
    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    loss_standard_errors: Tensor
    rise_standard_errors: Tensor
    accuracy_standard_errors: Tensor
    interpolation_errors: Tensor
    evaluated: Tensor
    fold_losses: Tensor | None
    fold_sizes: Tensor | None
    dof: float
    num_examples: int
    num_example_losses: int
    passes: str
    sample: Callable[[], Objective]


def symmetric_axis(num_points: int, span: float) -> Tensor:
    """``(num_points,)`` float64 from -span to span, about an exact zero."""
    half = num_points // 2
    return (torch.arange(num_points, dtype=torch.float64) - half) / half * span


def grid_steps(axes: Sequence[Tensor]) -> Tensor:
    """``(R, 1, D)`` float64: the steps along the D directions at each point of the grid, in its order."""
    return torch.stack([t.reshape(-1) for t in torch.meshgrid(*axes, indexing="ij")], dim=-1)[:, None]


def pilot_points(shape: Sequence[int]) -> list[int]:
    """The few points of a grid whose spread decides how many examples are taken: its coarsest level."""
    return coarse_points(shape)


def evaluate_grid(
    rows: Rows,
    axes: Sequence[Tensor],
    *,
    target: Tolerance | None,
    tolerance: Tolerance | None,
    population: bool,
    seed: int,
) -> GridLosses:
    """Evaluate the grid of `axes`, whose points are the `rows` in its order.

    Parameters
    ----------
    target
        Largest standard error of a loss; ``None`` takes all examples.
    tolerance
        Largest error of interpolation, as it is estimated; ``None`` evaluates every point.
    """
    shape = tuple(map(len, axes))
    coordinates = [axis.numpy() for axis in axes]
    paired = PairedRows(rows, target=target, population=population, pilot=pilot_points(shape), seed=seed)

    def heights(flat: list[int]) -> Array:
        paired.evaluate(flat)
        found = paired.heights()[flat].T
        return np.where(np.isfinite(found), found, np.nan)

    errors = np.zeros(shape)
    while True:
        if tolerance is None:
            heights(list(range(len(rows.steps))))
        else:
            errors = refine(heights, coordinates, tolerance).errors
        if not paired.grow():
            break
    rows.work.finish()
    found, evaluated = paired.result(), paired.evaluated.reshape(shape)
    # With a larger sample fewer points may be called for; those evaluated before are known all the same.
    errors = np.where(evaluated, 0.0, errors)

    def on_grid(values: Tensor, order: int = 3) -> Tensor:
        values = values.reshape(*values.shape[:-1], *shape).contiguous()
        if tolerance is None:
            return values
        return torch.from_numpy(filled(values.numpy(), evaluated, coordinates, order))

    totals = (found.losses + found.penalties).T  # (M, R)
    losses = on_grid(totals.where(totals.isfinite(), math.nan))
    accuracies = on_grid(found.accuracies.T, order=1).where(losses.isfinite(), math.nan)

    def mean(values: Tensor) -> Tensor:
        # That of M equal numbers may miss them by a rounding; the centre is exact.
        means, centre = values.mean(0), rows.centre_row
        means.view(-1)[centre] = values.reshape(len(values), -1)[0, centre]
        return means

    surface, fold_losses = mean(losses), None
    if found.fold_deviations is not None:
        fold_losses = surface + on_grid(found.fold_deviations)
    return GridLosses(
        point_losses=losses,
        point_accuracies=accuracies,
        losses=surface,
        accuracies=mean(accuracies),
        penalties=mean(on_grid(found.penalties.T)),  # quadratic, so that the cubic is exact
        # Linear, lest a standard error turn negative between its neighbours.
        loss_standard_errors=on_grid(found.loss_errors, order=1),
        rise_standard_errors=on_grid(found.rise_errors, order=1),
        accuracy_standard_errors=on_grid(found.accuracy_errors, order=1),
        interpolation_errors=torch.from_numpy(errors),
        evaluated=torch.from_numpy(evaluated.copy()),
        fold_losses=fold_losses,
        fold_sizes=found.fold_sizes,
        dof=found.dof,
        num_examples=found.num_examples,
        num_example_losses=found.num_example_losses,
        passes=found.passes,
        sample=paired.sample,
    )
