"""The loss along straight lines through a point, random ones mostly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.array_store import Store
from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Progress, Work, part_of
from thalweg.core.rng import stream_seed
from thalweg.core.tolerance import Tolerance
from thalweg.measures.surfaces.grid_slice import (
    check_odd,
    check_span,
    described,
    is_single,
    needs_hessian,
)
from thalweg.objective.check_objective import check_objective
from thalweg.objective.evaluation import independent_unit
from thalweg.objective.objective import Objective
from thalweg.solvers.adaptive_grid import coarse_points
from thalweg.solvers.direction_sources import Kind
from thalweg.solvers.directions import find_directions
from thalweg.solvers.grid_evaluation import symmetric_axis
from thalweg.solvers.normalisation import Ignored, Normalisation, check_choices
from thalweg.solvers.paired_rows import PairedRows
from thalweg.solvers.row_table import Rows
from thalweg.solvers.surface import Surface


@dataclass(frozen=True, kw_only=True, repr=False)
class LineSlice(Surface):
    """Loss and accuracy at ``params + alpha * direction``; `value` is the loss at the centre.

    A = number of points, D = number of directions; arrays are float64 on the CPU. Losses are those of
    `Objective.value`: with an L2 term they contain it, and `penalties` is that part. A point whose loss is
    not finite is NaN in losses, accuracies and standard errors, and in means over directions, which would
    else be over fewer.

    Parameters
    ----------
    alphas
        ``(A,)``, symmetric about an exact zero: in multiples of each filter's norm under ``"filter"``, in
        distance in parameter space under ``"raw"``.
    losses, accuracies, penalties
        ``(A,)``, means over the directions. Accuracies are NaN for losses without classes.
    losses_by_direction, accuracies_by_direction
        ``(D, A)``: the band.
    loss_standard_errors
        ``(A,)``: of `losses`, from having a sample of the examples, the directions being fixed. Zero where
        all examples were taken, unless ``population=True``: then the losses are exactly those of the
        objective's own data.
    rise_standard_errors
        ``(A,)``: of the rise above the centre, ``losses - value``, by paired differences on the same
        examples; zero at the centre, and far below `loss_standard_errors` near it.
    direction_norms
        ``(D,)``: Euclidean length of a step of one.
    normalisation, ignore
        As asked.
    num_directions
        D.
    direction_names
        D names.
    dof
        Degrees of freedom of the standard errors; infinite where they are zero.
    num_examples
        Of the sample that points are compared on.
    """

    measure: ClassVar[str] = "line_slice"

    alphas: Tensor
    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    losses_by_direction: Tensor
    accuracies_by_direction: Tensor
    loss_standard_errors: Tensor
    rise_standard_errors: Tensor
    direction_norms: Tensor
    normalisation: Any
    ignore: Any
    num_directions: int
    direction_names: tuple[str, ...] = ()
    dof: float = math.inf
    num_examples: int | None = None

    @property
    def axes(self) -> tuple[Tensor]:
        """`alphas`."""
        return (self.alphas,)

    @property
    def heights(self) -> Tensor:
        """`losses`, the means over the directions."""
        return self.losses


def line_slice(
    objective: Objective,
    *,
    num_points: int = 41,
    span: float = 1.0,
    num_directions: int = 1,
    directions: Kind | Sequence[Kind] = "random",
    normalisation: Normalisation | Sequence[Normalisation] = "filter",
    ignore: Ignored | Sequence[Ignored] = "bias_and_norm",
    rtol: float | None = None,
    atol: float | None = None,
    population: bool = False,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> LineSlice:
    r"""Evaluate :math:`L(\theta + \alpha d_j)` on a symmetric grid, for D directions, each by itself.

    All points are evaluated on the same examples. In ``"recalibrated"`` mode each point has its own exact
    statistics; in ``"running"`` mode all share the centre's, unless a direction leads to a network. With a
    target, `rtol` or `atol`, they are a common subset: see `plane_slice`.

    Parameters
    ----------
    objective
        The point is the centre.
    num_points
        A, odd, so that the centre is on the grid and equals ``objective.value()`` to the bit.
    span
        The grid runs from ``-span`` to ``span``, in the unit the normalisation sets.
    num_directions
        D, with one kind of direction. The first D random directions of a seed are the same whatever D.
    directions
        One kind, or a sequence of them, D; see `find_directions`. They are not made orthogonal.
    normalisation, ignore
        How random directions are scaled and what they leave alone; see `random_direction`.
    rtol, atol
        Largest standard error of each mean over the directions: ``max(atol, rtol * loss)``; with neither, all
        examples are taken.
    population
        Give standard errors for the distribution the examples are a sample of. The independent units are the
        examples, or the batches in ``"batch"`` mode. That recalibrated statistics come from a sample too is
        left out: they are taken as given.
    seed
        Of random directions, eigenvectors' solver, and the subset.
    store
        Keeps what is done, so that a killed call goes on from there; see `plane_slice`.
    progress
        Called as ``progress(points done, points in all)``.

    Raises
    ------
    ValueError
        For an even `num_points`, a `span` that is not positive, an unknown name, or ``population=True`` with
        a single example, or a single batch in ``"batch"`` mode.
    NonFiniteLossError
        If the loss is not finite at the centre.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets, NeurIPS.
    """
    check_objective("objective", objective)
    check_count("num_points", num_points)
    check_count("num_directions", num_directions)
    check_odd(num_points)
    check_span(span)
    target = Tolerance.checked(("atol", atol), ("rtol", rtol))
    if isinstance(normalisation, str) and isinstance(ignore, str):
        check_choices(normalisation, ignore)
    stream_seed(seed)
    unit_size = independent_unit(objective, population)

    A, half = num_points, num_points // 2
    alphas = symmetric_axis(A, span)
    centre = objective.evaluate_points([(objective.params, objective.buffers)])
    found = find_directions(
        objective,
        directions,
        num_directions=num_directions if is_single(directions) else None,
        normalisation=normalisation,
        ignore=ignore,
        orthogonalise=False,
        independent=False,
        seed=seed,
        progress=part_of(progress, 0, 2) if needs_hessian(directions) else None,
    )
    D = found.vectors.shape[1]
    work = Work(part_of(progress, 1, 2) if needs_hessian(directions) else progress, D * (A - 1) + 1)
    work.add(1)
    steps = alphas[:, None, None] * torch.eye(D, dtype=torch.float64)  # (A, D, D): one line a direction
    rows = Rows(objective, centre, found, steps, half, unit_size, store, work)
    paired = PairedRows(rows, target=target, population=population, pilot=coarse_points([A]), seed=seed)
    paired.evaluate(range(A))
    while paired.grow():
        pass
    work.finish()
    known = paired.result()

    losses = (known.losses + known.penalties).T  # (D, A)
    losses = torch.where(losses.isfinite(), losses, math.nan)
    accuracies = torch.where(losses.isfinite(), known.accuracies.T, math.nan)
    value = float(losses[0, half])
    # A mean of D equal numbers may miss them by a rounding; the centre is exact.
    means, mean_accuracies = losses.mean(0), accuracies.mean(0)
    means[half], mean_accuracies[half] = value, accuracies[0, half]
    error = ErrorBudget()
    if population:
        dof = -(-objective.num_examples // unit_size) - 1
        error = ErrorBudget(data=StandardError(float(known.loss_errors[half]), dof))
    folds = known.fold_deviations
    return LineSlice(
        value=value,
        error=error,
        provenance={
            "function": "line_slice",
            "arguments": {
                "num_points": num_points,
                "span": span,
                "num_directions": num_directions,
                "directions": described(directions, found),
                "normalisation": normalisation,
                "ignore": ignore,
                "rtol": rtol,
                "atol": atol,
                "population": population,
                "seed": seed,
            },
            "objective": objective.describe(),
            "directions": found.description,
            "passes": known.passes,
        },
        alphas=alphas,
        losses=means,
        accuracies=mean_accuracies,
        penalties=known.penalties.mean(1),
        losses_by_direction=losses.contiguous(),
        accuracies_by_direction=accuracies.contiguous(),
        loss_standard_errors=known.loss_errors,
        rise_standard_errors=known.rise_errors,
        direction_norms=found.norms,
        normalisation=normalisation,
        ignore=ignore,
        num_directions=D,
        direction_names=found.names,
        dof=known.dof,
        num_examples=known.num_examples,
        fold_losses=None if folds is None else means + folds,
        fold_sizes=known.fold_sizes,
    )
