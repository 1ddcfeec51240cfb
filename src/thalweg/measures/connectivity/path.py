"""What all paths between two networks share: loss and accuracy along the path, and the barrier on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress
from thalweg.objective.evaluation import Point, independent_unit, l2_term
from thalweg.objective.objective import Objective
from thalweg.solvers.comparable import check_comparable, check_same_losses
from thalweg.stats.clustered_mean import mean_standard_error


@dataclass(frozen=True, kw_only=True, repr=False)
class Path(Measurement):
    r"""Loss and accuracy on a path from `a` (alpha 0) to `b` (alpha 1); `value` is `barrier`.

    T = number of points; arrays are float64 on the CPU. Losses leave the L2 term out, lest a dip be the
    norm's; `penalties` is that term apart.

    Parameters
    ----------
    alphas
        ``(T,)``, equidistant, both ends included.
    losses, accuracies, penalties
        ``(T,)``. Accuracies are NaN for losses without classes.
    loss_standard_errors
        ``(T,)``: of `losses`, from having a sample of the examples; zero without ``population=True``.
    barrier
        :math:`\max_\alpha L(\alpha) - [(1 - \alpha) L(0) + \alpha L(1)]` over the grid: the height above the
        chord, as Entezari et al. (2022) define it. At least zero, since the ends lie on the chord.
    barrier_over_mean
        :math:`\max_\alpha L(\alpha) - [L(0) + L(1)] / 2`, as Frankle et al. (2020) define it. The same where
        the ends are equally low; otherwise at least half the difference of the ends, however straight the
        path.
    barrier_alpha
        Where on the grid `barrier` is attained (the first such place).
    """

    alphas: Tensor
    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    loss_standard_errors: Tensor
    barrier: float
    barrier_over_mean: float
    barrier_alpha: float


def check_path(a: Objective, b: Objective, num_points: int, population: bool) -> None:
    """Raise unless `a` and `b` are points of one function and the grid has a point between them."""
    check_count("num_points", num_points)
    if num_points < 3:
        raise ValueError(f"`num_points` must be at least 3, the ends and one between, got {num_points}.")
    check_comparable(a, b)
    independent_unit(a, population)


def check_ends(a: Objective, b: Objective, shape: str) -> None:
    """Raise unless both ends have a finite loss, and the models compute the same function of parameters."""
    own = b.evaluate_points([(b.params, b.buffers)], allow_non_finite=True)
    ends = a.evaluate_points([(a.params, a.buffers), (b.params, b.buffers)], allow_non_finite=True)
    _check_finite(a, ends.losses, own.losses, torch.tensor([0.0, 1.0]), shape)
    check_same_losses(ends.example_losses[1], own.example_losses[0])


def evaluate_path(
    a: Objective,
    b: Objective,
    params_at: Callable[[float], Tensor],
    *,
    num_points: int,
    population: bool,
    shape: str,
    provenance: Mapping[str, Any],
    progress: Progress | None,
) -> dict[str, Any]:
    """The fields of a `Path`: everything on `num_points` equidistant points.

    Floating buffers go straight from those of `a` to those of `b`.

    Parameters
    ----------
    params_at
        Parameters ``(P,)`` at an alpha; those of the objectives at 0 and 1.
    shape
        What the path is, in messages.
    provenance
        Function and arguments.

    Raises
    ------
    ValueError
        If `a` and `b` turn out to be points of two functions.
    NonFiniteLossError
        If the loss is not finite somewhere.
    """
    alphas = torch.linspace(0, 1, num_points, dtype=torch.float64)
    penalties = torch.empty_like(alphas)

    def point(i: int) -> Point:
        alpha = float(alphas[i])
        params = params_at(alpha)
        penalties[i] = l2_term(a, params)
        return params, buffers_between(a, b, alpha)

    # The far end is evaluated through either network: the one test that they compute the same function.
    own = b.evaluate_points([(b.params, b.buffers)], allow_non_finite=True)
    found = a.evaluate_points(
        (point(i) for i in range(num_points)),
        on_point=(lambda done: progress(done + 1, num_points + 1)) if progress else None,
        allow_non_finite=True,
        num_points=num_points,
    )
    losses = found.losses
    _check_finite(a, losses, own.losses, alphas, shape)
    check_same_losses(found.example_losses[-1], own.example_losses[0])

    heights = losses - _chord(alphas, losses)
    top, inner = int(heights.argmax()), 1 + int(heights[1:-1].argmax())

    standard_errors, data_error = torch.zeros_like(alphas), None
    if population:
        unit_size = independent_unit(a, population)
        samples = found.example_losses.double().numpy()  # (T, N)
        errors, dof = mean_standard_error(samples, unit_size)
        standard_errors = torch.from_numpy(errors)
        t = float(alphas[inner])
        height = samples[inner] - ((1 - t) * samples[0] + t * samples[-1])
        data_error = StandardError(float(mean_standard_error(height, unit_size)[0]), dof)

    return {
        "value": float(heights[top]),
        "error": ErrorBudget(solver=_hidden_height(losses, inner), data=data_error),
        "provenance": {
            **provenance,
            "objective": a.describe(),
            "objective_b": b.describe(),
            "passes": found.passes,
        },
        "alphas": alphas,
        "losses": losses,
        "accuracies": found.accuracies,
        "penalties": penalties,
        "loss_standard_errors": standard_errors,
        "barrier": float(heights[top]),
        "barrier_over_mean": float(losses.max() - (losses[0] + losses[-1]) / 2),
        "barrier_alpha": float(alphas[top]),
    }


def between(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) x + alpha y``, exact at the ends and where both agree: rounding must not break a mask."""
    if alpha in (0.0, 1.0):
        return y if alpha else x
    return torch.where(x == y, x, (1 - alpha) * x + alpha * y)


def buffers_between(a: Objective, b: Objective, alpha: float) -> dict[str, Tensor]:
    """Floating buffers of a path at `alpha`: straight from those of `a` to those of `b`."""
    return {k: between(x, b.buffers[k], alpha) for k, x in a.buffers.items()}


def _chord(alphas: Tensor, losses: Tensor) -> Tensor:
    first, last = losses[0], losses[-1]
    # Between equal ends it is level to the bit, so that a path from a network to itself has no barrier.
    return torch.where(first == last, first, (1 - alphas) * first + alphas * last)


def _hidden_height(losses: Tensor, peak: int) -> float:
    """Estimated bound on how far the curve rises between grid points above the interior point `peak`."""
    bends = losses[:-2] - 2 * losses[1:-1] + losses[2:]  # entry i belongs to point i + 1
    near = bends[max(0, peak - 2) : peak + 1]
    # Second differences are averages; between the points the curve may bend more by about what they vary.
    return float(near.abs().max() + near.max() - near.min()) / 8


def _check_finite(a: Objective, losses: Tensor, own: Tensor, alphas: Tensor, shape: str) -> None:
    for name, end in (("a", losses[0]), ("b", own[0])):
        if not bool(end.isfinite()):
            raise NonFiniteLossError(f"the loss of `{name}` itself is not finite: it is no end of a {shape}.")
    bad = alphas[~losses.isfinite()].unique()
    if len(bad):
        where = ", ".join(f"{alpha:g}" for alpha in bad.tolist())
        hint = "."
        if a.has_batch_norm and a.batch_norm == "running":
            hint = "; where interpolated statistics are at fault, 'recalibrated' mode is not affected."
        raise NonFiniteLossError(
            f"the loss is not finite at alpha = {where} on the {shape} from `a` to `b`, so it has no barrier"
            f"{hint}"
        )
