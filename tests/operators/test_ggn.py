"""The generalised Gauss-Newton matrix against J^T H_l J by one backward for each output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import networks
from tests.operators import oracle
from tests.operators.cases import CASES, SPLIT_CASES, available, deviation, ggn_of, hessian_of
from torch import Tensor, nn

from thalweg.core.errors import DerivativeError
from thalweg.objective.objective import Objective
from thalweg.operators.gauss_newton_form import GAUSS_NEWTON_COMPOSITIONS
from thalweg.operators.ggn import GGN
from thalweg.operators.hessian import Hessian

MAY_BE_ABSENT = {("group-norm", "vmap_jvp_vjp"), ("group-norm", "jvp_vjp")}


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", SPLIT_CASES)
def test_oracle(name: str) -> None:
    operator = GGN(CASES[name].objective())
    G = operator @ torch.eye(operator.dim, dtype=torch.float64)
    assert deviation(G, ggn_of(name)) < 1e-11
    eigenvalues = torch.linalg.eigvalsh((G + G.T) / 2)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("composition", GAUSS_NEWTON_COMPOSITIONS)
@pytest.mark.parametrize("name", SPLIT_CASES)
def test_every_composition(name: str, composition: str) -> None:
    operator = GGN(CASES[name].objective(), composition)
    if (name, composition) in MAY_BE_ABSENT and not available(operator):
        return
    assert operator.check.composition == composition
    V = torch.randn(operator.dim, operator.block_size + 3, dtype=torch.float64)
    tolerance = 1e-6 if composition == "finite_differences" else 1e-11
    assert deviation(operator @ V, ggn_of(name) @ V) < tolerance
    assert deviation(operator @ V[:, 0], ggn_of(name) @ V[:, 0]) < tolerance


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", SPLIT_CASES)
def test_single_precision(name: str) -> None:
    operator = GGN(CASES[name].objective(torch.float32))
    assert operator.check.dtype == torch.float64
    V = torch.randn(operator.dim, 5)
    assert deviation(operator @ V, ggn_of(name) @ V.double()) < 1e-5


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("micro_batch", [1, 5, 21])
def test_micro_batch_changes_nothing(micro_batch: int) -> None:
    operator = GGN(CASES["residual-running"].objective(micro_batch=micro_batch))
    V = torch.randn(operator.dim, 3, dtype=torch.float64)
    torch.testing.assert_close(operator @ V, ggn_of("residual-running") @ V, rtol=1e-10, atol=1e-12)


def test_is_the_hessian_where_the_model_is_linear() -> None:
    model = nn.Linear(5, 3).double()
    objective = Objective(model, networks.vectors())
    V = torch.randn(18, 4, dtype=torch.float64)
    torch.testing.assert_close(GGN(objective) @ V, Hessian(objective) @ V, rtol=1e-11, atol=1e-14)


def test_is_not_the_hessian_elsewhere() -> None:
    assert deviation(ggn_of("mlp-mse"), hessian_of("mlp-mse")) > 0.1


@pytest.mark.usefixtures("proved")
def test_weight_decay_and_some_parameters() -> None:
    case = CASES["residual-batch"]
    G = ggn_of("residual-batch")
    with_decay = GGN(case.objective(weight_decay=0.3))
    V = torch.randn(len(G), 3, dtype=torch.float64)
    assert deviation(with_decay @ V, G @ V + 0.3 * V) < 1e-11
    objective = case.objective()
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    part = GGN(objective.restrict("head")) @ torch.eye(len(index), dtype=torch.float64)
    assert deviation(part, G[index][:, index]) < 1e-11


def chance_of_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss of the outputs that is not convex in them."""
    return 1 - (-F.cross_entropy(outputs, targets, reduction="none")).exp()


def test_loss_that_is_not_convex() -> None:
    """Curvature below nought is right there, and no reason to refuse a composition."""
    model, (x, y) = networks.mlp(), networks.vectors()
    operator = GGN(Objective(model, (x, y), loss=chance_of_error))
    params = oracle.trainable(model)
    outputs = model(x)
    J = torch.stack([oracle.flat_gradient(f, params, retain_graph=True) for f in outputs.reshape(-1)])
    curvature: Any = torch.autograd.functional.hessian(
        lambda f: chance_of_error(f.view_as(outputs), y).sum(), outputs.reshape(-1)
    )
    G = J.T @ curvature @ J / len(x)
    assert torch.linalg.eigvalsh(G)[0] < -1e-2
    assert deviation(operator @ torch.eye(operator.dim, dtype=torch.float64), G) < 1e-11


def test_concave_loss() -> None:
    """No positive curvature at all, and none asked for: only the named losses are known to be convex."""

    def gain(outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs.square().sum(1)

    operator = GGN(Objective(networks.mlp(), networks.vectors(), loss=gain))
    assert operator.check.rejected == ()
    v = torch.randn(operator.dim, dtype=torch.float64)
    assert float(v @ (operator @ v)) < 0


def test_dense_outputs() -> None:
    """Outputs with more dimensions than one an example: segmentation, language models."""
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3).double()
    x = networks.images()[0]
    y = torch.randint(3, (21, 4, 4))
    objective = Objective(model, (x, y))
    V = torch.randn(30, 4, dtype=torch.float64)
    torch.testing.assert_close(GGN(objective) @ V, Hessian(objective) @ V, rtol=1e-10, atol=1e-12)


def test_outputs_with_logits_and_dictionaries() -> None:
    ids, labels = networks.tokens()
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    operator = GGN(Objective(networks.dictionary_input(), data))
    assert operator.check.composition == "vmap_jvp_vjp"
    assert float(torch.linalg.eigvalsh(operator @ torch.eye(operator.dim).double())[-1]) > 0


def test_loss_of_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`of='ggn'` needs a loss of \(outputs, targets\).*own_loss takes"):
        GGN(CASES["own-loss"].objective())


class TwoOutputs(nn.Module):
    """Returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = self.linear(x)
        return f, f.square()


def pair_loss(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs[0], targets, reduction="none") + outputs[1].mean(1)


def test_outputs_that_are_no_tensor_are_refused() -> None:
    objective = Objective(TwoOutputs().double(), networks.vectors(), loss=pair_loss)
    with pytest.raises(TypeError, match=r"needs a model that returns one tensor .* got tuple"):
        _ = GGN(objective).check
    assert Hessian(objective).check.passed


# -- the self-check -----------------------------------------------------------------------------------


def twisted(change: Any) -> Any:
    def composition(network: Any, loss: Any, params: Any, tangents: Any) -> Any:
        return change(GAUSS_NEWTON_COMPOSITIONS["double_backward"](network, loss, params, tangents))

    return composition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda G: {k: 1.001 * v for k, v in G.items()}, "differs from the slope"),
        (lambda G: {k: -v for k, v in G.items()}, "has negative curvature although the loss is convex"),
        (lambda G: {k: v * (k != "0.bias") for k, v in G.items()}, "is asymmetric"),
        (
            lambda G: {k: torch.cat([v[:-1], 1.1 * v[-1:]]) if len(v) > 1 else v for k, v in G.items()},
            "other columns in a block than alone",
        ),
    ],
)
def test_wrong_products_are_rejected(monkeypatch: pytest.MonkeyPatch, change: Any, message: str) -> None:
    monkeypatch.setitem(GAUSS_NEWTON_COMPOSITIONS, "wrong", twisted(change))
    with pytest.raises(DerivativeError, match=message):
        _ = GGN(CASES["mlp-mse"].objective(), "wrong").check


def test_the_hessian_is_no_ggn(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.operators.compositions import COMPOSITIONS

    def hessian(network: Any, loss: Any, params: Any, tangents: Any) -> Any:
        return COMPOSITIONS["double_backward"](lambda p: loss(network(p)), params, tangents)

    monkeypatch.setitem(GAUSS_NEWTON_COMPOSITIONS, "hessian", hessian)
    for name in ("mlp-mse", "attention", "residual-batch"):
        with pytest.raises(DerivativeError, match="differs from the slope"):
            _ = GGN(CASES[name].objective(), "hessian").check
