r"""What all means of outer products over the examples share: no negative eigenvalue, and a proof by squares.

.. math:: v^\top A v = \frac1N \sum_{i=1}^N \sum_r (s_{ir}^\top v)^2

The s are gradients of functions that the network can be asked for, so that the right-hand side is had from
forward passes alone, by central differences.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.objective.reduction import Rows
from thalweg.operators.gauss_newton_form import GaussNewtonForm
from thalweg.operators.jacobians import Named
from thalweg.operators.kernels import differentiable_kernels
from thalweg.operators.slope_comparison import Claim


class SumOfSquares(GaussNewtonForm):
    """A mean of outer products; a sub-class says of what, in two ways: `split` and `micro_slopes`."""

    def __init__(self, objective: Objective, *args: Any, **kwargs: Any) -> None:
        refuse_weights(objective, f"The matrix {type(self).__name__}")
        super().__init__(objective, *args, **kwargs)

    def over(self, objective: Objective) -> Self:
        refuse_weights(objective, f"The matrix {type(self).__name__}")
        return super().over(objective)

    @property
    def is_convex(self) -> bool:
        return True

    @abstractmethod
    def micro_slopes(self, micro: MicroBatch, ahead: Named, behind: Named) -> Tensor:
        """``(B, R)``: what is squared, as half the difference between two points, by forward passes."""

    def centred(self, slopes: Tensor) -> Tensor:
        """All examples' slopes ``(N, R)`` about what they are to be taken about: nought."""
        return slopes

    def data_squares(self, objective: Objective, displacement: Tensor) -> float:
        """The quadratic form along a short displacement ``(P,)``, by forward passes."""
        self.prepare(objective)
        named, moved = objective.named_params, objective.space.unflatten(displacement)
        ahead, behind = ({k: p + sign * moved[k] for k, p in named.items()} for sign in (1, -1))

        def slopes_of(micro: MicroBatch) -> Rows:
            return Rows(self.micro_slopes(self.prepared(micro), ahead, behind))

        with torch.no_grad(), differentiable_kernels():
            slopes = objective.reduce(slopes_of, given=[displacement])
        return float(self.centred(slopes).square().sum()) / objective.num_examples

    def _claim(self) -> Claim:
        return dataclasses.replace(super()._claim(), squares=self.data_squares)


def refuse_weights(objective: Objective, what: str) -> None:
    """Raise where examples have weights, which a square of an example's loss would square."""
    if objective.is_weighted:
        raise ValueError(
            f"{what} is not defined for weighted examples; use of='hessian' or of='ggn', or an objective "
            "without `weights`."
        )


def refuse_batch_statistics(objective: Objective, what: str, remedy: str) -> None:
    """Raise where an example's loss is no function of that example."""
    if objective.batch_norm == "batch" and objective.has_batch_norm:
        raise ValueError(
            f"{what} is made of per-example gradients, which do not exist with batch_norm='batch': there an "
            f"example's loss depends on its whole batch. Use batch_norm='running' or 'recalibrated'{remedy}."
        )
