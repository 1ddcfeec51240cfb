"""Lengths of gradients that are not formed, layer by layer, against gradients that are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests import networks
from tests.operators import oracle
from tests.operators.cases import deviation
from torch import Tensor, nn

from thalweg.core.rng import generator, normal
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.layer_taps import tapped_lengths
from thalweg.operators.unit_gradients import UnitGradients


class Positions(nn.Module):
    """A dense layer at each of several positions, with a norm of the features; then their mean."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.spread, self.norm = nn.Linear(5, 4 * length), nn.LayerNorm(4)
        self.inner, self.head = nn.Linear(4, width), nn.Linear(width, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.spread(x)).unflatten(1, (self.length, 4)))
        return self.head(torch.tanh(self.inner(x)).mean(1))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.GroupNorm(2, 6),
        nn.GELU(),
        nn.Conv2d(6, 5, 2, dilation=2, bias=False),
        nn.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).eval()


class Alone(nn.Module):
    """One layer whose parameters are used in some other way as well."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if self.kind == "twice":
            y = self.linear(torch.tanh(y))
        if self.kind == "elsewhere":
            y = y * self.linear.bias.square().sum()
        if self.kind == "by hand":
            return torch.tanh(y) @ self.head.weight.T
        if self.kind == "in place":
            y = F.relu(y, inplace=True)
        return self.head(torch.tanh(y))


def rows(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return oracle.example_gradients(model, data, "cross_entropy", "running")


def lengths(
    model: nn.Module, data: tuple[Tensor, Tensor], along: list[Tensor]
) -> tuple[Tensor, Tensor] | None:
    objective = Objective(model, data, micro_batch=21)
    found: list[tuple[Tensor, Tensor] | None] = []

    def look(micro: MicroBatch) -> Tensor:
        found.append(tapped_lengths(micro, [objective.space.unflatten(v) for v in along]))
        return torch.zeros(())

    objective.reduce(look)
    return found[0]


@pytest.mark.parametrize("length", [1, 2, 30])
@pytest.mark.parametrize("width", [3, 40])
def test_dense_layers_at_positions(length: int, width: int) -> None:
    """Few positions of a wide layer, whose lengths come of products of lengths, and many of a narrow one."""
    model, data = networks.built(Positions(length, width)), networks.vectors()
    G = rows(model, data)
    along = [normal(generator(0, i), G.shape[1], like=G) for i in range(2)]
    found = lengths(model, data, along)
    assert found is not None
    assert deviation(found[0], G.square().sum(1)) < 1e-12
    assert deviation(found[1], G @ torch.stack(along, 1)) < 1e-12


def test_convolutions_and_norms() -> None:
    model, data = networks.built(convolutions()), networks.images()
    G = rows(model, data)
    found = lengths(model, data, [G[0]])
    assert found is not None
    assert deviation(found[0], G.square().sum(1)) < 1e-12
    assert deviation(found[1][:, 0], G @ G[0]) < 1e-12


@pytest.mark.parametrize("kind", ["twice", "elsewhere", "by hand"])
def test_parameters_of_other_uses_are_left_alone(kind: str) -> None:
    model = Alone(kind).double()
    assert lengths(model, networks.vectors(), []) is None
    units = UnitGradients(Objective(model, networks.vectors()))
    assert not units.taps
    G = rows(model, networks.vectors())
    assert deviation(units.squares(units.mean)[0], (G - G.mean(0)).square().sum(1)) < 1e-12


def test_layers_in_place_go_one_by_one() -> None:
    model, data = Alone("in place").double(), networks.vectors()
    units = UnitGradients(Objective(model, data))
    assert not units.taps
    G = rows(model, data)
    assert deviation(units.squares(units.mean)[0], (G - G.mean(0)).square().sum(1)) < 1e-12


def test_gradients_far_longer_than_their_spread() -> None:
    """Squares of whole gradients would show rounding; those of deviations are taken instead."""
    model, (x, _) = networks.mlp(), networks.vectors()
    y = model(x).detach() + 1e9 + torch.randn(21, 3, dtype=torch.float64)
    for p in (model[0].weight, model[0].bias, model[2].weight):
        p.requires_grad_(False)  # type: ignore[union-attr]
    units = UnitGradients(Objective(model, (x, y), loss="mse"))
    assert units.taps
    G = oracle.example_gradients(model, (x, y), "mse", "running")
    E = G - G.mean(0)
    assert float(G.norm()) > 1e8 * float(E.norm())
    assert deviation(units.squares(units.mean)[0], E.square().sum(1)) < 1e-6


@pytest.mark.parametrize("wrong", ["length", "product"])
def test_wrong_lengths_are_not_believed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(micro: MicroBatch, along: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor] | None:
        found = tapped_lengths(micro, along)
        assert found is not None
        return (1.001 * found[0], found[1]) if wrong == "length" else (found[0], 1.001 * found[1])

    monkeypatch.setattr("thalweg.operators.unit_gradients.tapped_lengths", off)
    assert not UnitGradients(Objective(networks.mlp(), networks.vectors())).taps
