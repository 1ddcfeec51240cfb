r"""A matrix over an objective in other coordinates of the parameters: :math:`S^\top A S`, S constant."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Self

from torch import Tensor

from thalweg.linalg.congruence import Congruence, LinearMap
from thalweg.objective.objective import Objective
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.operators.self_check import SelfCheck


class CongruentOperator(Congruence):
    """What solvers ask of an `ObjectiveOperator`, in other coordinates.

    Parameters
    ----------
    operator
        A.
    *maps
        Factors of S, on the operator's device and in its dtype.
    diagonal
        What is added in the new coordinates, whatever the data.
    """

    operator: ObjectiveOperator

    def __init__(self, operator: ObjectiveOperator, *maps: LinearMap, diagonal: Tensor | None = None) -> None:
        super().__init__(operator, *maps, diagonal=diagonal)

    @property
    def objective(self) -> Objective:
        """The function and the point of A."""
        return self.operator.objective

    @property
    def check(self) -> SelfCheck:
        """How the products with A were proved; proves them on first use."""
        return self.operator.check

    def over(self, objective: Objective) -> Self:
        """The same coordinates of the same matrix over other data."""
        return self._like(self.operator.over(objective))

    def counting(self, on_examples: Callable[[int], None]) -> Self:
        """The same operator that reports its work."""
        return self._like(self.operator.counting(on_examples))

    def _like(self, operator: ObjectiveOperator) -> Self:
        other = copy.copy(self)
        other.operator = operator
        return other
