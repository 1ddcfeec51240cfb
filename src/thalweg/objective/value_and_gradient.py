"""Loss and gradient of an objective in one pass over the data."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.objective.evaluation import l2_term
from thalweg.objective.guards import finite_gradient
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective

# What a gradient costs, in passes forward.
GRADIENT_PASSES = 3


def value_and_gradient(objective: Objective) -> tuple[float, Tensor]:
    """``objective.value()`` and ``objective.gradient()`` ``(P,)``, for a forward pass less than one by one.

    Raises
    ------
    NonFiniteLossError
        If either is not finite, naming the batch where the loss is at fault.
    """
    named = objective.named_params

    def summed(params: dict[str, Tensor], micro: MicroBatch) -> tuple[Tensor, Tensor]:
        losses = micro.losses(params)
        return losses.sum(), losses.detach()

    def sums(micro: MicroBatch) -> tuple[Tensor, Tensor]:
        gradient, losses = torch.func.grad(summed, has_aux=True)(named, micro)
        # Float64 as in the objective's own value: a rise is a small difference of two losses.
        return objective.space.flatten(gradient), losses.cpu().double().sum()

    gradient_sum, loss_sum = objective.reduce(sums)
    gradient = gradient_sum / objective.num_examples + objective.weight_decay * objective.params
    if not bool(loss_sum.isfinite()):
        objective.value()  # names the batch
    gradient = finite_gradient(objective, gradient)
    penalty = l2_term(objective, objective.params)
    return float(loss_sum) / objective.num_examples + penalty, gradient
