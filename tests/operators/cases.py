"""Networks with one trap each, their data in uneven batches, and their dense matrices by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from tests import networks
from tests.operators import oracle
from torch import Tensor, nn

from thalweg.core.errors import DerivativeError
from thalweg.objective.objective import Objective
from thalweg.operators.objective_operator import ObjectiveOperator

BATCH = 8


@dataclass(frozen=True)
class Case:
    """One problem; `model` and `data` are built afresh at each call."""

    model: Callable[[], nn.Module]
    data: Callable[[], Any]
    loss: Any = "cross_entropy"
    mode: str = "running"
    options: dict[str, Any] = field(default_factory=dict)

    def objective(self, dtype: torch.dtype = torch.float64, **options: Any) -> Objective:
        return Objective(
            self.model().to(dtype),
            self.data(),
            loss=self.loss,
            batch_norm=self.mode,  # type: ignore[arg-type]
            batch_size=BATCH,
            **{**self.options, **options},
        )


def frozen_residual() -> nn.Module:
    """Residual CNN with batch norm whose first convolution is frozen."""
    model = networks.residual()
    model.conv1.requires_grad_(False)  # type: ignore[union-attr]
    return model


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """In float64, affine parameters away from one and nought."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return networks.built(build())


def encoder() -> nn.Module:
    """A transformer's encoder layer, which has a fused fast path in eval mode."""
    return seeded(
        lambda: nn.Sequential(
            nn.Embedding(7, 4),
            nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    ).eval()


def normalised(norm: Callable[[], nn.Module]) -> nn.Module:
    """Convolution, a normalisation of 4 channels, a smooth nonlinearity, a dense layer."""
    return seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 4), norm(), nn.GELU(), nn.Flatten(), nn.Linear(36, 3))
    )


def pooled() -> nn.Module:
    """ReLU and max pooling: kinks, and ties."""
    return seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    )


def regression() -> tuple[Tensor, Tensor]:
    x = networks.vectors()[0]
    return x, torch.stack([x.sum(1).sin(), x[:, 0] * x[:, 1], x[:, 2]], 1)


def dictionary() -> dict[str, Tensor]:
    ids, labels = networks.tokens()
    mask = torch.ones_like(ids)
    mask[::3, 2:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """`(model, batch) -> (B,)`, as for models that compute their own loss."""
    outputs = model(batch["input_ids"], batch["attention_mask"])
    return F.cross_entropy(outputs.logits, batch["labels"], reduction="none", label_smoothing=0.1)


CASES: dict[str, Case] = {
    "residual-running": Case(frozen_residual, networks.images),
    "residual-recalibrated": Case(frozen_residual, networks.images, mode="recalibrated"),
    "residual-batch": Case(frozen_residual, networks.images, mode="batch"),
    "attention": Case(networks.attention, networks.tokens),
    "encoder-layer": Case(encoder, networks.tokens),
    "mlp-mse": Case(networks.mlp, regression, loss="mse"),
    "instance-norm": Case(lambda: normalised(lambda: nn.InstanceNorm2d(4, affine=True)), networks.images),
    "group-norm": Case(lambda: normalised(lambda: nn.GroupNorm(2, 4)), networks.images),
    "relu-max-pool": Case(pooled, networks.images),
    "tied": Case(networks.tied, lambda: (networks.tokens()[0], networks.tokens()[1] + 2)),
    "unused": Case(networks.with_unused, networks.vectors),
    "own-loss": Case(networks.dictionary_input, dictionary, loss=own_loss),
}

# Problems whose loss is a function of the model's outputs.
SPLIT_CASES = {name: case for name, case in CASES.items() if not callable(case.loss)}


@cache
def hessian_of(name: str) -> Tensor:
    """``(P, P)`` by the oracle."""
    case = CASES[name]
    return oracle.dense_hessian(case.model(), case.data(), case.loss, case.mode, BATCH)


@cache
def ggn_of(name: str) -> Tensor:
    """``(P, P)`` by the oracle."""
    case = CASES[name]
    return oracle.dense_ggn(case.model(), case.data(), case.loss, case.mode, BATCH)


def deviation(found: Tensor, true: Tensor) -> float:
    """Relative Frobenius norm of the difference."""
    return float((found.double() - true).norm() / true.norm())


def available(operator: ObjectiveOperator) -> bool:
    """Whether torch has what the one composition of this operator needs."""
    try:
        return operator.check.passed
    except DerivativeError as error:
        if "not available" not in str(error):
            raise
        return False
