r"""The exact Hessian of an objective as a linear operator.

.. math:: H = \frac1N \sum_{i=1}^N \nabla^2_\theta\, \ell(f_\theta(x_i), y_i) + \lambda I
"""

from __future__ import annotations

from thalweg.objective.micro_batch import MicroBatch
from thalweg.operators.compositions import COMPOSITIONS
from thalweg.operators.jacobians import Named, gradient
from thalweg.operators.objective_operator import ObjectiveOperator


class Hessian(ObjectiveOperator):
    """H of the mean loss; see `ObjectiveOperator` for its arguments and for how it proves itself.

    Its compositions are ``"vmap_jvp_grad"``, ``"jvp_grad"``, ``"double_backward"`` and, last,
    ``"finite_differences"`` of the gradient.

    >>> import torch
    >>> from thalweg.objective.objective import Objective
    >>> line = torch.nn.Linear(1, 1, bias=False).double()
    >>> x = torch.tensor([[1.0], [2.0], [4.0]]).double()
    >>> Hessian(Objective(line, (x, 0 * x), loss="mse")) @ torch.ones(1).double()  # 2 mean(x^2)
    tensor([14.], dtype=torch.float64)
    """

    compositions = COMPOSITIONS

    def micro_product(self, composition: str, micro: MicroBatch, params: Named, tangents: Named) -> Named:
        return COMPOSITIONS[composition](micro.loss_sum, params, tangents)

    def micro_gradient(self, micro: MicroBatch, params: Named, displacement: Named) -> Named:
        return gradient(micro.loss_sum, {k: p + displacement[k] for k, p in params.items()})
