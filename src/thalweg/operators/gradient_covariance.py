r"""The covariance of the per-example gradients of an objective as a linear operator.

.. math:: C = \frac1N \sum_{i=1}^N (g_i - g)(g_i - g)^\top, \qquad
   g_i = \nabla_\theta\, \ell(f_\theta(x_i), y_i), \quad g = \frac1N \sum_{i=1}^N g_i

Over N, not N - 1: the covariance of the gradient at one example drawn from these; that of a batch of B drawn
with replacement is C / B. An L2 term adds the same to every g_i, so that it does not enter.

No per-example gradient is ever held: the losses' slopes along a column are B numbers a micro-batch, by
forward mode, and what they weight is summed by reverse mode.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.jacobians import Named, gradient
from thalweg.operators.kernels import differentiable_kernels
from thalweg.operators.outputs import Network, OutputLoss
from thalweg.operators.slope_comparison import Claim
from thalweg.operators.sum_of_squares import SumOfSquares, refuse_batch_statistics

# Rounding of a difference of gradients, in units of eps times their mean's length: counted, it is about one.
ROUNDING_FACTOR = 10


class GradientCovariance(SumOfSquares):
    """C; see `ObjectiveOperator` for its arguments and for how it proves itself.

    Besides, its quadratic form must be the variance of the losses' slopes, which are taken by central
    differences. Products that are no longer than the rounding of :math:`g_i - g` allows are nought: all are
    where the examples are copies of one.

    Raises
    ------
    ValueError
        Under batch statistics, where an example has no gradient of its own; for a single example.
    """

    has_weight_decay = False

    def __init__(self, objective: Objective, *args: Any, **kwargs: Any) -> None:
        refuse_batch_statistics(
            objective, "The gradient covariance", ", or gradient_noise, which takes whole batches"
        )
        if objective.num_examples < 2:
            raise ValueError(
                "The gradient covariance needs at least two examples, since one has no spread; got 1."
            )
        self._mean: tuple[Objective, Named] | None = None
        super().__init__(objective, *args, **kwargs)

    def matmat(self, V: Tensor) -> Tensor:
        product = super().matmat(V)
        # What is left then is no multiple of V by any symmetric matrix.
        is_rounding = product.norm(dim=0) <= self._rounding(self.objective, self.dtype) * V.norm(dim=0)
        return torch.where(is_rounding, 0.0, product)

    def prepare(self, objective: Objective) -> None:
        self._mean_gradient(objective)

    def prepared(self, micro: MicroBatch) -> MicroBatch:
        return dataclasses.replace(micro, constants=self._mean_gradient(micro.objective))

    def split(self, micro: MicroBatch) -> tuple[Network, OutputLoss]:
        def network(params: Named) -> Tensor:
            # The gradient of this is g_i - g: taken off here, not from the product, where it would cancel.
            common = [(micro.constants[k] * p).sum() for k, p in params.items()]
            return micro.losses(params) - torch.stack(common).sum()

        return network, lambda losses: losses.square().sum() / 2

    def micro_slopes(self, micro: MicroBatch, ahead: Named, behind: Named) -> Tensor:
        return (micro.losses(ahead) - micro.losses(behind))[:, None] / 2

    def centred(self, slopes: Tensor) -> Tensor:
        return slopes - slopes.mean(0)

    def _claim(self) -> Claim:
        return dataclasses.replace(super()._claim(), rounding=self._rounding)

    def _rounding(self, objective: Objective, dtype: torch.dtype) -> float:
        """Length of a product with a unit vector by what rounding leaves of the differences of gradients."""
        return rounding_of(objective.space.flatten(self._mean_gradient(objective)).to(dtype))

    def _mean_gradient(self, objective: Objective) -> Named:
        """g by plain reverse mode; one pass over the data for all products."""
        if self._mean is None or self._mean[0] is not objective:
            named = objective.named_params
            with differentiable_kernels():
                total = objective.reduce(lambda micro: gradient(micro.loss_sum, named))
            self._mean = objective, {k: t / objective.num_examples for k, t in total.items()}
        return self._mean[1]


def rounding_of(mean: Tensor) -> float:
    """Squared length of a difference of gradients by rounding alone, about their mean ``(P,)``."""
    return (ROUNDING_FACTOR * torch.finfo(mean.dtype).eps * float(mean.norm())) ** 2
