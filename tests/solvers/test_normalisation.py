"""What a step of one is under each normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thalweg.objective.objective import Objective
from thalweg.solvers.directions import random_direction
from thalweg.solvers.normalisation import filter_normalized, rows_of

NAMES = ("filter", "layer", "global", "raw", "none")
WEIGHTS, VECTORS = ("conv.weight", "head.weight"), ("conv.bias", "norm.weight", "norm.bias", "head.bias")


@pytest.fixture
def objective(toys) -> Objective:
    return Objective(toys.convnet(), toys.images(), batch_size=8)


def drawn(objective: Objective, normalisation: str, ignore: str) -> Tensor:
    return random_direction(objective, 1, normalisation=normalisation, ignore=ignore, seed=3)


@pytest.mark.parametrize("ignore", ["bias_and_norm", "none"])
def test_each_tensor_has_the_norm_of_the_one_it_moves_under_layer(objective: Objective, ignore: str) -> None:
    named = objective.space.unflatten(drawn(objective, "layer", ignore))
    for name in (*WEIGHTS, *VECTORS):
        moves = ignore == "none" or name in WEIGHTS
        expected = float(objective.named_params[name].norm()) if moves else 0.0
        assert float(named[name].norm()) == pytest.approx(expected, rel=1e-13)
    # By the tensor, and not by the filter: the filters of a draw keep their proportions.
    filters = drawn(objective, "filter", ignore)
    assert not torch.allclose(
        objective.space.unflatten(filters)["conv.weight"].flatten(1).norm(dim=1),
        named["conv.weight"].flatten(1).norm(dim=1),
    )


@pytest.mark.parametrize("ignore", ["bias_and_norm", "none"])
def test_the_whole_is_as_long_as_the_tensors_that_move_under_filter_layer_and_global(
    objective: Objective, ignore: str
) -> None:
    moving = WEIGHTS if ignore == "bias_and_norm" else (*WEIGHTS, *VECTORS)
    length = torch.cat([objective.named_params[name].reshape(-1) for name in moving]).norm()
    for normalisation in ("filter", "layer", "global"):
        assert float(drawn(objective, normalisation, ignore).norm()) == pytest.approx(float(length))
    # One factor for the whole vector.
    whole, raw = drawn(objective, "global", ignore), drawn(objective, "raw", ignore)
    torch.testing.assert_close(whole, raw * length, rtol=1e-13, atol=0)


def test_all_scale_one_gaussian(objective: Objective) -> None:
    plain = drawn(objective, "none", "none")
    P = objective.space.dim
    assert abs(float(plain.square().sum()) - P) < 4.5 * (2 * P) ** 0.5
    torch.testing.assert_close(drawn(objective, "raw", "none"), plain / plain.norm(), rtol=1e-13, atol=0)
    for name in NAMES:
        assert torch.equal(drawn(objective, name, "none").sign(), plain.sign())
        moved = drawn(objective, name, "bias_and_norm") != 0
        named = objective.space.unflatten(moved)
        assert all(bool(named[n].all()) for n in WEIGHTS)
        assert not any(bool(named[n].any()) for n in VECTORS)


@pytest.mark.parametrize("normalisation", NAMES)
def test_rows_are_views_that_cover_the_vector_once(objective: Objective, normalisation: str) -> None:
    vector = torch.zeros(objective.space.dim, dtype=torch.float64)
    for rows in rows_of(vector, objective.space, normalisation):
        rows += 1
    assert bool((vector == 1).all())


def test_a_filter_of_zeros_does_not_move(toys) -> None:
    net = toys.convnet()
    with torch.no_grad():
        net.conv.weight[1] = 0
    objective = Objective(net, toys.images())
    conv = objective.space.unflatten(random_direction(objective, 0, seed=0))["conv.weight"]
    assert float(conv[1].abs().max()) == 0
    assert float(conv[0].abs().min()) > 0


def test_a_direction_of_zeros_stays_finite(objective: Objective) -> None:
    zeros = filter_normalized(torch.zeros_like(objective.params), objective.params, objective.space)
    assert torch.equal(zeros, torch.zeros_like(zeros))


def test_nothing_to_move_is_an_error(toys) -> None:
    o = toys.quadratic(torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    for normalisation in NAMES:
        with pytest.raises(ValueError, match="`ignore='bias_and_norm'` left nothing to move"):
            random_direction(o, 0, normalisation=normalisation, seed=0)
    for normalisation in ("filter", "layer", "global"):
        with pytest.raises(ValueError, match="use ignore='none' or normalisation='raw'"):
            # The only tensor is zero.
            random_direction(o, 0, normalisation=normalisation, ignore="none", seed=0)


def test_unknown_names_are_errors(objective: Objective) -> None:
    with pytest.raises(
        ValueError, match="`normalisation` must be one of filter, layer, global, raw, none, got 'tensor'"
    ):
        random_direction(objective, 0, normalisation="tensor", seed=0)
    with pytest.raises(ValueError, match="`ignore` must be one of bias_and_norm, none, got 'biasbn'"):
        random_direction(objective, 0, ignore="biasbn", seed=0)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        random_direction(objective, 0, seed=None)


def test_normalisation_layers_of_any_shape_stay(toys) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 4, 4]), nn.Flatten(), nn.Linear(32, 3)
    ).double()
    x = torch.randn(5, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    o = Objective(model, (x, torch.arange(5) % 3))
    moved = o.space.unflatten(drawn(o, "filter", "bias_and_norm"))
    assert {name for name, t in moved.items() if t.any()} == {"0.weight", "3.weight"}
    assert {slot.name for slot in o.space if slot.is_norm} == {"1.weight", "1.bias"}
    assert all(slot.is_norm for slot in o.space.select("1"))
