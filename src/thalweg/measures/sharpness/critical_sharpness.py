"""Critical sharpness: how large a step along an update may be before the loss rises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction, check_positive
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, Measurement, hash_tensors
from thalweg.core.progress import Progress
from thalweg.measures.sharpness.ascent import Visit
from thalweg.measures.sharpness.crossings import first_crossings
from thalweg.measures.sharpness.rises import Rises
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

GROWTH = 2.0

# Largest step of the scan over its first, where it is left open.
REACH = 1e6


@dataclass(frozen=True, kw_only=True, repr=False)
class CriticalSharpness(Measurement):
    """2 over the critical step: `value`, in loss / parameter^2 where the direction is the negative gradient.

    ``error.solver`` is what the bracket around the step leaves, and the rounding of the losses.

    Parameters
    ----------
    critical_step
        The smallest step found at which the loss is back at its value, in multiples of the direction.
    slope
        Of the loss along the direction at the centre, g.u < 0.
    loss
        At the centre, with the L2 term if there is one.
    steps, rises
        ``(M,)`` float64, ascending: the steps tried, and how far the loss lies above the centre there; NaN or
        infinite where it is not finite, which counts as a rise.
    num_evaluations
        Of the loss, each one pass over the data; the gradient not counting.
    """

    measure: ClassVar[str] = "critical_sharpness"

    critical_step: float
    slope: float
    loss: float
    steps: Tensor
    rises: Tensor
    num_evaluations: int


def critical_sharpness(
    objective: Objective,
    *,
    direction: Tensor | None = None,
    first_step: float | None = None,
    max_step: float | None = None,
    rtol: float = 0.01,
    progress: Progress | None = None,
) -> CriticalSharpness:
    r"""Find the smallest :math:`\eta > 0` with :math:`L(\theta + \eta u) > L(\theta)`; the value is 2 / eta.

    A few forward passes and one gradient, no second derivative. On a quadratic it is
    :math:`u^\top H u / |g^\top u|`: along the negative gradient the Rayleigh quotient
    :math:`g^\top H g / \lVert g\rVert^2`, so that 2 / value is the learning rate at which gradient descent
    stops lowering the loss. Along an optimiser's update it is the sharpness that this optimiser sees, and
    2 / value the factor by which the update may be stretched, times the learning rate if u has none in it.

    Steps are scanned by doubling or halving from the first, then bracketed: `first_crossings` says what a
    scan can miss. A step whose loss is not finite counts as one that rises.

    L is ``objective.value()``, L2 term included. In ``"recalibrated"`` mode every loss is that of the
    recalibrated function, while the gradient holds the statistics constant: along it the loss may rise from
    the start, which is then said.

    Parameters
    ----------
    objective
        The point from which the step goes.
    direction
        u ``(P,)``, in the order of `Objective.params`; its length matters. Default: the negative gradient.
    first_step
        Where the scan begins, in multiples of u. Default: where a parabola is back at the loss of the centre
        that has its slope and goes through a trial at :math:`|L| / |g^\top u|`.
    max_step
        Where it ends. Default: a million times the first.
    rtol
        Width of the bracket over the step, in (0, 1).
    progress
        Called as ``progress(evaluations done, evaluations expected)``.

    Raises
    ------
    ValueError
        For a number out of range, a direction of another shape, or one along which the loss does not fall,
        which may be the negative gradient itself.
    ConvergenceError
        If the loss does not rise up to `max_step`, or only by less than its rounding; carries the partial
        `CriticalSharpness`.
    NonFiniteLossError
        If the loss or its gradient is not finite at the centre.

    References
    ----------
    Kalra and Barkeshli (2024), Why Warmup the Learning Rate? Underlying Mechanisms and Improvements, NeurIPS:
    the critical learning rate, found by a few forward passes.
    """
    check_objective("objective", objective)
    for name, step in (("first_step", first_step), ("max_step", max_step)):
        if step is not None:
            check_positive(name, step, "None takes the default")
    check_fraction("rtol", rtol, "0.01 brackets the step to 1 %")
    given = None if direction is None else _checked(direction, objective)
    gradient = Visit.centre(objective).slope
    if not bool(gradient.any()):
        raise ValueError("`objective` must have a gradient that is not zero: here no direction leads down.")
    u = -gradient if given is None else given
    slope = float((gradient.cpu().double() * u.cpu().double()).sum())
    if not slope < 0:
        raise ValueError(
            f"`direction` must be one of descent, gradient . direction < 0, got {slope:.4g}; an optimiser's "
            "update is what is added to the parameters, so the gradient itself needs a minus."
        )
    rises = Rises(objective, progress, expected=8)
    seen: dict[float, float] = {}

    def along(points: list[tuple[int, float]]) -> Tensor:
        found = rises((step * u for _, step in points), allow_non_finite=True)
        seen.update(zip((step for _, step in points), found.tolist(), strict=True))
        return found

    first = first_step
    if first is None:
        trial = (abs(rises.loss) or 1.0) / -slope
        bend = 2 * (float(along([(0, trial)])) / trial - slope) / trial
        first = -2 * slope / bend if 0 < bend < math.inf else trial
    limit = REACH * first if max_step is None else max_step
    try:
        found = first_crossings(
            along, 1, level=0.0, first=min(first, limit), growth=GROWTH, limit=limit, rtol=rtol
        )
    except ConvergenceError as error:
        what, remedy = "`direction` must be one of descent", ""
        if given is None:
            what = "`objective` must have a loss that falls along its negative gradient"
            remedy = "; in others it falls by less than its rounding, see objective.to_dtype(torch.float64)"
        raise ValueError(
            f"{what}, but along it {error} In 'recalibrated' mode the gradient holds the statistics "
            f"constant, and its descent is another function's{remedy}."
        ) from None
    rises.finish()
    reached = bool(found.reached)
    step = float(found.distances) if reached else limit
    # What the rounding of a loss moves the crossing by, over the crossing.
    rounding = torch.finfo(objective.dtype).eps * abs(rises.loss) / (-slope * step)
    bracket = 2 / float(found.lower) - 2 / float(found.upper) if float(found.bounds) else 0.0
    steps = sorted(seen)
    result = CriticalSharpness(
        value=2 / step,
        error=ErrorBudget(solver=(bracket + 2 / step * rounding) or None) if reached else ErrorBudget(),
        provenance={
            "function": "critical_sharpness",
            "arguments": {
                "direction": None if given is None else hash_tensors(given),
                "first_step": first_step,
                "max_step": max_step,
                "rtol": rtol,
            },
            "objective": objective.describe(),
            "converged": reached and rounding < 1,
        },
        critical_step=step,
        slope=slope,
        loss=rises.loss,
        steps=torch.tensor(steps, dtype=torch.float64),
        rises=torch.tensor([seen[s] for s in steps], dtype=torch.float64),
        num_evaluations=rises.num_evaluations,
    )
    if not reached:
        raise ConvergenceError(
            f"the loss does not rise up to a step of {limit:.4g} along the direction, so that no more is "
            f"known of the critical sharpness than that it is below {2 / limit:.3g}: raise `max_step`.",
            result,
        )
    if rounding >= 1:
        raise ConvergenceError(
            f"the loss falls and rises again within its rounding, {torch.finfo(objective.dtype).eps:.1g} of "
            f"{rises.loss:.4g}, so that no step is critical to any accuracy; use "
            "objective.to_dtype(torch.float64).",
            result,
        )
    return result


def _checked(direction: Tensor, objective: Objective) -> Tensor:
    """`direction` in the dtype and on the device of the parameters."""
    direction = torch.as_tensor(direction)
    if direction.shape != objective.params.shape or not bool(direction.isfinite().all()):
        raise ValueError(
            f"`direction` must be finite and of shape {tuple(objective.params.shape)}, one entry a trainable "
            f"parameter, got shape {tuple(direction.shape)}"
            f"{'' if bool(direction.isfinite().all()) else ' with entries that are not finite'}; "
            "objective.space.flatten lays named tensors end to end."
        )
    return direction.detach().to(objective.params)
