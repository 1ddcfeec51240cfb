"""`batch_sharpness`: batch by batch against dense Hessians, all batches enumerated, its standard error."""

from __future__ import annotations

import importlib
import itertools
import math
from typing import Any

import pytest
import torch
from tests import networks
from tests.operators.oracle import dense_hessian, flat_gradient, mean_loss, prepared, trainable
from torch import Tensor, nn

from thalweg.core.rng import generator
from thalweg.measures.dynamics.batch_sharpness import BatchSharpness, batch_sharpness
from thalweg.objective.objective import Objective

module = importlib.import_module("thalweg.measures.dynamics.batch_sharpness")

MODES = ("running", "recalibrated", "batch")


def quotient(model: nn.Module, data: Any, mode: str, decay: float = 0.0) -> tuple[float, float]:
    """g' H g / |g|^2 and |g|^2 of one batch, by plain PyTorch; the model with its statistics in place."""
    H = dense_hessian(model, data, mode=mode, batch_size=len(data[0]))
    model = prepared(model, data, "cross_entropy", mode)
    params = trainable(model)
    g = flat_gradient(mean_loss(model, data, "cross_entropy", mode, len(data[0])), params)
    if decay:
        g = g + decay * torch.cat([p.detach().reshape(-1) for p in params])
        H = H + decay * torch.eye(len(H), dtype=H.dtype)
    return float(g @ H @ g / (g @ g)), float(g @ g)


@pytest.mark.parametrize("mode", MODES)
def test_each_quotient_is_what_dense_matrices_give_for_its_batch(mode: Any, unchanged: Any) -> None:
    model, (x, y) = networks.cnn(), networks.images()
    with unchanged(model, (x, y)):
        # The objective's own partition, 6, would cut the batches asked for.
        o = Objective(model, (x, y), batch_norm=mode, batch_size=6, micro_batch=4, weight_decay=0.1)
        found = batch_sharpness(o, batch_size=8, num_batches=3, seed=3)
    # Recalibrated statistics are those of all the data, constant.
    fixed = prepared(model, (x, y), "cross_entropy", mode) if mode == "recalibrated" else model
    rng = generator(3, "batch_sharpness")
    for i in range(3):
        part = torch.randperm(21, generator=rng)[:8].sort().values
        of_batch = "running" if mode == "recalibrated" else mode
        value, square = quotient(fixed, (x[part], y[part]), of_batch, decay=0.1)
        assert float(found.quotients[i]) == pytest.approx(value, rel=1e-8)
        assert float(found.gradient_squares[i]) == pytest.approx(square, rel=1e-8)
    assert found.value == pytest.approx(float(found.quotients.mean()))
    assert found.error.data is not None
    assert found.error.data.value == pytest.approx(float(found.quotients.std()) / math.sqrt(3))
    assert found.error.data.dof == 2
    weighted = (found.quotients * found.gradient_squares).sum() / found.gradient_squares.sum()
    assert found.ratio_of_means == pytest.approx(float(weighted))


def test_one_batch_of_all_is_exact() -> None:
    model, data = networks.mlp(), networks.vectors()
    found = batch_sharpness(Objective(model, data), batch_size=21, seed=0)
    assert found.value == pytest.approx(quotient(model, data, "running")[0], rel=1e-8)
    assert found.ratio_of_means == pytest.approx(found.value)
    assert found.error.half_width() == 0
    assert len(found.quotients) == 1
    # The objective's own batch size is the default, and at most all.
    assert batch_sharpness(Objective(model, data), seed=0).batch_size == 21
    assert batch_sharpness(Objective(model, data, batch_size=6), seed=0).batch_size == 6


# -- all the batches there are ------------------------------------------------------------------------------


def least_squares(n: int = 6) -> tuple[Objective, Tensor]:
    """A quadratic of three parameters, and the quotients of all its batches of two."""
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    y = torch.randn(n, 1, generator=rng, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.3, -0.5, 1.1]]))
    w = model.weight.detach()[0]
    quotients = []
    for pair in itertools.combinations(range(n), 2):
        A, b = x[list(pair)], y[list(pair), 0]
        g, H = 2 / 2 * A.T @ (A @ w - b), 2 / 2 * A.T @ A
        quotients.append(g @ H @ g / (g @ g))
    return Objective(model, (x, y), loss="mse"), torch.stack(quotients)


def test_the_mean_over_all_batches_is_met() -> None:
    objective, quotients = least_squares()
    found = batch_sharpness(objective, batch_size=2, num_batches=600, seed=1)
    assert found.error.data is not None
    assert abs(found.value - float(quotients.mean())) < 4 * found.error.data.value
    spread = float(quotients.std(correction=0)) / math.sqrt(600)
    assert found.error.data.value == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("repeats", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_its_intervals_cover(repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a dozen of eighteen, nearer to a Gaussian than pairs; the operator is proved once."""
    objective, _ = least_squares(18)
    x, y = objective._examples.batch  # pyright: ignore[reportAttributeAccessIssue]
    w = objective.params
    rng = torch.Generator().manual_seed(2)
    index = torch.stack([torch.randperm(18, generator=rng)[:12] for _ in range(200_000)])
    A, b = x[index], y[index, 0]
    g = torch.einsum("kbp,kb->kp", A, A @ w - b) / 6
    truth = float((((A @ g[:, :, None]).square().sum((1, 2)) / 6) / g.square().sum(1)).mean())
    hessian = module.Hessian(objective)
    monkeypatch.setattr(module, "Hessian", lambda _: hessian)
    inside = 0
    for seed in range(repeats):
        low, high = batch_sharpness(objective, batch_size=12, num_batches=8, seed=seed).interval(0.95)
        inside += low <= truth <= high
    share = inside / repeats
    assert abs(share - 0.95) <= (0.015 if repeats == 2000 else 4 * math.sqrt(0.95 * 0.05 / repeats))


# -- what is refused ----------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    objective = Objective(networks.mlp(), networks.vectors())
    with pytest.raises(ValueError, match=r"`batch_size` must be at most the 21 examples .* got 22"):
        batch_sharpness(objective, batch_size=22, seed=0)
    with pytest.raises(ValueError, match="`batch_size` must be a whole number of at least 1, got 0"):
        batch_sharpness(objective, batch_size=0, seed=0)
    with pytest.raises(ValueError, match="`num_batches` must be a whole number of at least 2, got 1"):
        batch_sharpness(objective, num_batches=1, seed=0)
    normed = Objective(networks.cnn(), networks.images(), batch_norm="batch", batch_size=8)
    with pytest.raises(ValueError, match="`batch_size` must leave no batch of one"):
        batch_sharpness(normed, batch_size=1, seed=0)


def test_a_batch_without_a_gradient_has_no_direction() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    x = torch.randn(6, 2, dtype=torch.float64)
    objective = Objective(model, (x, torch.zeros(6, 1, dtype=torch.float64)), loss="mse")
    with pytest.raises(ValueError, match="`objective` must have a gradient that is not zero in every batch"):
        batch_sharpness(objective, batch_size=3, seed=0)


def test_the_one_line_says_it() -> None:
    found = batch_sharpness(Objective(networks.mlp(), networks.vectors()), batch_size=7, seed=0)
    assert isinstance(found, BatchSharpness)
    assert repr(found).startswith("BatchSharpness(")
    assert "95 %" in repr(found)
