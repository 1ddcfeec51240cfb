"""The gradient covariance against per-example gradients by plain reverse mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests import networks
from tests.operators import oracle
from tests.operators.cases import BATCH, CASES, deviation
from torch import Tensor

from thalweg.core.errors import DerivativeError
from thalweg.objective.objective import Objective
from thalweg.operators.fisher import Fisher
from thalweg.operators.gauss_newton_form import GAUSS_NEWTON_COMPOSITIONS
from thalweg.operators.gradient_covariance import GradientCovariance

ALONE = [name for name, case in CASES.items() if case.mode != "batch"]


def covariance_of(name: str) -> Tensor:
    case = CASES[name]
    G = oracle.example_gradients(case.model(), case.data(), case.loss, case.mode)
    return torch.cov(G.T, correction=0)


def dense(operator: Any) -> Tensor:
    return operator @ torch.eye(operator.dim, dtype=operator.dtype)


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", ALONE)
def test_oracle(name: str) -> None:
    C = dense(GradientCovariance(CASES[name].objective()))
    assert deviation(C, covariance_of(name)) < 1e-12
    assert deviation(C, C.T) < 1e-13
    eigenvalues = torch.linalg.eigvalsh((C + C.T) / 2)
    assert eigenvalues[0] > -1e-13 * eigenvalues[-1]


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("composition", GAUSS_NEWTON_COMPOSITIONS)
@pytest.mark.parametrize("name", ["residual-recalibrated", "encoder-layer", "tied", "unused", "own-loss"])
def test_every_composition(name: str, composition: str) -> None:
    operator = GradientCovariance(CASES[name].objective(), composition)
    assert operator.check.composition == composition
    V = torch.randn(operator.dim, operator.block_size + 3, dtype=torch.float64)
    tolerance = 1e-6 if composition == "finite_differences" else 1e-11
    assert deviation(operator @ V, covariance_of(name) @ V) < tolerance
    assert deviation(operator @ V[:, 0], covariance_of(name) @ V[:, 0]) < tolerance


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", ["residual-running", "own-loss"])
def test_empirical_fisher_is_covariance_and_mean(name: str) -> None:
    objective = CASES[name].objective()
    g = objective.gradient()
    assert (
        deviation(
            dense(GradientCovariance(objective)) + torch.outer(g, g), dense(Fisher(objective, "empirical"))
        )
        < 1e-12
    )


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("micro_batch", [5, 21])
def test_micro_batch_changes_nothing(micro_batch: int) -> None:
    operator = GradientCovariance(CASES["residual-running"].objective(micro_batch=micro_batch))
    assert deviation(dense(operator), covariance_of("residual-running")) < 1e-12


@pytest.mark.usefixtures("proved")
def test_weight_decay_does_not_enter() -> None:
    operator = GradientCovariance(CASES["residual-running"].objective(weight_decay=0.3))
    assert deviation(dense(operator), covariance_of("residual-running")) < 1e-12


@pytest.mark.usefixtures("proved")
def test_some_parameters_and_other_data() -> None:
    objective = CASES["residual-running"].objective()
    C = covariance_of("residual-running")
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    operator = GradientCovariance(objective.restrict("head"))
    assert deviation(dense(operator), C[index][:, index]) < 1e-11
    # The mean is that of the data it is asked for, and comes back with them.
    subset = objective.subset(9, seed=0)
    whole = GradientCovariance(objective)
    part = whole.over(subset)
    assert deviation(dense(part), dense(GradientCovariance(subset))) < 1e-11
    assert deviation(dense(whole), C) < 1e-12
    assert deviation(dense(part.over(objective)), C) < 1e-12


def test_mean_that_dwarfs_the_spread() -> None:
    """Targets far off: gradients a thousand times their spread, in single precision."""
    model, (x, _) = networks.mlp(), networks.vectors()
    with torch.no_grad():
        y = model(x) + 1e4 + torch.randn(21, 3, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)  # type: ignore[union-attr]
    G = oracle.example_gradients(model, (x, y), "mse", "running")
    assert float(G.mean(0).norm()) > 3e3 * float(G.std(0).norm())
    operator = GradientCovariance(Objective(model.float(), (x.float(), y.float()), loss="mse"), "jvp_vjp")
    product = operator.data_product(operator.objective, "jvp_vjp", torch.eye(3))
    assert deviation(product, torch.cov(G.T, correction=0)) < 2e-2


@pytest.mark.usefixtures("proved")
def test_single_precision() -> None:
    operator = GradientCovariance(CASES["residual-running"].objective(torch.float32))
    assert operator.check.dtype == torch.float64
    V = torch.randn(operator.dim, 5)
    assert deviation(operator @ V, covariance_of("residual-running") @ V.double()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["residual-running", "encoder-layer", "mlp-mse", "tied"])
@pytest.mark.parametrize("row", [0, 3])
def test_copies_of_one_example_have_none(name: str, dtype: torch.dtype, row: int) -> None:
    copies = tuple(part[row].repeat(40, *[1] * (part.ndim - 1)) for part in CASES[name].data())
    operator = GradientCovariance(dataclasses.replace(CASES[name], data=lambda: copies).objective(dtype))
    assert operator.check.nought
    assert operator.check.composition == "vmap_jvp_vjp"
    V = torch.randn(operator.dim, 3, dtype=dtype, generator=torch.Generator().manual_seed(row))
    assert not bool((operator @ V).any())
    assert not bool((operator @ V[:, 0]).any())


def test_nearly_copies_are_no_copies() -> None:
    """A spread far below the mean is multiplied as it is, by an operator that was proved elsewhere."""
    case = CASES["mlp-mse"]
    x, y = case.data()
    model = case.model()
    y = (model(x[:1]) + 1e3).detach().expand_as(y) + 1e-2 * y
    objective = Objective(model, (x[:1].expand_as(x).contiguous(), y.contiguous()), loss="mse")
    G = oracle.example_gradients(model, (x[:1].expand_as(x), y), "mse", "running")
    assert float(G.mean(0).norm()) > 2e4 * float(G.std(0).norm())
    operator = GradientCovariance(case.objective()).over(objective)
    assert deviation(dense(operator), torch.cov(G.T, correction=0)) < 1e-7


def test_one_example_has_no_spread() -> None:
    with pytest.raises(ValueError, match="needs at least two examples, since one has no spread; got 1"):
        GradientCovariance(Objective(networks.mlp(), networks.vectors(1)))


def wide() -> Objective:
    """More examples than a pass of eight columns takes."""
    x, y = torch.randn(300, 3, dtype=torch.float64), torch.randint(2, (300,))
    return Objective(torch.nn.Linear(3, 2).double(), (x, y))


@pytest.mark.parametrize(
    ("objective", "columns"), [(lambda: CASES["mlp-mse"].objective(micro_batch=5), 1), (wide, 8)]
)
def test_one_pass_for_the_mean(
    monkeypatch: pytest.MonkeyPatch, objective: Callable[[], Objective], columns: int
) -> None:
    operator = GradientCovariance(objective())
    v = torch.ones(operator.dim, columns, dtype=torch.float64)
    _ = operator @ v
    passes: list[int] = []
    reduce = Objective.reduce
    monkeypatch.setattr(Objective, "reduce", lambda o, *args: passes.append(1) or reduce(o, *args))
    _ = operator @ v
    assert len(passes) == 1


def test_batch_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gradient covariance is made of per-example .* Use batch_norm="):
        GradientCovariance(CASES["residual-batch"].objective())
    objective = Objective(networks.mlp(), networks.vectors(), batch_norm="batch", batch_size=BATCH)
    assert GradientCovariance(objective).check.passed


def test_wrong_mean_is_seen_by_the_squared_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outer products about any other point are symmetric and never negative, too."""
    mean = GradientCovariance._mean_gradient

    def off(self: GradientCovariance, objective: Objective) -> dict[str, Tensor]:
        return {k: 1.1 * g for k, g in mean(self, objective).items()}

    monkeypatch.setattr(GradientCovariance, "_mean_gradient", off)
    with pytest.raises(DerivativeError, match="differs from the mean of squared slopes"):
        _ = GradientCovariance(CASES["mlp-mse"].objective()).check
