"""Layers of units in arrays: against the transformations, by hand, and what is told apart."""

from __future__ import annotations

import functools
import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks import images, shuffle_statistics, tokens, vectors
from tests.symmetric_networks import CASES, ORDER, Joined, Whitened, convolutional, sequential
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import thalweg as tw
from thalweg.solvers.symmetries.axes import Axis, entries_of_units, split
from thalweg.solvers.symmetries.tracing import activations, trace
from thalweg.solvers.symmetries.transformations import find_symmetries
from thalweg.solvers.symmetries.units import layers_of, sights_of

NAMES = [name for name, case in CASES.items() if ORDER in case.places]


@functools.cache
def found(name: str) -> Any:
    return find_symmetries(tw.Objective(CASES[name].model(), CASES[name].data()), (ORDER,))


def layers(name: str) -> Any:
    return layers_of(found(name).places[ORDER], found(name).roots)


def reordered_by_hand(tensors: dict[str, Tensor], layer: Any, order: Tensor) -> dict[str, Tensor]:
    """Each unit's rows moved, entry by entry."""
    moved = {name: x.clone() for name, x in tensors.items()}
    for along in layer.along:
        x = moved[along.tensor].movedim(along.dim, 0)
        old = x.clone()
        for i, j in enumerate(order.tolist()):
            x[along.entries[i]] = old[along.entries[j]]
    return moved


@pytest.mark.parametrize("name", NAMES)
def test_the_entries_are_those_that_a_permutation_moves(name):
    own = found(name)
    rng = torch.Generator().manual_seed(0)
    tensors = own.objective.named_params | own.objective.buffers
    orders = []
    for layer in layers(name):
        orders.append(torch.randperm(layer.size, generator=rng))
        tensors = reordered_by_hand(tensors, layer, orders[-1])
    point = own.reordered(own.objective, orders)
    moved = point.named_params | point.buffers
    assert all(torch.equal(moved[k], tensors[k]) for k in moved)
    assert not torch.equal(point.params, own.objective.params)


@pytest.mark.parametrize("name", NAMES)
def test_only_permutations_are_looked_for_where_only_they_are_asked_for(name):
    assert set(found(name).places) == {ORDER}
    assert found(name).refused == {}
    assert found(name).told_apart == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", {"0": 6, "2": 4}),
        ("convolutional", {"0": 4, "4": 3}),
        ("residual", {"0": 4, "3.conv1": 4, "4.conv1": 4}),
        ("recurrent", {"rnn.weight_ih_l0": 4}),
        ("weight-norm", {"0": 4, "3": 3, "6": 5}),
    ],
)
def test_layers_are_named_by_who_puts_the_units_out(name, expected):
    sizes = {layer.name: layer.size for layer in layers(name)}
    assert sizes == {k if k != "rnn.weight_ih_l0" else "rnn": n for k, n in expected.items()}


def test_names_are_unique():
    for name in NAMES:
        own = [layer.name for layer in layers(name)]
        assert len(set(own)) == len(own)


def test_entries_of_a_flattened_layer():
    channels, places = Axis(3), Axis(4)
    assert entries_of_units((channels, places), channels).tolist() == torch.arange(12).view(3, 4).tolist()
    assert entries_of_units((channels, places), places).tolist() == torch.arange(12).view(3, 4).T.tolist()
    whole = Axis(12)
    first, second = split(whole, (3, 4))
    assert torch.equal(entries_of_units((whole,), second), entries_of_units((first, second), second))
    assert entries_of_units((channels,), Axis(3)).shape == (3, 0)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_units_are_seen_where_products_take_them(name):
    """In the permuted network each unit's values are those of the unit that came there."""
    own = found(name)
    objective = tw.Objective(CASES[name].model(), CASES[name].data(), micro_batch=8)  # the last one is of 5
    flow = trace(objective)
    mine = layers(name)
    sights = sights_of(mine, flow)
    assert {number for sight in sights for number in sight.layers} == set(range(len(mine)))
    rng = torch.Generator().manual_seed(1)
    orders = [torch.randperm(layer.size, generator=rng) for layer in mine]
    point = own.reordered(objective, orders)
    taken: list[list[Tensor]] = []
    for at in (objective, point):
        at.reduce(
            lambda micro: (
                taken.append(activations(micro, [sight.read for sight in sights])),
                torch.zeros(()),
            )[1]
        )
    half = len(taken) // 2
    for before, after in zip(taken[:half], taken[half:], strict=True):
        for x, y, sight in zip(before, after, sights, strict=True):
            expected = sight.values(x)
            for k, number in enumerate(sight.layers):
                assert expected.shape[k] == mine[number].size
                expected = expected.index_select(k, orders[number])
            torch.testing.assert_close(sight.values(y), expected, rtol=1e-10, atol=1e-12)


class Sorted(nn.Module):
    """Units go through something without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.second(self.first(x).sort(1).values)))


class Dense(nn.Module):
    """A dense block: all that came before is handed on, through norms, pooling, and a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1)
        self.norm, self.third, self.last = nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1), nn.Linear(9 * 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.first(x))], 1)
        x = F.relu(self.norm(torch.cat([x, self.second(x)], 1)))
        x = torch.cat([x, self.third(x)], 1)[:, :7]
        return self.last(F.max_pool2d(x, 2).flatten(1))


class Pooled(nn.Module):
    """What comes before the first weight may be anything: data are told apart anyway."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.BatchNorm1d(9), nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.avg_pool2d(x, 2).flatten(1).sort(1).values[:, :4], x.flatten(1)[:, :5]], 1)
        return self.last(F.relu(self.first(self.norm(x))))


def apart(model: nn.Module, data: Any) -> dict[str, str]:
    return dict(find_symmetries(tw.Objective(model, data), (ORDER,)).told_apart)


def test_hidden_units_that_are_told_apart_are_named_with_the_reason():
    assert apart(Whitened().double(), vectors(21)) == {"first": "belong to the buffer mean"}
    assert apart(Sorted().double(), vectors(21)) == {"first": "go through sort"}
    joined = "are joined with others by cat"
    assert apart(Joined().double(), vectors(21)) == {"first": joined, "second": joined}
    assert apart(Dense().double(), images(21)) == dict.fromkeys(("first", "second", "third"), joined)
    frozen = sequential(nn.ReLU).double()
    frozen[0].requires_grad_(False)
    assert list(apart(frozen, vectors(21))) == ["0"]


@pytest.mark.parametrize(
    ("wrap", "reason"),
    [
        (partial(parametrizations.weight_norm, dim=None), "go through norm"),
        (parametrizations.spectral_norm, "go through vdot|belong to the buffer .*parametrizations"),
        (parametrizations.orthogonal, "go through|belong to the buffer .*parametrizations"),
    ],
)
def test_other_parametrisations_are_named_by_their_layers(wrap, reason):
    """One number for all units, or products of all with all."""
    net = nn.Sequential(wrap(nn.Linear(5, 6)), nn.ReLU(), wrap(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 3))
    found = apart(net.double().eval(), vectors(21))
    assert set(found) == {"0", "2"}
    assert all(re.match(reason, why) for why in found.values())


def test_data_places_and_outputs_are_meant_to_differ():
    assert apart(Pooled().double(), images()) == {}
    assert apart(shuffle_statistics(convolutional()).double(), images()) == {}
    assert apart(CASES["rotary"].model(), tokens(21)) == {}


def test_a_pass_that_takes_another_path_is_refused():
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.first(x))
            return self.last(h) if len(x) == 8 else F.linear(h[:, :3], self.last.weight[:, :3])

    objective = tw.Objective(Fickle().double(), vectors(21), micro_batch=8)
    flow = trace(objective)
    with pytest.raises(ValueError, match=r"`data` must take one path .* examples 16 to 20 do not reach the"):
        objective.reduce(lambda micro: activations(micro, flow.reads)[0].sum())
