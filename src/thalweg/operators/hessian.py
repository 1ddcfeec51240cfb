r"""The exact Hessian of an objective as a linear operator.

.. math:: H = \frac1N \sum_{i=1}^N \nabla^2_\theta\, \ell(f_\theta(x_i), y_i) + \lambda I
"""

from __future__ import annotations

import dataclasses

import torch

from thalweg.core.interrupts import interrupts_kept
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

# The name of plain forward over plain reverse mode, for single columns; it is no composition to ask for.
PLAIN = "plain"

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

    def _proved(self) -> SelfCheck:
        check = super()._proved()
        agrees = check.composition == "vmap_jvp_grad" and self._plain_agrees(check)
        return dataclasses.replace(check, plain_columns=agrees)

    def _plain_agrees(self, check: SelfCheck) -> bool:
        """Whether plain forward mode gives what was proved, where it was and in the objective's precision."""
        own = check_examples(self.objective)
        precise = check.dtype == torch.float64 and own.dtype != torch.float64
        points = (own, own.to_dtype(torch.float64)) if precise else (own,)
        return all(self._plain_agrees_on(o, check.composition) for o in points)

    def _plain_agrees_on(self, o: Objective, composition: str) -> bool:
        v = probes(o, 1)
        proved = self.data_product(o, composition, v)
        try:
            error = relative(self.data_product(o, PLAIN, v), proved)
        except OUT_OF_MEMORY:
            raise
        except Exception:
            return False  # a layer has no rule for it
        return error <= PLAIN_TOLERANCE.get(o.dtype, 0.0) and float(proved.norm()) > 0

    def micro_product(self, composition: str, micro: MicroBatch, params: Named, tangents: Named) -> Named:
        if composition == PLAIN:
            return stacked([slope_of_gradient(micro.loss_sum, params, column(tangents, 0))])
        if self._check is not None and self._check.plain_columns and num_columns(tangents) == 1:
            try:
                with interrupts_kept():
                    return self.micro_product(PLAIN, micro, params, tangents)
            except OUT_OF_MEMORY:
                raise
            except RuntimeError:
                pass  # these data take a branch of the model where a layer has no rule for it
        return COMPOSITIONS[composition](micro.loss_sum, params, tangents)

    def micro_gradient(self, micro: MicroBatch, params: Named, displacement: Named) -> Named:
        return gradient(micro.loss_sum, {k: p + displacement[k] for k, p in params.items()})
