"""The loss along random straight lines through a point."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Progress
from thalweg.objective.check_objective import check_objective
from thalweg.objective.evaluation import independent_unit, l2_term
from thalweg.objective.objective import Objective
from thalweg.solvers.directions import Ignored, Normalisation, check_choices, random_direction
from thalweg.solvers.surface import Surface
from thalweg.stats.clustered_mean import mean_standard_error


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
        ``(A,)``: of `losses`, from having a sample of the examples, the directions being fixed. Zero without
        ``population=True``: then the losses are exactly those of the objective's own data.
    rise_standard_errors
        ``(A,)``: of the rise above the centre, ``losses - value``, by paired differences on the same
        examples; zero at the centre, and far below `loss_standard_errors` near it.
    direction_norms
        ``(D,)``: Euclidean length of a step of one.
    normalisation, ignore
        As asked.
    num_directions
        D.
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
    normalisation: str
    ignore: str
    num_directions: int

    @property
    def axes(self) -> tuple[Tensor]:
        """The alphas."""
        return (self.alphas,)

    @property
    def heights(self) -> Tensor:
        """The losses, means over the directions."""
        return self.losses


def line_slice(
    objective: Objective,
    *,
    num_points: int = 41,
    span: float = 1.0,
    num_directions: int = 1,
    normalisation: Normalisation = "filter",
    ignore: Ignored = "bias_and_norm",
    population: bool = False,
    seed: int,
    progress: Progress | None = None,
) -> LineSlice:
    r"""Evaluate :math:`L(\theta + \alpha d_j)` on a symmetric grid, for D random directions.

    All points are evaluated on the same examples. In ``"recalibrated"`` mode each point has its own exact
    statistics; in ``"running"`` mode all share the centre's.

    Parameters
    ----------
    objective
        The point is the centre.
    num_points
        A, odd, so that the centre is on the grid and equals ``objective.value()`` to the bit.
    span
        The grid runs from ``-span`` to ``span``, in the unit the normalisation sets.
    num_directions
        D. The first D directions of a seed are the same whatever D.
    normalisation, ignore
        How directions are scaled and what they leave alone; see `random_direction`.
    population
        Give standard errors for the distribution the examples are a sample of. The independent units are the
        examples, or the batches in ``"batch"`` mode. That recalibrated statistics come from a sample too is
        left out: they are taken as given.
    seed
        Of the directions.
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
    if num_points < 3 or num_points % 2 == 0:
        raise ValueError(
            f"`num_points` must be odd and at least 3, so that the centre is on the grid, got {num_points}; "
            f"use {num_points + 1 if num_points > 2 else 3}."
        )
    if not 0 < span < math.inf:
        raise ValueError(f"`span` must be positive and finite, got {span}.")
    check_choices(normalisation, ignore)
    unit_size = independent_unit(objective, population)

    A, D, half = num_points, num_directions, num_points // 2
    alphas = (torch.arange(A, dtype=torch.float64) - half) / half * span
    centre = objective.evaluate_points([(objective.params, objective.buffers)])
    norms = torch.empty(D, dtype=torch.float64)
    penalties = torch.empty(D, A, dtype=torch.float64)

    def points() -> Iterator[tuple[Tensor, None]]:
        for j in range(D):
            direction = random_direction(objective, j, normalisation=normalisation, ignore=ignore, seed=seed)
            norms[j] = torch.linalg.vector_norm(direction.cpu().double())
            for i, alpha in enumerate(alphas.tolist()):
                params = objective.params + alpha * direction
                penalties[j, i] = l2_term(params, objective.weight_decay)
                if i != half:  # the centre is one point, whatever the number of directions
                    yield params, None

    total = D * (A - 1) + 1
    around = objective.evaluate_points(
        points(),
        on_point=(lambda done: progress(done + 1, total)) if progress else None,
        allow_non_finite=True,
        num_points=total,
    )

    def with_centre(rows: Tensor, middle: Tensor) -> Tensor:
        grid = rows.view(D, A - 1, *rows.shape[1:])
        return torch.cat([grid[:, :half], middle.expand(D, 1, *middle.shape[1:]), grid[:, half:]], dim=1)

    losses = with_centre(around.losses, centre.losses) + penalties
    losses = torch.where(losses.isfinite(), losses, math.nan)  # (D, A)
    accuracies = torch.where(losses.isfinite(), with_centre(around.accuracies, centre.accuracies), math.nan)
    value = float(losses[0, half])
    # A mean of D equal numbers may miss them by a rounding; the centre is exact.
    means, mean_accuracies = losses.mean(0), accuracies.mean(0)
    means[half], mean_accuracies[half] = value, accuracies[0, half]

    standard_errors = rise_errors = torch.zeros(A, dtype=torch.float64)
    error = ErrorBudget()
    if population:
        samples = with_centre(around.example_losses, centre.example_losses).double().mean(0)  # (A, N)
        samples[means.isnan()] = math.nan
        errors, dof = mean_standard_error(samples.numpy(), unit_size)
        rises, _ = mean_standard_error((samples - samples[half]).numpy(), unit_size)
        standard_errors, rise_errors = torch.from_numpy(errors), torch.from_numpy(rises)
        error = ErrorBudget(data=StandardError(float(standard_errors[half]), dof))

    return LineSlice(
        value=value,
        error=error,
        provenance={
            "function": "line_slice",
            "arguments": {
                "num_points": num_points,
                "span": span,
                "num_directions": num_directions,
                "normalisation": normalisation,
                "ignore": ignore,
                "population": population,
                "seed": seed,
            },
            "objective": objective.describe(),
            "passes": around.passes,
        },
        alphas=alphas,
        losses=means,
        accuracies=mean_accuracies,
        penalties=penalties.mean(0),
        losses_by_direction=losses,
        accuracies_by_direction=accuracies,
        loss_standard_errors=standard_errors,
        rise_standard_errors=rise_errors,
        direction_norms=norms,
        normalisation=normalisation,
        ignore=ignore,
        num_directions=num_directions,
    )
