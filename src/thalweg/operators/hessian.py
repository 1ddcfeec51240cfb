r"""The exact Hessian of an objective as a linear operator.

.. math:: H = \frac1N \sum_{i=1}^N \nabla^2_\theta\, \ell(f_\theta(x_i), y_i) + \lambda I
"""

from __future__ import annotations

import copy
import dataclasses

import torch

from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.compositions import COMPOSITIONS
from thalweg.operators.jacobians import (
    Named,
    column,
    gradient,
    num_columns,
    slope_of_gradient,
    stacked,
)
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.operators.self_check import SelfCheck, check_examples
from thalweg.operators.slope_comparison import OUT_OF_MEMORY, probes, relative

# What plain forward mode may differ by from `torch.func`'s, relatively.
PLAIN_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


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

    # Whether single columns go by plain forward mode, which is faster where it agrees.
    _plain = False

    @property
    def check(self) -> SelfCheck:
        if self._check is None:
            proved = super().check
            self._plain = proved.composition == "vmap_jvp_grad" and self._plain_agrees(proved)
            self._check = dataclasses.replace(proved, plain_columns=self._plain)
        return self._check

    def _plain_agrees(self, check: SelfCheck) -> bool:
        """Whether plain forward mode gives what was proved, where it was and in the objective's precision."""
        own = check_examples(self.objective)
        precise = check.dtype == torch.float64 and own.dtype != torch.float64
        points = (own, own.to_dtype(torch.float64)) if precise else (own,)
        return all(self._plain_agrees_on(o) for o in points)

    def _plain_agrees_on(self, o: Objective) -> bool:
        v = probes(o, 1)
        proved = self.data_product(o, "vmap_jvp_grad", v)
        plain = copy.copy(self)
        plain._plain = True
        error = relative(plain.data_product(o, "vmap_jvp_grad", v), proved)
        return plain._plain and error <= PLAIN_TOLERANCE.get(o.dtype, 0.0) and float(proved.norm()) > 0

    def micro_product(self, composition: str, micro: MicroBatch, params: Named, tangents: Named) -> Named:
        if self._plain and num_columns(tangents) == 1:
            try:
                return stacked([slope_of_gradient(micro.loss_sum, params, column(tangents, 0))])
            except OUT_OF_MEMORY:
                raise
            except Exception:
                # A layer has no rule for it, in the proof or where later data take another branch.
                self._plain = False
        return COMPOSITIONS[composition](micro.loss_sum, params, tangents)

    def micro_gradient(self, micro: MicroBatch, params: Named, displacement: Named) -> Named:
        return gradient(micro.loss_sum, {k: p + displacement[k] for k, p in params.items()})
