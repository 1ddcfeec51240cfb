"""Batch sharpness: the curvature that SGD's batches have along their own gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress
from thalweg.core.rng import generator
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian


@dataclass(frozen=True, kw_only=True, repr=False)
class BatchSharpness(Measurement):
    """The mean over random batches of the Rayleigh quotient of H_B along g_B, in loss / parameter^2.

    ``error.data`` is its standard error as an estimate of the mean over all batches of that size that could
    be drawn from the objective's examples; ``None``, exact, where one batch holds them all.

    Parameters
    ----------
    batch_size
        Examples a batch, B.
    quotients
        ``(num_batches,)`` float64, one a batch; `value` is their mean.
    gradient_squares
        ``(num_batches,)`` float64, the squared lengths of the batches' gradients.
    """

    measure: ClassVar[str] = "batch_sharpness"

    batch_size: int
    quotients: Tensor
    gradient_squares: Tensor

    @property
    def ratio_of_means(self) -> float:
        """E[g_B' H_B g_B] / E[|g_B|^2]: the same with the mean taken above and below, where a batch counts by
        its gradient; it has no error budget of its own."""
        return float((self.quotients * self.gradient_squares).sum() / self.gradient_squares.sum())


def batch_sharpness(
    objective: Objective,
    *,
    batch_size: int | None = None,
    num_batches: int = 16,
    seed: int,
    progress: Progress | None = None,
) -> BatchSharpness:
    r"""Expected curvature of a batch's loss along the batch's own gradient.

    .. math:: \mathrm{E}_B\, \frac{g_B^\top H_B\, g_B}{\lVert g_B \rVert^2}

    SGD without momentum at a constant learning rate drives it to 2 / lr, as full-batch gradient descent does
    the largest eigenvalue; that stays below. With B = N it is the Rayleigh quotient of the Hessian along the
    gradient.

    Batches are drawn independently, each without replacement. In ``"batch"`` mode each is normalised by its
    own statistics, whatever the objective's own partition; in ``"recalibrated"`` mode statistics are those of
    the whole calibration data, held constant. g_B and H_B are those of the objective: its L2 term is in both.

    Parameters
    ----------
    objective
        Its examples are what batches are drawn from.
    batch_size
        B, at most N. Default: the objective's own, at most N.
    num_batches
        How many, at least two; where one batch holds all the examples, that one is taken.
    seed
        Of the draws.
    progress
        Called as ``progress(batches done, batches in all)``.

    Raises
    ------
    DerivativeError
        If no second derivative of this network can be trusted.
    NonFiniteLossError
        If the loss, a gradient or a product is not finite.
    ValueError
        If a count is out of range, or the gradient of a batch is zero, which is no direction.

    References
    ----------
    Andreyev and Beneventano (2024), Edge of Stochastic Stability, arXiv:2412.20553.
    """
    check_objective("objective", objective)
    check_count("num_batches", num_batches, 2)
    N = objective.num_examples
    size = min(objective.batch_size, N) if batch_size is None else batch_size
    check_count("batch_size", size)
    if size > N:
        raise ValueError(
            f"`batch_size` must be at most the {N} examples that batches are drawn from, got {size}."
        )
    rng = generator(seed, "batch_sharpness")
    _ = objective.effective_buffers  # computed once here, shared by the batches
    hessian = Hessian(objective)
    check = hessian.check
    count = 1 if size == N else num_batches
    quotients, squares = [], []
    for i in range(count):
        index = torch.randperm(N, generator=rng)[:size].sort().values
        batch = objective.select(index, size)
        gradient = batch.gradient()
        product = hessian.over(batch) @ gradient
        # Long sums belong in float64, which not every device has.
        g, Hg = gradient.cpu().double(), product.cpu().double()
        square = float(g @ g)
        if square == 0:
            raise ValueError(
                f"`objective` must have a gradient that is not zero in every batch, but that of batch {i} of "
                f"{size} examples is: it has no direction. Take larger batches, or another point."
            )
        quotients.append(float(g @ Hg) / square)
        squares.append(square)
        if progress:
            progress(i + 1, count)
    values = torch.tensor(quotients, dtype=torch.float64)
    spread = None if count == 1 else StandardError(float(values.std()) / count**0.5, count - 1)
    return BatchSharpness(
        value=float(values.mean()),
        error=ErrorBudget(data=spread),
        provenance={
            "function": "batch_sharpness",
            "arguments": {"batch_size": batch_size, "num_batches": num_batches, "seed": seed},
            "objective": objective.describe(),
            "operator": check.to_dict(),
        },
        batch_size=size,
        quotients=values,
        gradient_squares=torch.tensor(squares, dtype=torch.float64),
    )
