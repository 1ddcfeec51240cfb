"""What slices of the loss by lines, planes and volumes have in common: the result, and how it comes about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag, check_fraction
from thalweg.core.array_store import Store
from thalweg.core.distributions import student_quantile
from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Progress, Work, part_of
from thalweg.core.rng import stream_seed
from thalweg.core.tolerance import Tolerance
from thalweg.measures.surfaces.slice_arguments import (
    check_spans,
    checked_counts,
    checked_tolerance,
    described,
    is_single,
    needs_hessian,
    points_of,
    spans_of,
    with_trajectory,
)
from thalweg.objective.check_objective import check_objective
from thalweg.objective.evaluation import independent_unit
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import check_store_for
from thalweg.solvers.directions import find_directions
from thalweg.solvers.grid_evaluation import GridLosses, evaluate_grid, grid_steps, symmetric_axis
from thalweg.solvers.projection import Projection, project
from thalweg.solvers.quadratic_agreement import QuadraticAgreement, agreement_or_reason
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
        ``(*grid)``: of `losses`. They are zero where all examples were taken, unless ``population=True``:
        the losses are then exactly those of the objective's own data.
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
        ``(*grid)``: twice the largest difference between interpolated and evaluated losses that was seen in
        the cell and around it, the tolerance at most: an estimate of the error there, no bound. On test
        surfaces it holds at 95 % of the points or more, the tolerance at 98 %. Zero where evaluated.
    num_examples
        Of the sample that points are compared on.
    num_example_losses
        Losses of single examples computed in all: the work, without that of `agreement`.
    direction_names, direction_norms, direction_cosines
        D names; ``(D,)``, the Euclidean length of a step of one; ``(D, D)``.
    directions
        ``(P, D)``, in the dtype of the parameters.
    normalisation, ignore
        As asked.
    agreement
        The curvature of the surface at its centre beside the Hessian's along the same directions, both on
        the examples that the points are compared on.
    no_agreement
        Why there is none, where one was asked for.
    trajectory
        The one given, as the slice sees it, and how far it lies off.
    """

    quantity: ClassVar[str] = "loss at the centre"

    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    loss_standard_errors: Tensor
    rise_standard_errors: Tensor
    accuracy_standard_errors: Tensor
    dof: float
    evaluated: Tensor
    num_examples: int
    num_example_losses: int
    direction_names: tuple[str, ...]
    direction_norms: Tensor
    direction_cosines: Tensor
    directions: Tensor
    normalisation: Any
    ignore: Any
    agreement: QuadraticAgreement | None = None
    no_agreement: str | None = None
    trajectory: Projection | None = None

    @property
    def heights(self) -> Tensor:
        """The losses."""
        return self.losses

    @property
    def num_points_saved(self) -> int:
        """Points that were interpolated and not evaluated."""
        return 0 if self.evaluated is None else int((~self.evaluated).sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a picture of the slice must say, a line each."""
        whole = self.provenance.get("objective", {}).get("num_examples", 0)
        taken, saved = self.num_examples or whole, self.num_points_saved
        found = [
            f"compared on {taken:,} of {whole:,} examples" if taken < whole else "",
            f"{saved:,} of {self.evaluated.numel():,} points interpolated, to about {self._missed:.2g}"
            if saved
            else "",
            self.agreement.summary if self.agreement else "",
            f"curvature at the centre not compared: {self.no_agreement}" if self.no_agreement else "",
            self.trajectory.summary if self.trajectory else "",
        ]
        return tuple(note for note in found if note)

    @property
    def _missed(self) -> float:
        """The largest error of interpolation, as it is estimated."""
        return math.nan if self.interpolation_errors is None else float(self.interpolation_errors.max())

    def _circumstances(self) -> list[str]:
        return [*self.notes, *super()._circumstances()]

    def loss_interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Two-sided interval ``(*grid)`` at each point by itself: Student quantiles, and what interpolation
        may be off."""
        check_fraction("level", level, "0.95 is customary")
        quantile = float(student_quantile(0.5 + level / 2, self.dof))
        half = quantile * self.loss_standard_errors
        if self.interpolation_errors is not None:
            half = half + self.interpolation_errors
        return self.losses - half, self.losses + half


def slice_grid(
    objective: Objective,
    *,
    num_points: Sequence[int] | int,
    span: Sequence[float] | float | str,
    directions: Any,
    num_axes: int,
    num_directions: int | None = None,
    normalisation: Any,
    ignore: Any,
    rtol: float | None,
    atol: float | None,
    population: bool,
    tolerance: float | tuple[float, float] | None,
    agreement: bool,
    trajectory: Any = None,
    seed: int,
    store: Store | None,
    progress: Progress | None,
) -> tuple[tuple[Tensor, ...], GridLosses, dict[str, Any]]:
    """The axes of a slice, what was evaluated, and the fields of `GridSlice`, the function left out.

    Along a single axis lie `num_directions`, each by itself; else every axis has its own.
    """
    check_objective("objective", objective)
    counts = checked_counts(num_points, num_axes)
    check_spans(span, num_axes, trajectory is not None)
    check_flag("population", population)
    check_flag("agreement", agreement)
    check_store_for(store, objective)
    target = Tolerance.checked(("atol", atol), ("rtol", rtol))
    allowed = checked_tolerance(tolerance)
    stream_seed(seed)
    unit_size = independent_unit(objective, population)
    apart = num_axes == 1
    if num_directions is not None:
        check_count("num_directions", num_directions)
    wanted = num_directions or num_axes
    kinds = directions
    if not apart:
        kinds, trajectory = with_trajectory(directions, trajectory, num_axes)
    stages = [needs_hessian(directions), True, bool(agreement)]

    def stage(number: int) -> Progress | None:
        return progress if sum(stages) == 1 else part_of(progress, sum(stages[:number]), sum(stages))

    # First, since a broken network is told by its batch; and it is the one point known on all examples.
    centre = objective.evaluate_points([(objective.params, objective.buffers)])
    found = find_directions(
        objective,
        kinds,
        num_directions=wanted if is_single(kinds) else None,
        normalisation=normalisation,
        ignore=ignore,
        orthogonalise=not apart,
        independent=not apart,
        seed=seed,
        progress=stage(0),
    )
    D = found.vectors.shape[1]
    if not apart and num_axes != D:
        raise ValueError(f"`directions` must be {num_axes}, or one kind for all, got {D}.")
    seen = None
    if trajectory is not None:
        seen = project(points_of(trajectory), objective.params, found.vectors, argument="trajectory")
    spans = spans_of(span, num_axes, seen, found.norms)
    axes = tuple(symmetric_axis(n, extent) for n, extent in zip(counts, spans, strict=True))
    # One line a direction: (A, D, D); or a point of the grid each: (R, 1, D).
    steps = axes[0][:, None, None] * torch.eye(D, dtype=torch.float64) if apart else grid_steps(axes)
    work = Work(stage(1))
    work.add(1)
    rows = Rows(objective, centre, found, steps, len(steps) // 2, unit_size, store, work)
    grid = evaluate_grid(rows, axes, target=target, tolerance=allowed, population=bool(population), seed=seed)
    compared, reason = None, None
    if agreement:
        compared, reason = agreement_or_reason(grid.sample(), found, mixed=not apart, progress=stage(2))

    error = ErrorBudget()
    if population:
        moments = UnitMoments.of(centre.example_losses[0].double().numpy(), unit_size)
        error = ErrorBudget(data=StandardError(float(moments.standard_error()), moments.num_units - 1))
    provenance = {
        "arguments": {
            "num_points": num_points,
            "span": span,
            **({} if num_directions is None else {"num_directions": num_directions}),
            "directions": described(directions, found),
            "normalisation": normalisation,
            "ignore": ignore,
            "rtol": rtol,
            "atol": atol,
            "population": population,
            "tolerance": tolerance,
            "agreement": bool(agreement),
            "seed": seed,
        },
        "objective": objective.describe(),
        "directions": found.description,
        "passes": grid.passes,
    }
    if seen is not None:
        provenance["trajectory"] = seen.provenance["arguments"]["points"]
    return (
        axes,
        grid,
        {
            "value": float(grid.losses.reshape(-1)[len(steps) // 2]),
            "error": error,
            "provenance": provenance,
            **{name: getattr(grid, name) for name in sorted(_names(GridLosses) & _names(GridSlice))},
            "direction_names": found.names,
            "direction_norms": found.norms,
            "direction_cosines": found.cosines,
            "directions": found.vectors.detach().cpu(),
            "normalisation": normalisation,
            "ignore": ignore,
            "agreement": compared,
            "no_agreement": reason,
            "trajectory": seen,
        },
    )


def _names(result: type) -> set[str]:
    return {f.name for f in fields(result)}
