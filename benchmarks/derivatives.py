"""The Hessian of another library on the networks of `docs/derivatives.md`: relative error and asymmetry.

    pip install . curvlinops-for-pytorch==3.0.1
    PYTHONPATH=. python benchmarks/derivatives.py

An environment of its own, so that neither the package nor its tests depend on the library. The truth is the
tests' own oracle, double backward row by row, confirmed by central differences of the gradient.
"""

from __future__ import annotations

import importlib.metadata

import curvlinops  # type: ignore[import-not-found]
import torch
from tests.operators import oracle
from tests.operators.cases import deviation
from tests.operators.normalised import LAYERS, problem, ready
from torch import Tensor, nn

from thalweg.objective.objective import Objective
from thalweg.operators.ggn import GGN
from thalweg.operators.hessian import Hessian


def dense(layer: str, operator: type) -> Tensor:
    """Its matrix ``(P, P)`` as its documentation says: model, loss module, parameters, batches."""
    model, data, mode = problem(layer)
    model = ready(model, data, mode)
    params = [p for p in model.parameters() if p.requires_grad]
    A = operator(model, nn.CrossEntropyLoss(), params, [data])
    return A @ torch.eye(sum(p.numel() for p in params), dtype=torch.float64)


def main() -> None:
    """One line a normalisation and matrix."""
    version = importlib.metadata.version("curvlinops-for-pytorch")
    print(f"curvlinops {version}, torch {torch.__version__}, float64")
    print(f"{'normalisation':32} {'matrix':8} {'ours':>8} {'theirs':>8} {'asymmetry':>10}")
    for layer in LAYERS:
        model, data, mode = problem(layer)
        objective = Objective(model, data, batch_norm=mode, batch_size=21)  # type: ignore[arg-type]
        for name, reference, ours, theirs in (
            ("Hessian", oracle.dense_hessian, Hessian, curvlinops.HessianLinearOperator),
            ("GGN", oracle.dense_ggn, GGN, curvlinops.GGNLinearOperator),
        ):
            true = reference(model, data, mode=mode, batch_size=21)
            own = deviation(ours(objective) @ torch.eye(len(true), dtype=true.dtype), true)
            found = dense(layer, theirs)
            skew = float((found - found.T).norm() / true.norm())
            print(f"{layer:32} {name:8} {own:8.0e} {deviation(found, true):8.0e} {skew:10.0e}")


if __name__ == "__main__":
    main()
