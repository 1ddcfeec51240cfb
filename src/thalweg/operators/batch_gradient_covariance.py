r"""The covariance of the gradients of whole batches, for where an example has no gradient of its own.

.. math:: C = \frac1U \sum_{u=1}^U n_u\, (g_u - g)(g_u - g)^\top

over the U batches of the partition, of :math:`n_u` examples each: in units of one example, so that C / B is
the covariance of a full batch's gradient, as it is of the per-example one (`GradientCovariance`), whose
formula this is where a unit is an example.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.linalg.linear_operator import LinearOperator
from thalweg.operators.gradient_covariance import rounding_of
from thalweg.operators.jacobians import Named
from thalweg.operators.unit_gradients import UnitGradients


class BatchGradientCovariance(LinearOperator):
    """C by one gradient of each batch a product, whatever its number of columns; exact, never held.

    >>> import torch
    >>> from thalweg.objective.objective import Objective
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2)).double()
    >>> x = torch.arange(8.0)[:, None].double()
    >>> o = Objective(net, (x, (x * x).expand(8, 2)), loss="mse", batch_norm="batch", batch_size=4)
    >>> C = BatchGradientCovariance(UnitGradients(o))
    >>> (C @ torch.ones(8).double()).shape
    torch.Size([8])
    """

    def __init__(self, units: UnitGradients) -> None:
        self.units = units
        objective = units.objective
        super().__init__(dim=objective.space.dim, dtype=objective.dtype, device=objective.device)

    @property
    def least_eigenvalue(self) -> float:
        return 0.0

    def matmat(self, V: Tensor) -> Tensor:
        def product(deviations: Named, sizes: Tensor) -> Tensor:
            return self.units.combined(deviations, sizes[:, None] * self.units.dot(deviations, V))

        result = self.units.each(product, [V]) / self.units.num_units
        is_rounding = result.norm(dim=0) <= rounding_of(self.units.mean) * V.norm(dim=0)
        return torch.where(is_rounding, 0.0, result)
