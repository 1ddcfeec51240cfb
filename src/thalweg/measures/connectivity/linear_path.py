"""The straight line between two networks, and the loss barrier on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
class LinearPath(Measurement):
    r"""Loss and accuracy on the straight line from `a` (alpha 0) to `b` (alpha 1); `value` is `barrier`.

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

    measure: ClassVar[str] = "linear_path"

    alphas: Tensor
    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    loss_standard_errors: Tensor
    barrier: float
    barrier_over_mean: float
    barrier_alpha: float


def linear_path(
    a: Objective,
    b: Objective,
    *,
    num_points: int = 21,
    population: bool = False,
    progress: Progress | None = None,
) -> LinearPath:
    r"""Evaluate :math:`L((1 - \alpha)\,\theta_a + \alpha\,\theta_b)` on a grid; the barrier between the ends.

    Floating buffers are interpolated with the parameters: in ``"running"`` mode batch norm thus uses
    interpolated statistics, which are not those of the interpolated network. ``"recalibrated"`` computes that
    network's own at every point; in ``"batch"`` mode each batch has its own.

    A grid can miss the peak, so the barrier found is a lower bound on the line's. ``error.solver`` estimates
    by how much, as a smooth curve would: an eighth of the largest second difference of the losses at the
    highest interior point and beside it, plus an eighth of how much these differ. The line's barrier in turn
    is only an upper bound on what separates the networks: another path may be lower.

    Parameters
    ----------
    a, b
        Two points of one function: same architecture, frozen parameters, loss, data, batch-norm mode, L2
        term.
    num_points
        T, at least 3.
    population
        Give standard errors for the distribution the examples are a sample of, from paired differences
        example by example (batch by batch in ``"batch"`` mode). ``error.data`` is that of the height above
        the chord at the highest interior point. Two things it leaves out: that the same data chose that
        point, which biases upwards a barrier no larger than its standard error, and that recalibrated
        statistics come from a sample too.
    progress
        Called as ``progress(points done, points in all)``.

    Raises
    ------
    TypeError, ValueError
        If the two are not points of one function, naming what differs; if `num_points` is below 3; for
        ``population=True`` with a single example, or a single batch in ``"batch"`` mode.
    NonFiniteLossError
        If the loss is not finite somewhere on the line: it then has no barrier.

    References
    ----------
    Frankle, Dziugaite, Roy and Carbin (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    ICML. Entezari, Sedghi, Saukh and Neyshabur (2022), The Role of Permutation Invariance in Linear Mode
    Connectivity of Neural Networks, ICLR.
    """
    check_count("num_points", num_points)
    if num_points < 3:
        raise ValueError(f"`num_points` must be at least 3, the ends and one between, got {num_points}.")
    check_comparable(a, b)
    unit_size = independent_unit(a, population)

    alphas = torch.linspace(0, 1, num_points, dtype=torch.float64)
    penalties = torch.empty_like(alphas)

    def point(i: int) -> Point:
        alpha = float(alphas[i])
        params = _between(a.params, b.params, alpha)
        penalties[i] = l2_term(params, a.weight_decay)
        return params, {k: _between(x, b.buffers[k], alpha) for k, x in a.buffers.items()}

    # The far end is evaluated through either network: the one test that they compute the same function.
    own = b.evaluate_points([(b.params, b.buffers)], allow_non_finite=True)
    found = a.evaluate_points(
        (point(i) for i in range(num_points)),
        on_point=(lambda done: progress(done + 1, num_points + 1)) if progress else None,
        allow_non_finite=True,
        num_points=num_points,
    )
    losses = found.losses
    _check_finite(torch.cat([losses, own.losses]), torch.cat([alphas, alphas[-1:]]))
    check_same_losses(found.example_losses[-1], own.example_losses[0])

    heights = losses - ((1 - alphas) * losses[0] + alphas * losses[-1])
    top, inner = int(heights.argmax()), 1 + int(heights[1:-1].argmax())

    standard_errors, data_error = torch.zeros_like(alphas), None
    if population:
        samples = found.example_losses.double().numpy()  # (T, N)
        errors, dof = mean_standard_error(samples, unit_size)
        standard_errors = torch.from_numpy(errors)
        t = float(alphas[inner])
        height = samples[inner] - ((1 - t) * samples[0] + t * samples[-1])
        data_error = StandardError(float(mean_standard_error(height, unit_size)[0]), dof)

    return LinearPath(
        value=float(heights[top]),
        error=ErrorBudget(solver=_hidden_height(losses, inner), data=data_error),
        provenance={
            "function": "linear_path",
            "arguments": {"num_points": num_points, "population": population},
            "objective": a.describe(),
            "objective_b": b.describe(),
            "passes": found.passes,
        },
        alphas=alphas,
        losses=losses,
        accuracies=found.accuracies,
        penalties=penalties,
        loss_standard_errors=standard_errors,
        barrier=float(heights[top]),
        barrier_over_mean=float(losses.max() - (losses[0] + losses[-1]) / 2),
        barrier_alpha=float(alphas[top]),
    )


def _between(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) x + alpha y``, exact at the ends and where both agree: rounding must not break a mask."""
    if alpha in (0.0, 1.0):
        return y if alpha else x
    return torch.where(x == y, x, (1 - alpha) * x + alpha * y)


def _hidden_height(losses: Tensor, peak: int) -> float:
    """Estimated bound on how far the curve rises between grid points above the interior point `peak`."""
    bends = losses[:-2] - 2 * losses[1:-1] + losses[2:]  # entry i belongs to point i + 1
    near = bends[max(0, peak - 2) : peak + 1]
    # Second differences are averages; between the points the curve may bend more by about what they vary.
    return float(near.abs().max() + near.max() - near.min()) / 8


def _check_finite(losses: Tensor, alphas: Tensor) -> None:
    bad = alphas[~losses.isfinite()].unique()
    if len(bad):
        where = ", ".join(f"{alpha:g}" for alpha in bad.tolist())
        raise NonFiniteLossError(
            f"the loss is not finite at alpha = {where} on the line from `a` to `b`, so it has no barrier; "
            "where batch norm's interpolated statistics are at fault, 'recalibrated' mode is not affected."
        )
