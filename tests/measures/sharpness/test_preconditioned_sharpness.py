"""`preconditioned_sharpness`: dense matrices, thresholds by running the optimizers, matching, refusals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests import networks
from tests.measures.sharpness.rescaled import batch, relu_mlp
from tests.operators.oracle import dense_hessian
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import thalweg as tw
from thalweg.measures.sharpness.preconditioned_sharpness import (
    PreconditionedSharpness,
    preconditioned_sharpness,
)
from thalweg.objective.objective import Objective

TIGHT: dict[str, Any] = {"rtol": 1e-8, "certify_rtol": None, "seed": 0}


def trained(
    build: Callable[..., Optimizer], num_steps: int = 3, model: nn.Module | None = None, **arguments: Any
) -> tuple[nn.Module, Optimizer]:
    """A small network and an optimizer that has taken some steps."""
    model = relu_mlp() if model is None else model
    optimizer = build(model.parameters(), **arguments)
    x, y = batch("vectors")
    for _ in range(num_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def by_hand(model: nn.Module, optimizer: Optimizer) -> Tensor:
    """P, written down once more."""
    parts = []
    for p in model.parameters():
        state, group = optimizer.state[p], optimizer.param_groups[0]
        if isinstance(optimizer, SGD):
            parts.append(torch.ones_like(p))
        elif isinstance(optimizer, RMSprop):
            v = state["square_avg"] - (state["grad_avg"] ** 2 if group["centered"] else 0)
            parts.append(v.sqrt() + group["eps"])
        else:
            b1, b2 = group["betas"]
            v = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
            t = int(state["step"])
            parts.append((1 - b1**t) * ((v / (1 - b2**t)).sqrt() + group["eps"]))
    return flat(parts)


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], float]] = {
    # Class, settings, threshold times learning rate.
    "gradient descent": (SGD, {"lr": 0.1}, 2.0),
    "heavy ball": (SGD, {"lr": 0.1, "momentum": 0.9}, 3.8),
    "dampened": (SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.4}, 5.0),
    "nesterov": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, 3.8 / 2.8),
    "adam": (Adam, {"lr": 0.01}, 38.0),
    "adam without momentum": (Adam, {"lr": 0.01, "betas": (0.0, 0.99)}, 2.0),
    "amsgrad": (Adam, {"lr": 0.01, "betas": (0.8, 0.9), "amsgrad": True, "eps": 1e-3}, 18.0),
    "coupled decay": (Adam, {"lr": 0.01, "weight_decay": 0.3}, 38.0),
    "adamw": (AdamW, {"lr": 0.01, "weight_decay": 0.05}, 19 * (2 - 0.0005)),
    "rmsprop": (RMSprop, {"lr": 0.01}, 2.0),
    "centred": (RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5}, 3.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dense_matrices(name: str, unchanged: Any) -> None:
    build, settings, constant = OPTIMIZERS[name]
    model, optimizer = trained(build, **settings)
    data = batch("vectors")
    before = copy.deepcopy(optimizer.state_dict())
    with unchanged(model, data):
        objective = Objective(model, data)
        result = preconditioned_sharpness(objective, optimizer=optimizer, **TIGHT)
    assert str(optimizer.state_dict()) == str(before)
    H = dense_hessian(model, data)
    if build is not AdamW:
        H = H + settings.get("weight_decay", 0.0) * torch.eye(len(H), dtype=H.dtype)
    root = by_hand(model, optimizer).rsqrt()
    M = root[:, None] * H * root
    assert result.value == pytest.approx(float(torch.linalg.eigvalsh(M)[-1]), rel=1e-7)
    assert result.lr == settings["lr"]
    assert result.threshold == pytest.approx(constant / settings["lr"], rel=1e-12)
    assert result.ratio == pytest.approx(result.value * settings["lr"] / constant)
    assert f"{result.ratio:.4g} of the threshold" in repr(result)
    assert result.direction is not None
    d = result.direction.double()
    assert float(d @ H @ d) == pytest.approx(result.value, rel=1e-5)
    told = result.provenance["arguments"]["optimizer"]
    assert told["class"] == build.__name__
    assert told["groups"][0]["lr"] == settings["lr"]


def test_plain_gradient_descent() -> None:
    objective = Objective(relu_mlp(), batch("vectors"), weight_decay=0.2)
    top = tw.top_eigenvalues(objective, **TIGHT)
    result = preconditioned_sharpness(objective, **TIGHT)
    assert (result.value, result.threshold, result.ratio, result.lr) == (top.value, None, None, None)
    result = preconditioned_sharpness(objective, lr=0.1, **TIGHT)
    assert result.ratio == pytest.approx(top.value / 20)


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_modes_of_batch_norm_and_frozen_parameters(mode: Any) -> None:
    model = networks.cnn()
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    x, y = networks.images()
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    objective = Objective(model, (x, y), batch_norm=mode, batch_size=8)
    result = preconditioned_sharpness(objective, optimizer=optimizer, **TIGHT)
    H = dense_hessian(model, (x, y), mode=mode)
    P = []
    for p in model.parameters():
        if p.requires_grad:
            state = optimizer.state[p]
            P.append((1 - 0.9**2) * ((state["exp_avg_sq"] / (1 - 0.999**2)).sqrt() + 1e-8))
    root = flat(P).rsqrt()
    top = float(torch.linalg.eigvalsh(root[:, None] * H * root)[-1])
    assert result.value == pytest.approx(top, rel=1e-6)


# -- thresholds: the optimizers themselves, on a quadratic --------------------------------------------------


def frozen_state(build: Any, settings: dict[str, Any], lr: float) -> tuple[nn.Module, Optimizer, Tensor]:
    """An optimizer of torch's at a small point of a quadratic, with a preconditioner that stays as it is."""
    rng = torch.Generator().manual_seed(3)
    model = nn.Linear(6, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(1e-7 * torch.randn(1, 6, generator=rng, dtype=torch.float64))
    optimizer = build(model.parameters(), **{**settings, "lr": lr})
    P = 0.2 + torch.rand(1, 6, generator=rng, dtype=torch.float64)
    state = optimizer.state[model.weight]
    nought = torch.zeros_like(P)
    if build is RMSprop:  # alpha = 1 keeps the squares
        state.update(step=torch.tensor(1e6), square_avg=P.square(), momentum_buffer=nought.clone())
        if settings.get("centered"):
            state["grad_avg"] = nought.clone()
    elif build is not SGD:  # the largest square seen so far stays
        state.update(step=torch.tensor(1e6), exp_avg=nought.clone(), exp_avg_sq=nought.clone())
        state["max_exp_avg_sq"] = P.square()
    A = torch.randn(40, 6, generator=rng, dtype=torch.float64)
    return model, optimizer, A


@pytest.mark.parametrize("part", [0.97, 1.03])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_thresholds(name: str, part: float) -> None:
    """Just below, what torch's own optimizer does dies out; just above, it grows."""
    build, settings, _ = OPTIMIZERS[name]
    settings = dict(settings)
    if build is RMSprop:
        settings["alpha"] = 1.0
    elif build is not SGD:
        settings |= {"amsgrad": True, "betas": (settings.get("betas", (0.9, 0.9))[0], 0.9)}

    def measured(lr: float) -> tuple[nn.Module, Optimizer, Tensor, PreconditionedSharpness]:
        model, optimizer, A = frozen_state(build, settings, lr)
        objective = Objective(model, (A, torch.zeros(40, 1, dtype=torch.float64)), loss="mse")
        return model, optimizer, A, preconditioned_sharpness(objective, optimizer=optimizer, **TIGHT)

    lr = 1e-3
    for _ in range(20):  # the threshold of decoupled decay is not inverse to the rate
        model, optimizer, A, result = measured(lr)
        assert result.ratio is not None
        if result.ratio == pytest.approx(part, rel=1e-8):
            break
        lr *= part / result.ratio
    assert result.ratio == pytest.approx(part, rel=1e-6)
    start = float(model.weight.detach().norm())
    for _ in range(1500):
        optimizer.zero_grad()
        (A @ model.weight.T).square().mean().backward()
        optimizer.step()
        size = float(model.weight.detach().norm())
        if size > 1e3 * start:
            break
    assert size > 1e3 * start if part > 1 else size < 0.1 * start


# -- which parameter is which -------------------------------------------------------------------------------


def grouped(model: nn.Module, **settings: Any) -> Optimizer:
    """Weights with decay and another rate before biases without."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim < 2]
    return Adam(
        [{"params": biases, "lr": 0.005}, {"params": weights, "weight_decay": 0.1}],
        **{"lr": 0.02, **settings},
    )


def test_groups() -> None:
    """In another order than the model's, with rates and decay of their own: by their values."""
    data = batch("vectors")
    model, optimizer = trained(lambda _: grouped(model_), model=(model_ := relu_mlp()))
    result = preconditioned_sharpness(Objective(model, data), optimizer=optimizer, **TIGHT)
    H = dense_hessian(model, data)
    P, decay = by_hand(model, optimizer), []
    rate = []
    for p in model.parameters():
        rate.append(torch.full_like(p, 1.0 if p.ndim > 1 else 4.0))
        decay.append(torch.full_like(p, 0.1 if p.ndim > 1 else 0.0))
    root = (P * flat(rate)).rsqrt()
    M = root[:, None] * (H + torch.diag(flat(decay))) * root
    assert result.value == pytest.approx(float(torch.linalg.eigvalsh(M)[-1]), rel=1e-7)
    assert result.lr == 0.02


def test_names_are_believed_first() -> None:
    """Equal parameters are told apart by the names that torch keeps, and not without."""
    model = relu_mlp()
    with torch.no_grad():
        model[0].bias.fill_(0.5)
        model[2].bias.fill_(0.5)
    objective = Objective(model, batch("vectors"))
    named = list(model.named_parameters())[::-1]
    assert preconditioned_sharpness(objective, optimizer=SGD(named, lr=0.1), seed=0).ratio
    with pytest.raises(ValueError, match=r"parameter of shape \(6,\) that may be any of 0.bias, 2.bias"):
        preconditioned_sharpness(objective, optimizer=SGD([p for _, p in named], lr=0.1), seed=0)
    in_order = SGD([{"params": [p]} for p in model.parameters()], lr=0.1)
    assert preconditioned_sharpness(objective, optimizer=in_order, seed=0).ratio


def test_what_the_optimizer_does_not_hold_stays() -> None:
    model, data = relu_mlp(), batch("vectors")
    objective = Objective(model, data)
    result = preconditioned_sharpness(objective, optimizer=SGD(model[4].parameters(), lr=0.1), **TIGHT)
    top = tw.top_eigenvalues(objective, params="4", **TIGHT)
    assert result.value == pytest.approx(top.value, rel=1e-6)
    assert result.provenance["arguments"]["optimizer"]["not_held"] == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    ]


def test_parameters_without_a_gradient_stay() -> None:
    model = networks.with_unused()
    optimizer = Adam(model.parameters(), lr=0.1)
    x, y = networks.vectors()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    result = preconditioned_sharpness(Objective(model, (x, y)), optimizer=optimizer, **TIGHT)
    assert result.direction is not None
    assert math.isfinite(result.value)
    assert not bool(result.direction[1:7].any())


def test_another_point_is_refused() -> None:
    model, optimizer = trained(Adam, lr=0.1)
    objective = Objective(model, batch("vectors"))
    with torch.no_grad():
        model[2].weight.mul_(1.5)
    with pytest.raises(ValueError, match=r"one of shape \(6, 6\) is none of them, or has other values"):
        preconditioned_sharpness(objective, optimizer=optimizer, seed=0)
    optimizer = SGD(model.named_parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"its '2.weight' has other values; build the objective anew"):
        preconditioned_sharpness(objective, optimizer=optimizer, seed=0)


# -- refusals -----------------------------------------------------------------------------------------------


class Own(SGD):
    """Might do anything."""


def two_momenta(model: nn.Module) -> Optimizer:
    first, *others = model.parameters()
    return SGD([{"params": [first], "momentum": 0.5}, {"params": others}], lr=0.1)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda m: Adam(m.parameters()), r"`optimizer` must have taken a step: this Adam has no state yet"),
        (lambda m: RMSprop(m.parameters()), "this RMSprop has no state yet"),
        (
            lambda m: torch.optim.Adagrad(m.parameters()),
            r"must be one of SGD, Adam, AdamW, RMSprop, got Adagrad",
        ),
        (lambda m: Own(m.parameters(), lr=0.1), "got Own, whose update"),
        (lambda m: SGD(m.parameters(), lr=0.0), "`optimizer` must have a positive learning rate, got 0"),
        (lambda m: SGD(m.parameters(), lr=0.1, maximize=True), "`optimizer` must minimise"),
        (two_momenta, "`optimizer` must have the same momentum in all its groups, .* got 0 and 0.5"),
        (lambda m: SGD(relu_mlp(5).parameters(), lr=0.1), r"one of shape \(6, 5\) is none of them"),
    ],
)
def test_refusals(build: Any, match: str) -> None:
    model = relu_mlp()
    with pytest.raises(ValueError, match=match):
        preconditioned_sharpness(Objective(model, batch("vectors")), optimizer=build(model), seed=0)


def test_decay_stated_twice_and_other_arguments() -> None:
    model = relu_mlp()
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=1e-3)
    objective = Objective(model, batch("vectors"), weight_decay=1e-3)
    with pytest.raises(ValueError, match=r"`objective` has an L2 term .* state it once"):
        preconditioned_sharpness(objective, optimizer=optimizer, seed=0)
    with pytest.raises(ValueError, match="`lr` must be left out with an `optimizer`"):
        preconditioned_sharpness(objective, optimizer=optimizer, lr=0.1, seed=0)
    for lr in (0, -1.0, math.inf, "0.1"):
        with pytest.raises(ValueError, match="`lr` must be a positive finite number"):
            preconditioned_sharpness(objective, lr=lr, seed=0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer, got str"):
        preconditioned_sharpness(objective, optimizer="adam", seed=0)  # type: ignore[arg-type]


def test_an_eps_of_nought() -> None:
    model = relu_mlp()
    with torch.no_grad():
        model[2].bias[3] = -1e3  # a dead unit, whose gradient is nought
    model, optimizer = trained(RMSprop, model=model, eps=0.0, num_steps=0)
    x, y = batch("vectors")
    nn.functional.cross_entropy(model(x), y).backward()
    for p in model.parameters():
        optimizer.state[p].update(square_avg=p.grad.square())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="`optimizer` divides by nought where no gradient has come yet"):
        preconditioned_sharpness(Objective(model, (x, y)), optimizer=optimizer, seed=0)


def test_a_partial_result_says_so_and_memory_is_bounded() -> None:
    objective = Objective(relu_mlp(), batch("vectors"))
    spent = preconditioned_sharpness(
        objective,
        lr=0.1,
        rtol=1e-9,
        certify_rtol=None,
        max_matvecs=4,
        require_convergence=False,
        seed=0,
    )
    assert spent.provenance["converged"] is False
    assert "not converged" in repr(spent)
    entry = objective.params.element_size() * objective.space.dim
    wide = preconditioned_sharpness(objective, lr=0.1, rtol=1e-4, certify_rtol=None, seed=0)
    narrow = preconditioned_sharpness(
        objective, lr=0.1, rtol=1e-4, certify_rtol=None, max_memory_bytes=9 * entry, seed=0
    )
    assert "not converged" not in repr(wide)
    assert narrow.value == pytest.approx(wide.value, rel=2e-4)
    with pytest.raises(ValueError, match=f"`max_memory_bytes` must hold the smallest .* {7 * entry:,} bytes"):
        preconditioned_sharpness(objective, lr=0.1, max_memory_bytes=7 * entry - 1, seed=0)


def test_a_spent_budget_carries_what_there_is() -> None:
    objective = Objective(relu_mlp(), batch("vectors"))
    with pytest.raises(tw.ConvergenceError, match="Raise `max_matvecs`") as caught:
        preconditioned_sharpness(objective, lr=0.1, rtol=1e-9, certify_rtol=None, max_matvecs=3, seed=0)
    assert isinstance(caught.value.partial, PreconditionedSharpness)
    assert caught.value.partial.ratio


# -- warm starts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [SGD, Adam])
def test_a_warm_start_is_a_step_of_the_parameters(build: Any) -> None:
    """From the direction itself hardly a product is needed, whatever P; other vectors do not help."""
    model, optimizer = trained(build, lr=0.01)
    objective = Objective(model, batch("vectors"))
    # With a certificate the random vector has a column of its own, and the first product is with the start.
    few = {
        **TIGHT,
        "certify_rtol": 0.1,
        "max_matvecs": 4,
        "require_convergence": False,
        "optimizer": optimizer,
    }
    cold = preconditioned_sharpness(objective, **TIGHT, optimizer=optimizer)
    assert cold.direction is not None
    warm = preconditioned_sharpness(objective, start=cold.direction[:, None], **few)
    astray = preconditioned_sharpness(objective, start=torch.ones(objective.space.dim, 1), **few)
    assert warm.value == pytest.approx(cold.value, rel=1e-7)
    assert astray.value < 0.99 * cold.value
    told = warm.provenance["arguments"]["start"]
    assert told
    assert cold.provenance["arguments"]["start"] is None


def test_a_warm_start_where_some_parameters_are_not_moved() -> None:
    model = relu_mlp()
    first = next(iter(model.parameters()))
    optimizer = SGD([p for p in model.parameters() if p is not first], lr=0.1)
    objective = Objective(model, batch("vectors"))
    cold = preconditioned_sharpness(objective, optimizer=optimizer, **TIGHT)
    assert cold.direction is not None
    assert not cold.direction[: first.numel()].any()
    warm = preconditioned_sharpness(objective, optimizer=optimizer, start=cold.direction[:, None], **TIGHT)
    assert warm.value == pytest.approx(cold.value, rel=1e-7)
    with pytest.raises(ValueError, match=r"`start` must have shape \(\d+, W\), steps of the parameters"):
        preconditioned_sharpness(objective, optimizer=optimizer, start=cold.direction, **TIGHT)
