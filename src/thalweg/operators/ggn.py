r"""The generalised Gauss-Newton matrix of an objective as a linear operator.

.. math:: G = \frac1N \sum_{i=1}^N J_i^\top\, \nabla^2_f \ell(f_i, y_i)\, J_i + \lambda I,
   \qquad f_i = f_\theta(x_i), \quad J_i = \partial f_i / \partial\theta

The Hessian of the loss of the *linearised* network: without the curvature of the network itself. It has no
negative eigenvalue where the loss is convex in the outputs.

References
----------
Schraudolph (2002), Neural Computation 14(7), 1723-1738.
"""

from __future__ import annotations

from typing import Any

from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.gauss_newton_form import GaussNewtonForm
from thalweg.operators.outputs import Network, OutputLoss, refuse_loss_of_model, split_at_outputs


class GGN(GaussNewtonForm):
    """G of the mean loss; see `ObjectiveOperator` for its arguments and for how it proves itself.

    Its compositions are those of `GaussNewtonForm`. For named losses, which are convex in the outputs, the
    proof also asks for curvature that is not negative.

    Raises
    ------
    ValueError
        If the loss is not a function of the model's outputs, or these are not one tensor.
    """

    def __init__(self, objective: Objective, *args: Any, **kwargs: Any) -> None:
        refuse_loss_of_model(objective)
        super().__init__(objective, *args, **kwargs)

    @property
    def is_convex(self) -> bool:
        return self.objective.loss.is_convex_in_outputs

    def split(self, micro: MicroBatch) -> tuple[Network, OutputLoss]:
        return split_at_outputs(micro)
