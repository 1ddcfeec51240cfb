"""`fisher_rao_norm`: dense matrices, a closed form, all its invariances, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests import networks
from tests.measures.sharpness.rescaled import (
    batch,
    normed,
    permute_units,
    relu_mlp,
    rescale_filters,
    rescale_relu,
    turned,
)
from tests.operators.cases import CASES
from tests.operators.oracle import dense_fisher, dense_ggn, example_gradients, prepared, trainable
from torch import Tensor, nn

import thalweg as tw
from thalweg.measures.sharpness.fisher_rao_norm import fisher_rao_norm
from thalweg.objective.objective import Objective


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in trainable(model)])


@pytest.mark.parametrize("name", ["residual-running", "residual-recalibrated", "mlp-mse", "tied", "unused"])
def test_dense_matrices(name: str) -> None:
    case = CASES[name]
    theta = flat(case.model())
    F = dense_fisher(case.model(), case.data(), case.loss, case.mode)
    result = fisher_rao_norm(case.objective(weight_decay=0.7))
    assert result.value == pytest.approx(float(theta @ F @ theta), rel=1e-10)
    assert result.root == pytest.approx(math.sqrt(result.value))
    assert result.parameter_norm == pytest.approx(float(theta.norm()))
    assert result.interval() == (result.value, result.value)
    assert "exact" in repr(result)
    g = example_gradients(case.model(), case.data(), case.loss, case.mode)
    empirical = fisher_rao_norm(case.objective(), of="empirical_fisher")
    assert empirical.value == pytest.approx(float((g @ theta).square().mean()), rel=1e-10)
    assert empirical.value != pytest.approx(result.value, rel=1e-3)


def test_batch_statistics() -> None:
    """There the Fisher information is the Gauss-Newton matrix by definition."""
    case = CASES["residual-batch"]
    theta = flat(case.model())
    G = dense_ggn(case.model(), case.data(), mode="batch")
    assert fisher_rao_norm(case.objective()).value == pytest.approx(float(theta @ G @ theta), rel=1e-10)
    with pytest.raises(ValueError, match="per-example gradients, which do not exist with batch_norm='batch'"):
        fisher_rao_norm(case.objective(), of="empirical_fisher")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_networks_of_relu_without_biases(depth: int) -> None:
    """They are homogeneous: theta . grad f = depth * f, so that the norm follows from the outputs alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(depth)
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(5 if i == 0 else 4, 3 if i == depth - 1 else 4, bias=False), nn.ReLU()]
        model = nn.Sequential(*layers[:-1]).double()
    x, y = batch("vectors")
    f = model(x).detach()
    p = f.softmax(1)
    spread = (p * f.square()).sum(1) - (p * f).sum(1).square()
    assert fisher_rao_norm(Objective(model, (x, y))).value == pytest.approx(
        depth**2 * float(spread.mean()), rel=1e-10
    )
    targets = torch.zeros_like(f)
    expected = depth**2 * 2 / 3 * float(f.square().sum(1).mean())
    assert fisher_rao_norm(Objective(model, (x, targets), loss="mse")).value == pytest.approx(
        expected, rel=1e-10
    )


CHANGES: dict[str, tuple[Any, Any, Any]] = {
    "relu units": (relu_mlp, rescale_relu, lambda: batch("vectors")),
    "permutation": (relu_mlp, permute_units, lambda: batch("vectors")),
    "filters": (normed, rescale_filters, lambda: batch("images")),
    "queries and keys": (networks.attention, lambda m: turned(m, "query_key"), networks.tokens),
    "values and outputs": (networks.attention, lambda m: turned(m, "value_output"), networks.tokens),
}


@pytest.mark.parametrize("of", ["fisher", "empirical_fisher"])
@pytest.mark.parametrize("name", CHANGES)
def test_linear_changes_of_the_parameters_leave_it(name: str, of: str) -> None:
    build, change, data = CHANGES[name]
    before, after = (Objective(m, data()) for m in (build(), change(build())))
    assert before.value() == pytest.approx(after.value(), rel=1e-10)
    a, b = fisher_rao_norm(before, of=of), fisher_rao_norm(after, of=of)
    assert a.value == pytest.approx(b.value, rel=1e-9)
    moves = name != "permutation"
    assert (abs(a.parameter_norm / b.parameter_norm - 1) > 0.01) == moves
    raw = [tw.top_eigenvalues(o, rtol=1e-4, certify_rtol=None, seed=0).value for o in (before, after)]
    assert (abs(raw[0] / raw[1] - 1) > 1e-3) == moves


@pytest.mark.parametrize("mode", ["recalibrated", "batch"])
def test_filters_in_the_other_modes(mode: Any) -> None:
    model = normed(eps=1e-12)
    if mode == "recalibrated":
        model = prepared(model, batch("images"), "cross_entropy", mode)
    values = [
        fisher_rao_norm(Objective(m, batch("images"), batch_norm=mode, batch_size=8)).value
        for m in (model, rescale_filters(model))  # type: ignore[arg-type]
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_noughts_and_refusals() -> None:
    model = relu_mlp()
    for p in model.parameters():
        nn.init.zeros_(p)
    assert fisher_rao_norm(Objective(model, batch("vectors"))).root == 0
    objective = CASES["own-loss"].objective()
    with pytest.raises(ValueError, match="known to be a negative log-likelihood"):
        fisher_rao_norm(objective)
    assert fisher_rao_norm(objective, of="empirical_fisher").value > 0
    with pytest.raises(ValueError, match=r"`of` must be one of fisher, empirical_fisher, got 'hessian'"):
        fisher_rao_norm(objective, of="hessian")
