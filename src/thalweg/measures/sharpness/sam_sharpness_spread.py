"""m-sharpness: perturbation sharpness of single batches of m, as SAM sees it in training, and its spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress
from thalweg.core.rng import generator
from thalweg.measures.sharpness.ascent import Visit, ascend
from thalweg.measures.sharpness.ball import Ball, Norm
from thalweg.measures.sharpness.scaling import Scaling, at_rest
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

# Batches where their number is left open: fewer where each takes passes over all the calibration data.
MOST_BATCHES = 128
MOST_RECALIBRATED = 32


@dataclass(frozen=True, kw_only=True, repr=False)
class SamSharpnessSpread(Measurement):
    """S of single batches of m, each with its own perturbation; `value` is their mean, the m-sharpness.

    `error.data` is the standard error of that mean as an estimate of the mean over all batches that could be
    drawn: what it lacks is the examples that were not. Batches are disjoint, so for the objective's own
    finite data it is conservative; for the distribution behind them it is unbiased.

    Parameters
    ----------
    batch_size
        Examples a batch, m.
    radius, norm, scaling, num_steps
        As in `sam_sharpness`.
    samples
        ``(num_batches,)``, one S a batch, float64. Their mean is expected to exceed S of all the data, since
        the mean of maxima is at least the maximum of the mean.
    """

    measure: ClassVar[str] = "sam_sharpness_spread"

    batch_size: int
    radius: float
    num_steps: int
    samples: Tensor
    norm: str = "l2"
    scaling: str = "none"


def sam_sharpness_spread(
    objective: Objective,
    *,
    batch_size: int = 128,
    num_batches: int | None = None,
    radius: float = 0.05,
    norm: Norm = "l2",
    scaling: Scaling = "none",
    num_steps: int = 1,
    seed: int,
    progress: Progress | None = None,
) -> SamSharpnessSpread:
    r"""m-sharpness: the mean of `sam_sharpness` over disjoint random batches of m examples.

    .. math:: S_m = \mathrm{E}_b \max_{\lVert T^{-1} \delta\rVert_p \le r} L_b(\theta + \delta) - L_b(\theta),
        \quad |b| = m

    The maximum is inside the mean, each batch being perturbed by itself. With m = N it is `sam_sharpness`.

    In ``"batch"`` mode each batch is normalised by its own statistics, whatever the objective's own
    partition. In ``"recalibrated"`` mode statistics stay those of the whole calibration data, recomputed at
    every perturbed point: a pass over those data for every batch-norm layer, for each batch and step. Give
    the objective a smaller `calibration_data` where that is too dear.

    Parameters
    ----------
    objective
        The point is the centre; batches are drawn from its examples.
    batch_size, num_batches
        m, and how many batches. Their product is at most the number of examples. Default: as many as fit, at
        most 128, or 32 in ``"recalibrated"`` mode.
    radius, norm, scaling, num_steps
        As in `sam_sharpness`; one restart a batch, from the batch's gradient. Where that is exactly zero, S
        counts as zero.
    seed
        Of the draw, without replacement.
    progress
        Called as ``progress(batches done, batches in all)``.

    Raises
    ------
    ValueError
        If `radius` is not positive, a count is below one, `num_batches` below two, a name unknown, or the
        examples are too few.
    NonFiniteLossError
        If the loss or its gradient is not finite at a point visited.

    References
    ----------
    Foret, Kleiner, Mobahi and Neyshabur (2021), Sharpness-Aware Minimization, ICLR: m-sharpness.
    """
    check_objective("objective", objective)
    ball = Ball.around(objective, norm, radius, scaling)
    check_count("batch_size", batch_size)
    asked = num_batches
    if num_batches is None:
        recalibrates = objective.batch_norm == "recalibrated" and objective.has_batch_norm
        most = MOST_RECALIBRATED if recalibrates else MOST_BATCHES
        num_batches = min(most, max(2, objective.num_examples // batch_size))
    check_count("num_batches", num_batches)
    check_count("num_steps", num_steps)
    if num_batches < 2:
        raise ValueError(f"`num_batches` must be at least 2 to have a spread, got {num_batches}.")
    num_drawn = num_batches * batch_size
    if num_drawn > objective.num_examples:
        raise ValueError(
            f"`num_batches` x `batch_size` must be at most the {objective.num_examples} examples there are, "
            f"since batches are disjoint, got {num_batches} x {batch_size} = {num_drawn}; "
            f"{objective.num_examples // batch_size} batches of {batch_size} would fit."
        )
    # Computed once here; otherwise each batch would recalibrate the same centre again.
    _ = objective.effective_buffers
    order = torch.randperm(objective.num_examples, generator=generator(seed, "sam_sharpness_spread"))
    samples = []
    for i, index in enumerate(order[:num_drawn].view(num_batches, batch_size)):
        batch = objective.select(index, batch_size)
        centre = Visit.centre(batch)
        samples.append(max(0.0, ascend(batch, centre, ball, num_steps).loss - centre.loss))
        if progress:
            progress(i + 1, num_batches)
    values = torch.tensor(samples, dtype=torch.float64)
    return SamSharpnessSpread(
        value=float(values.mean()),
        error=ErrorBudget(data=StandardError(float(values.std()) / num_batches**0.5, num_batches - 1)),
        provenance={
            "function": "sam_sharpness_spread",
            "arguments": {
                "batch_size": batch_size,
                "num_batches": asked,
                "radius": radius,
                "norm": norm,
                "scaling": scaling,
                "num_steps": num_steps,
                "seed": seed,
            },
            "objective": objective.describe(),
            "at_rest": at_rest(ball.scale, objective.params.dtype),
        },
        batch_size=batch_size,
        radius=float(radius),
        num_steps=num_steps,
        samples=values,
        norm=norm,
        scaling=scaling,
    )
