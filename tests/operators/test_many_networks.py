"""The counts of `docs/derivatives.md`: how often the proof refuses what is right, or passes what is wrong."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.operators.cases import deviation
from torch import Tensor, nn
from torch.func import jacrev

from thalweg.core.errors import DerivativeError
from thalweg.objective.objective import Objective
from thalweg.operators.compositions import COMPOSITIONS
from thalweg.operators.ggn import GGN
from thalweg.operators.hessian import Hessian
from thalweg.operators.jacobians import jvp_together
from thalweg.operators.objective_operator import ObjectiveOperator

Data = tuple[Tensor, Tensor]
NUM_NETWORKS = 200


class SinglePrecision(nn.Module):
    """Refuses float64."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return self.model(x)


def with_kinks(seed: int) -> tuple[nn.Module, Data]:
    """A random network of ReLU and max pooling on a few random examples, a third of them with exact kinks."""
    rng = torch.Generator().manual_seed(seed)
    n, width = (int(torch.randint(1, high, (1,), generator=rng)) for high in (65, 25))
    torch.manual_seed(seed)
    images = torch.randn(n, 1, 8, 8)
    layers: list[nn.Module]
    if seed % 3 == 0:
        layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    else:
        layers = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        layers += [nn.Linear(16 * width, width), nn.ReLU()]
    if seed % 3 == 1:
        images = images.clamp(min=0)
        nn.init.zeros_(layers[0].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(width, 3)), (images, torch.randint(3, (n,)))


def normalised(seed: int) -> tuple[nn.Module, Data]:
    """A random network whose normalisation forward mode over `jacrev` gets wrong."""
    rng = torch.Generator().manual_seed(seed)
    n, width = (int(torch.randint(3, high, (1,), generator=rng)) for high in (50, 13))
    torch.manual_seed(seed)
    act = (nn.ReLU, nn.Tanh, nn.GELU)[seed % 3]()
    if seed % 2:
        layers: list[nn.Module] = [nn.Linear(5, width), nn.LayerNorm(width), act, nn.Linear(width, 3)]
        return nn.Sequential(*layers), (torch.randn(n, 5), torch.randint(3, (n,)))
    layers = [nn.Conv2d(1, width, 3), nn.InstanceNorm2d(width), act, nn.Flatten(), nn.Linear(16 * width, 3)]
    return nn.Sequential(*layers), (torch.randn(n, 1, 6, 6), torch.randint(3, (n,)))


def fitted(model: nn.Module, data: Data) -> nn.Module:
    """After 60 steps of descent: gradient and curvature close to nought."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model


def precisions(model: nn.Module, data: Data) -> Iterator[tuple[str, Objective]]:
    """In float64, in float32, and in float32 by a model that knows nothing else."""
    x, y = data
    yield "float64", Objective(copy.deepcopy(model).double(), (x.double(), y))
    yield "float32", Objective(model, data)
    yield "float32 only", Objective(SinglePrecision(model), data)


def passes(operator: ObjectiveOperator) -> bool:
    try:
        return operator.check.passed
    except DerivativeError:
        return False


@pytest.mark.slow
def test_right_products_are_not_refused() -> None:
    refused: Counter[tuple[str, str, str]] = Counter()
    for seed in range(NUM_NETWORKS):
        fresh, data = with_kinks(seed)
        for state, model in (("fresh", fresh), ("fitted", fitted(fresh, data))):
            for precision, objective in precisions(model, data):
                for kind in (Hessian, GGN):
                    operator = kind(objective)
                    if not passes(operator) or operator.check.rejected:
                        refused[state, precision, kind.__name__] += 1
    assert not refused


@pytest.mark.slow
def test_wrong_products_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    right = COMPOSITIONS["double_backward"]

    def scaled(*args: Any) -> dict[str, Tensor]:
        return {k: 1.001 * v for k, v in right(*args).items()}

    def jacfwd_of_jacrev(loss: Any, params: Any, tangents: Any) -> dict[str, Tensor]:
        return jvp_together(jacrev(loss), params, tangents)

    monkeypatch.setitem(COMPOSITIONS, "jacfwd_of_jacrev", jacfwd_of_jacrev)
    monkeypatch.setitem(COMPOSITIONS, "scaled", scaled)
    passed: Counter[tuple[str, str]] = Counter()
    for seed in range(NUM_NETWORKS):
        model, data = normalised(seed)
        for precision, objective in precisions(model, data):
            V = torch.randn(objective.space.dim, 4).to(objective.params)
            true = Hessian(objective).data_product(objective, "double_backward", V).double()
            for name in ("jacfwd_of_jacrev", "scaled"):
                # A thousandth is what single precision alone cannot tell.
                least = 2e-3 if precision == "float32 only" else 1e-5
                wrong = deviation(Hessian(objective).data_product(objective, name, V), true) > least
                passed[precision, name] += wrong and passes(Hessian(objective, name))
    assert not +passed
