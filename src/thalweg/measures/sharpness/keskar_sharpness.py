"""Keskar et al.'s sharpness: the largest rise in a box around the parameters, relative to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.core.arguments import check_count, check_positive
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.measures.sharpness.ascent import climb
from thalweg.measures.sharpness.ball import Ball
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective


@dataclass(frozen=True, kw_only=True, repr=False)
class KeskarSharpness(Measurement):
    """The largest rise found in the box, in per cent of 1 + L: `value`, a lower bound on the maximum.

    Its error budget is empty because the rise at `perturbation` is exact on the objective's own data. How far
    the maximum lies above it is not known.

    Parameters
    ----------
    epsilon, num_steps, num_restarts
        As asked.
    loss
        L, at the centre, with the L2 term if there is one.
    restart_values
        ``(R,)``, float64: what each restart found, in per cent. Negative where it found nothing above the
        centre.
    perturbation
        ``(P,)``, on the CPU: what was added to the parameters for `value`; zero if nothing higher was found.
    """

    measure: ClassVar[str] = "keskar_sharpness"
    is_lower_bound = True

    epsilon: float
    num_steps: int
    num_restarts: int
    loss: float
    restart_values: Tensor
    perturbation: Tensor


def keskar_sharpness(
    objective: Objective,
    *,
    epsilon: float = 1e-3,
    num_steps: int = 10,
    num_restarts: int = 1,
    seed: int,
    progress: Progress | None = None,
) -> KeskarSharpness:
    r"""Lower bound on Keskar et al.'s sharpness in the full space of the parameters.

    .. math:: \phi = 100\, \frac{\max_\delta L(\theta + \delta) - L(\theta)}{1 + L(\theta)}, \qquad
        |\delta_i| \le \epsilon\, (|\theta_i| + 1)

    The convention is theirs, with the matrix A the identity. Their variant on a random manifold (A with few
    random columns) is not this one. The maximum is sought by the ascent of `sam_sharpness` in this box, where
    they take a few iterations of L-BFGS-B: both give lower bounds. The "+ 1" moves parameters that are zero,
    and makes the number depend on the scale of the parameters: it is not blind to rescaled layers.

    L is ``objective.value()``, L2 term included. In ``"recalibrated"`` mode every loss is that of the
    recalibrated function at its own point, and each gradient holds its point's statistics constant.

    Parameters
    ----------
    objective
        The point is the centre.
    epsilon
        Positive. Keskar et al. report 1e-3 and 5e-4.
    num_steps, num_restarts
        As in `sam_sharpness`; random restarts begin at corners of the box.
    seed
        Of the random starts. Each restart has its own stream: the first R are the same whatever R.
    progress
        Called as ``progress(evaluations done, evaluations in all)``.

    Raises
    ------
    ValueError
        If `epsilon` is not positive, a count is below one, or the loss is at most -1, where the quotient
        means nothing.
    NonFiniteLossError
        If the loss or its gradient is not finite at a point visited.

    References
    ----------
    Keskar, Mudigere, Nocedal, Smelyanskiy and Tang (2017), On Large-Batch Training for Deep Learning:
    Generalization Gap and Sharp Minima, ICLR.
    """
    check_objective("objective", objective)
    check_positive("epsilon", epsilon, "1e-3 is customary")
    check_count("num_steps", num_steps)
    check_count("num_restarts", num_restarts)
    stream_seed(seed)  # refuses what is no seed, even where nothing is drawn
    climbs = climb(
        objective,
        Ball("linf", epsilon, objective.params.cpu().double().abs() + 1),
        num_steps=num_steps,
        num_restarts=num_restarts,
        stream="keskar_sharpness",
        seed=seed,
        progress=progress,
    )
    loss = climbs.centre.loss
    if loss <= -1:
        raise ValueError(
            f"`objective` must have a loss above -1 for this convention, which divides by 1 + L, got "
            f"{loss:.4g}; sam_sharpness divides by nothing."
        )
    percent = 100 / (1 + loss)
    return KeskarSharpness(
        value=percent * (climbs.best.loss - loss),
        provenance={
            "function": "keskar_sharpness",
            "arguments": {
                "epsilon": epsilon,
                "num_steps": num_steps,
                "num_restarts": num_restarts,
                "seed": seed,
            },
            "objective": objective.describe(),
            "first_start": climbs.first_start,
        },
        epsilon=float(epsilon),
        num_steps=num_steps,
        num_restarts=num_restarts,
        loss=loss,
        restart_values=percent * climbs.rises,
        perturbation=climbs.best.delta.cpu(),
    )
