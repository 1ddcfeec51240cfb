"""An operator over data whose matrix is known in closed form: what a count of thousands of samples needs."""

from __future__ import annotations

from tests.solvers import curved_logits, softmax_regression

from thalweg.linalg.linear_operator import DenseOperator
from thalweg.objective.objective import Objective


class KnownHessian(DenseOperator):
    """The same matrix as `Hessian`, computed at once."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.check = objective, None
        model = curved_logits if len(objective._examples.batch) == 3 else softmax_regression
        matrix = model.hessian(objective)
        super().__init__((matrix + matrix.T) / 2)

    def over(self, objective: Objective) -> KnownHessian:
        return KnownHessian(objective)

    def counting(self, _on_examples: object) -> KnownHessian:
        return self
