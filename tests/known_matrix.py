"""A matrix in memory in the place of the derivatives, so that a measure is repeated thousands of times."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import ClassVar

import pytest
from tests.solvers.planted import orthogonal
from torch import Tensor

from thalweg.linalg.linear_operator import DenseOperator
from thalweg.objective.objective import Objective

# Measures that ask for a matrix by its name.
MODULES = [
    "thalweg.analyses.curvature_profile",
    *(
        f"thalweg.measures.curvature.{name}"
        for name in ("block_curvature", "hessian_trace", "spectral_density", "top_eigenvalues")
    ),
    "thalweg.measures.sharpness.normalized_curvature",
]


class Known(DenseOperator):
    """A symmetric matrix over an objective; whatever data it is asked for over, it is the same."""

    has_weight_decay: ClassVar[bool] = False

    def __init__(self, objective: Objective, matrix: Tensor) -> None:
        super().__init__((matrix + matrix.T) / 2)
        self.objective, self.check = objective, SimpleNamespace(to_dict=dict)

    def over(self, _objective: Objective) -> Known:
        return self

    def counting(self, _on_examples: object) -> Known:
        return self


class Planted(Known):
    """The mean of the examples' matrices ``Q diag(curvatures) Q^T``, computed at once."""

    def __init__(self, objective: Objective) -> None:
        mean = objective._examples.batch[0].mean(0)  # type: ignore[index]
        Q = orthogonal(len(mean))
        super().__init__(objective, Q * mean @ Q.T)

    def over(self, objective: Objective) -> Planted:
        return Planted(objective)


def use(operator: Known, monkeypatch: pytest.MonkeyPatch) -> Known:
    """Whatever matrix a measure asks for, it gets this one."""
    for module in MODULES:
        monkeypatch.setattr(importlib.import_module(module), "operator_named", lambda *_, **__: operator)
    preconditioned = importlib.import_module("thalweg.measures.sharpness.preconditioned_sharpness")
    monkeypatch.setattr(preconditioned, "Hessian", lambda _: operator)
    return operator
