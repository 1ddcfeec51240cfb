"""What slices of the loss by planes and volumes have in common: the result, and how it comes about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import stats
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag, check_fraction, is_number
from thalweg.core.array_store import Store
from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Progress, Work, part_of
from thalweg.core.rng import stream_seed
from thalweg.core.tolerance import Tolerance
from thalweg.objective.check_objective import check_objective
from thalweg.objective.evaluation import independent_unit
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import Directions, find_directions
from thalweg.solvers.grid_evaluation import GridLosses, evaluate_grid, grid_steps, symmetric_axis
from thalweg.solvers.row_table import Rows
from thalweg.solvers.surface import Surface
from thalweg.stats.clustered_mean import UnitMoments


@dataclass(frozen=True, kw_only=True, repr=False)
class GridSlice(Surface):
    """Loss and accuracy at ``params + sum_j step_j * direction_j``; `value` is the loss at the centre.

    D = number of directions; arrays are float64 on the CPU. Losses are those of `Objective.value`: with an L2
    term they contain it, and `penalties` is that part. A point whose loss is not finite is NaN in losses,
    accuracies and standard errors, and is never interpolated over.

    Parameters
    ----------
    losses, accuracies, penalties
        ``(*grid)``. Accuracies are NaN for losses without classes.
    loss_standard_errors
        ``(*grid)``: of `losses`. They are zero where all examples were taken, unless ``population=True``.
    rise_standard_errors
        ``(*grid)``: of the rise above the centre, ``losses - value``, by paired differences on the same
        examples; zero at the centre. The same as those of the losses without ``population=True``, since the
        centre is known on all examples.
    accuracy_standard_errors
        ``(*grid)``: of the gain over the centre's accuracy, likewise.
    dof
        Degrees of freedom of the standard errors; infinite where they are zero.
    evaluated
        ``(*grid)`` bool: the points evaluated. The others are interpolated: losses and `fold_losses` by
        cubics, accuracies and standard errors linearly.
    interpolation_errors
        ``(*grid)``: the largest difference between interpolated and evaluated losses that was seen in the
        cell: an estimate of the error there, no bound; zero where evaluated.
    num_examples
        Of the sample that points are compared on.
    num_example_losses
        Losses of single examples computed in all: the work.
    direction_names, direction_norms, direction_cosines
        D names; ``(D,)``, the Euclidean length of a step of one; ``(D, D)``.
    directions
        ``(P, D)``, in the dtype of the parameters.
    normalisation, ignore
        As asked.
    """

    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    loss_standard_errors: Tensor
    rise_standard_errors: Tensor
    accuracy_standard_errors: Tensor
    dof: float
    evaluated: Tensor
    interpolation_errors: Tensor
    num_examples: int
    num_example_losses: int
    direction_names: tuple[str, ...]
    direction_norms: Tensor
    direction_cosines: Tensor
    directions: Tensor
    normalisation: Any
    ignore: Any

    @property
    def heights(self) -> Tensor:
        """The losses."""
        return self.losses

    @property
    def num_points_saved(self) -> int:
        """Points that were interpolated and not evaluated."""
        return int((~self.evaluated).sum())

    def loss_interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Two-sided interval ``(*grid)`` at each point by itself: Student quantiles, and what interpolation
        may be off."""
        check_fraction("level", level, "0.95 is customary")
        quantile = float(stats.t.ppf(0.5 + level / 2, self.dof))
        half = quantile * self.loss_standard_errors + self.interpolation_errors
        return self.losses - half, self.losses + half


def slice_grid(
    objective: Objective,
    *,
    num_points: Sequence[int] | int,
    span: Sequence[float] | float,
    directions: Any,
    num_directions: int,
    normalisation: Any,
    ignore: Any,
    rtol: float | None,
    atol: float | None,
    population: bool,
    tolerance: float | tuple[float, float] | None,
    seed: int,
    store: Store | None,
    progress: Progress | None,
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """The axes of a slice in D dimensions, and the fields of `GridSlice`, the function left out."""
    check_objective("objective", objective)
    counts = _each("num_points", num_points, num_directions)
    spans = _each("span", span, num_directions)
    for count in counts:
        check_odd(count)
    for extent in spans:
        check_span(extent)
    check_flag("population", population)
    target = Tolerance.checked(("atol", atol), ("rtol", rtol))
    pair = tolerance if isinstance(tolerance, tuple | list) else (tolerance, None)
    if len(pair) != 2:
        raise ValueError(f"`tolerance` must be a number, a pair of numbers or None, got {tolerance!r}.")
    allowed = Tolerance.checked(("tolerance", pair[0]), ("tolerance[1]", pair[1]))
    stream_seed(seed)
    unit_size = independent_unit(objective, population)

    axes = tuple(symmetric_axis(n, float(extent)) for n, extent in zip(counts, spans, strict=True))
    # First, since a broken network is told by its batch; and it is the one point known on all examples.
    centre = objective.evaluate_points([(objective.params, objective.buffers)])
    found = find_directions(
        objective,
        directions,
        num_directions=num_directions if is_single(directions) else None,
        normalisation=normalisation,
        ignore=ignore,
        seed=seed,
        progress=part_of(progress, 0, 2) if needs_hessian(directions) else None,
    )
    if found.vectors.shape[1] != num_directions:
        raise ValueError(
            f"`directions` must be {num_directions}, or one kind for all, got {found.vectors.shape[1]}."
        )
    steps = grid_steps(axes)
    work = Work(part_of(progress, 1, 2) if needs_hessian(directions) else progress)
    work.add(1)
    rows = Rows(objective, centre, found, steps, len(steps) // 2, unit_size, store, work)
    grid = evaluate_grid(rows, axes, target=target, tolerance=allowed, population=bool(population), seed=seed)
    arrays = {f.name: getattr(grid, f.name) for f in fields(GridLosses) if f.name != "passes"}
    value = float(grid.losses.reshape(-1)[len(steps) // 2])
    error = ErrorBudget()
    if population:
        moments = UnitMoments.of(centre.example_losses[0].double().numpy(), unit_size)
        error = ErrorBudget(data=StandardError(float(moments.standard_error()), moments.num_units - 1))
    return axes, {
        "value": value,
        "error": error,
        "provenance": {
            "arguments": {
                "num_points": num_points,
                "span": span,
                "directions": described(directions, found),
                "normalisation": normalisation,
                "ignore": ignore,
                "rtol": rtol,
                "atol": atol,
                "population": population,
                "tolerance": tolerance,
                "seed": seed,
            },
            "objective": objective.describe(),
            "directions": found.description,
            "passes": grid.passes,
        },
        **arrays,
        "direction_names": found.names,
        "direction_norms": found.norms,
        "direction_cosines": found.cosines,
        "directions": found.vectors.detach().cpu(),
        "normalisation": normalisation,
        "ignore": ignore,
    }


def check_odd(num_points: Any) -> None:
    """Raise unless a symmetric axis of so many points has its centre on the grid."""
    check_count("num_points", num_points)
    if num_points < 3 or num_points % 2 == 0:
        raise ValueError(
            f"`num_points` must be odd and at least 3, so that the centre is on the grid, got {num_points}; "
            f"use {num_points + 1 if num_points > 2 else 3}."
        )


def check_span(span: Any) -> None:
    """Raise unless it is an extent."""
    if not is_number(span) or not 0 < span < math.inf:
        raise ValueError(f"`span` must be positive and finite, got {span}.")


def is_single(directions: Any) -> bool:
    """Whether it is one kind, which is taken for every direction."""
    if isinstance(directions, Tensor | np.ndarray):
        return directions.ndim == 1
    return isinstance(directions, str | Objective) or not isinstance(directions, Sequence)


def needs_hessian(directions: Any) -> bool:
    """Whether a direction is an eigenvector, which takes work of its own."""
    kinds = [directions] if isinstance(directions, str) else directions
    return isinstance(kinds, Sequence) and any(isinstance(k, str) and k in ("top", "bottom") for k in kinds)


def described(directions: Any, found: Directions) -> Any:
    """The argument in a JSON-safe form: names as they are; vectors, networks, trajectories by their hash."""
    if isinstance(directions, str):
        return directions
    entries = found.description["directions"]
    hashes = [next((e[k] for k in ("vector", "params", "trajectory") if k in e), e["kind"]) for e in entries]
    return hashes[0] if is_single(directions) else hashes


def _each(name: str, given: Any, num: int) -> tuple[Any, ...]:
    """One entry for each direction."""
    if not isinstance(given, tuple | list):
        return (given,) * num
    if len(given) != num:
        raise ValueError(f"`{name}` must be one number or {num}, one a direction, got {given!r}.")
    return tuple(given)
