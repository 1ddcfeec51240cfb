r"""The exact Hessian of an objective as a linear operator.

.. math:: H = \frac1N \sum_{i=1}^N \nabla^2_\theta\, \ell(f_\theta(x_i), y_i) + \lambda I
"""

from __future__ import annotations

import copy

import torch

from thalweg.objective.micro_batch import MicroBatch
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
from thalweg.operators.self_check import CHECK_EXAMPLES, SelfCheck
from thalweg.operators.slope_comparison import OUT_OF_MEMORY, probes, relative

# What plain forward mode may differ by from `torch.func`'s, relatively: in single precision, and in double.
PLAIN_TOLERANCE = (1e-4, 1e-10)


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
        first = self._check is None
        check = super().check
        if first and check.composition == "vmap_jvp_grad":
            self._plain = self._plain_agrees(check)
        return check

    def _plain_agrees(self, check: SelfCheck) -> bool:
        """Whether plain forward mode gives what was proved, where it was and in the objective's precision."""
        own = self.objective.subset(min(CHECK_EXAMPLES, self.objective.num_examples), seed=0)
        precise = check.dtype == torch.float64 and own.dtype != torch.float64
        plain = copy.copy(self)
        plain._plain = True
        try:
            for o in (own, own.to_dtype(torch.float64)) if precise else (own,):
                v = probes(o, 1)
                proved = self.data_product(o, check.composition, v)
                error = relative(plain.data_product(o, check.composition, v), proved)
                if not (error <= PLAIN_TOLERANCE[o.dtype == torch.float64] and float(proved.norm()) > 0):
                    return False
        except OUT_OF_MEMORY:
            raise
        except Exception:
            return False  # a layer has no rule for it
        return True

    def micro_product(self, composition: str, micro: MicroBatch, params: Named, tangents: Named) -> Named:
        if self._plain and num_columns(tangents) == 1:
            return stacked([slope_of_gradient(micro.loss_sum, params, column(tangents, 0))])
        return COMPOSITIONS[composition](micro.loss_sum, params, tangents)

    def micro_gradient(self, micro: MicroBatch, params: Named, displacement: Named) -> Named:
        return gradient(micro.loss_sum, {k: p + displacement[k] for k, p in params.items()})
