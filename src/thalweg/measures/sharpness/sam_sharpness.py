"""Perturbation sharpness: how far the loss rises within a ball around the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import Measurement
from thalweg.core.rng import generator, normal, stream_seed
from thalweg.measures.sharpness.ascent import Visit, ascend, check_radius, euclidean_norm
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective


@dataclass(frozen=True, kw_only=True, repr=False)
class SamSharpness(Measurement):
    """The largest rise found in the ball: `value`, a lower bound on the maximum, in the unit of the loss.

    Its error budget is empty because the rise at `perturbation` is exact on the objective's own data. How far
    the maximum lies above it is not known.

    Parameters
    ----------
    radius
        Of the Euclidean ball over all trainable parameters.
    num_steps, num_restarts
        As asked.
    gradient_norm
        Euclidean norm of the gradient at the centre; ``radius * gradient_norm`` is the first-order value.
    loss
        At the centre, with the L2 term if there is one.
    restart_values
        ``(R,)``, float64: the largest rise of each restart. The first starts from the gradient and with one
        step is SAM's own. Negative where a restart found nothing above the centre.
    perturbation
        ``(P,)``, on the CPU: what was added to the parameters for `value`; zero if nothing higher was found.
    """

    measure: ClassVar[str] = "sam_sharpness"

    radius: float
    num_steps: int
    num_restarts: int
    gradient_norm: float
    loss: float
    restart_values: Tensor
    perturbation: Tensor


def sam_sharpness(
    objective: Objective,
    *,
    radius: float = 0.05,
    num_steps: int = 1,
    num_restarts: int = 1,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> SamSharpness:
    r"""Lower bound on :math:`S(\theta) = \max_{\lVert\delta\rVert_2 \le r} L(\theta + \delta) - L(\theta)`.

    One step is SAM's perturbation, :math:`\delta = r\, g / \lVert g\rVert` with the gradient at the centre;
    further steps repeat it with the gradient at the point reached (see
    `thalweg.measures.sharpness.ascent.ascend`). Further restarts begin at random points of the sphere. All
    points visited compete, so the value never falls as `num_steps` or `num_restarts` grows, and is at least
    zero, the rise at the centre.

    L is ``objective.value()``, L2 term included. In ``"recalibrated"`` mode every loss is that of the
    recalibrated function at its own point, while each gradient holds the statistics of its own point
    constant: the ascent is then not the steepest, and the bound still a bound.

    Parameters
    ----------
    objective
        The point is the centre.
    radius
        r, positive. Where it is below about 1e-4 of the parameters' norm use
        ``objective.to_dtype(torch.float64)``: rounding of the parameters shows in single precision.
    num_steps
        Ascent steps of each restart: a gradient each, which costs three forward passes, and one forward pass
        more.
    num_restarts
        R. The first starts from the gradient at the centre. Where that is exactly zero there is no such
        direction, and it starts at random like the others, as the provenance then says.
    seed
        Of the random starts. Each restart has its own stream: the first R are the same whatever R.
    progress
        Called as ``progress(evaluations done, evaluations in all)``.

    Raises
    ------
    ValueError
        If `radius` is not positive, or a count is below one.
    NonFiniteLossError
        If the loss or its gradient is not finite at a point visited.

    References
    ----------
    Foret, Kleiner, Mobahi and Neyshabur (2021), Sharpness-Aware Minimization, ICLR.
    """
    check_objective("objective", objective)
    check_radius(radius)
    check_count("num_steps", num_steps)
    check_count("num_restarts", num_restarts)
    stream_seed(seed)  # refuses what is no seed, even where nothing is drawn
    centre = Visit.centre(objective)
    stationary = centre.gradient_norm == 0
    total, done = num_restarts * (num_steps + 1) + int(stationary), 0

    def on_step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    on_step()
    found: list[Visit] = []
    for restart in range(num_restarts):
        if restart == 0 and not stationary:
            found.append(ascend(objective, centre, radius, num_steps, on_step))
            continue
        rng = generator(seed, "sam_sharpness", restart)
        direction = normal(rng, objective.space.dim, like=objective.params)
        start = Visit.of(objective, direction * (radius / euclidean_norm(direction)))
        on_step()
        reached = ascend(objective, start, radius, num_steps, on_step)
        found.append(max(start, reached, key=lambda visit: visit.loss))
    if progress and done < total:  # an ascent ends early where the gradient vanishes
        progress(total, total)

    best = max([centre, *found], key=lambda visit: visit.loss)
    return SamSharpness(
        value=best.loss - centre.loss,
        provenance={
            "function": "sam_sharpness",
            "arguments": {
                "radius": radius,
                "num_steps": num_steps,
                "num_restarts": num_restarts,
                "seed": seed,
            },
            "objective": objective.describe(),
            "first_start": "random, the gradient being exactly zero" if stationary else "gradient",
        },
        radius=float(radius),
        num_steps=num_steps,
        num_restarts=num_restarts,
        gradient_norm=centre.gradient_norm,
        loss=centre.loss,
        restart_values=torch.tensor([visit.loss - centre.loss for visit in found], dtype=torch.float64),
        perturbation=best.delta.cpu(),
    )
