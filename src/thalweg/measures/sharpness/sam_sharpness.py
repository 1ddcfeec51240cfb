"""Perturbation sharpness: how far the loss rises within a ball around the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.measures.sharpness.ascent import climb
from thalweg.measures.sharpness.ball import Ball, Norm
from thalweg.measures.sharpness.scaling import Scaling, at_rest
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
        Of the ball over all trainable parameters.
    norm, scaling
        Of the ball, as asked.
    num_steps, num_restarts
        As asked.
    gradient_norm
        Norm of the gradient at the centre that is dual to the ball's: Euclidean for ``"l2"``, the sum of
        absolute entries for ``"linf"``, of T g where the ball is scaled. ``radius * gradient_norm`` is the
        first-order value.
    loss
        At the centre, with the L2 term if there is one.
    restart_values
        ``(R,)``, float64: the largest rise of each restart. The first starts from the gradient and with one
        step is SAM's own. Negative where a restart found nothing above the centre.
    perturbation
        ``(P,)``, on the CPU: what was added to the parameters for `value`; zero if nothing higher was found.
    """

    measure: ClassVar[str] = "sam_sharpness"
    is_lower_bound = True

    radius: float
    num_steps: int
    num_restarts: int
    gradient_norm: float
    loss: float
    restart_values: Tensor
    perturbation: Tensor
    norm: str = "l2"
    scaling: str = "none"


def sam_sharpness(
    objective: Objective,
    *,
    radius: float = 0.05,
    norm: Norm = "l2",
    scaling: Scaling = "none",
    num_steps: int = 1,
    num_restarts: int = 1,
    seed: int,
    progress: Progress | None = None,
) -> SamSharpness:
    r"""Lower bound on the largest rise of the loss in a ball around the parameters.

    .. math:: S(\theta) = \max_{\lVert T^{-1} \delta\rVert_p \le r} L(\theta + \delta) - L(\theta)

    One step is SAM's perturbation, to the point of the ball that is highest on the tangent plane at the
    centre; with the gradient g

    - ``"l2"``: :math:`\delta = r\, T^2 g / \lVert T g\rVert_2`, SAM for T = 1 and ASAM for a scaled ball;
    - ``"linf"``: :math:`\delta = r\, T\, \mathrm{sign}(g)`.

    Further steps repeat it with the gradient at the point reached (see
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
        r, positive: a distance in parameter space, or for a scaled ball a share of the parameters, 0.05 being
        5 %. The same number means different things in different norms and scalings: with ``"linf"`` every
        coordinate moves by it. Where it is below about 1e-4 of the parameters' norm use
        ``objective.to_dtype(torch.float64)``: rounding of the parameters shows in single precision.
    norm
        p: ``"l2"``, over all trainable parameters together, or ``"linf"``, each by itself.
    scaling
        T, see `thalweg.measures.sharpness.ball.scale_vector`: ``"none"``; ``"element"``, the size of each
        parameter; ``"filter"``, the norm of each filter. A parameter (or a filter) that is exactly zero
        stays; how many do, and how many underflow, the result says.
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
        If `radius` is not positive, a count is below one, a name is unknown, or the scaling leaves nothing to
        move because all parameters are zero.
    NonFiniteLossError
        If the loss or its gradient is not finite at a point visited.

    References
    ----------
    Foret, Kleiner, Mobahi and Neyshabur (2021), Sharpness-Aware Minimization, ICLR. Kwon, Kim, Park and Choi
    (2021), ASAM: Adaptive Sharpness-Aware Minimization, ICML: scaled balls.
    """
    check_objective("objective", objective)
    ball = Ball.around(objective, norm, radius, scaling)
    check_count("num_steps", num_steps)
    check_count("num_restarts", num_restarts)
    stream_seed(seed)  # refuses what is no seed, even where nothing is drawn
    climbs = climb(
        objective,
        ball,
        num_steps=num_steps,
        num_restarts=num_restarts,
        stream="sam_sharpness",
        seed=seed,
        progress=progress,
    )
    return SamSharpness(
        value=climbs.best.loss - climbs.centre.loss,
        provenance={
            "function": "sam_sharpness",
            "arguments": {
                "radius": radius,
                "norm": norm,
                "scaling": scaling,
                "num_steps": num_steps,
                "num_restarts": num_restarts,
                "seed": seed,
            },
            "objective": objective.describe(),
            "first_start": climbs.first_start,
            "at_rest": at_rest(ball.scale, objective.params.dtype),
        },
        radius=float(radius),
        num_steps=num_steps,
        num_restarts=num_restarts,
        gradient_norm=ball.dual_norm(climbs.centre.slope),
        loss=climbs.centre.loss,
        restart_values=climbs.rises,
        perturbation=climbs.best.delta.cpu(),
        norm=norm,
        scaling=scaling,
    )
