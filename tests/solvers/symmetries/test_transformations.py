"""Function-preserving changes against the user's own model, by hand, and where there are none."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.networks import cnn, images, shuffle_statistics, tied, tokens, vectors
from tests.symmetric_networks import (
    CASES,
    NORM,
    ORDER,
    QK,
    RELU,
    VO,
    Joined,
    Leaking,
    Whitened,
    convolutional,
    sequential,
)
from torch import Tensor, nn

import thalweg as tw
from thalweg.solvers.symmetries.places import Place
from thalweg.solvers.symmetries.transformations import (
    Agreement,
    _kept,
    agreement,
    find_symmetries,
    in_float64,
)


def moved_tensors(point: tw.Objective) -> dict[str, Tensor]:
    return {**point.named_params, **point.buffers}


def symmetries(model: nn.Module, data: Any, **kwargs: Any) -> Any:
    return find_symmetries(tw.Objective(model, data, **kwargs))


@functools.cache
def found(name: str) -> Any:
    return symmetries(CASES[name].model(), CASES[name].data())


def pairs() -> list[tuple[str, str]]:
    return [(name, transformation) for name, case in CASES.items() for transformation in case.places]


@pytest.mark.parametrize("name", CASES)
def test_the_places_are_the_ones_there_are(name):
    assert {t: len(places) for t, places in found(name).places.items()} == CASES[name].places
    missing = {RELU, NORM, ORDER, QK, VO} - CASES[name].places.keys()
    assert found(name).refused.keys() == missing
    assert all(found(name).refused.values())


@pytest.mark.parametrize(("name", "transformation"), pairs())
def test_the_users_own_model_puts_out_the_same(name, transformation):
    case = CASES[name]
    model, (x, _) = case.model(), case.data()
    point = found(name).transformed(transformation, strength=4.0, seed=5)
    before = found(name).objective
    outputs = model(x)
    after = torch.func.functional_call(model, moved_tensors(point), (x,))
    torch.testing.assert_close(after, outputs, rtol=1e-11, atol=1e-12)
    # Something did move, by more than rounding, in every place.
    old, new = moved_tensors(before), moved_tensors(point)
    changed = {k for k in old if (old[k] - new[k]).abs().max() > 1e-3}
    for place in found(name).places[transformation]:
        assert changed & set(place.tensors), f"{place} stayed where it was"


@pytest.mark.parametrize(("name", "transformation"), pairs())
def test_the_seed_draws(name, transformation):
    draw = found(name).transformed
    point = draw(transformation, strength=4.0, seed=5)
    assert torch.equal(point.params, draw(transformation, strength=4.0, seed=5).params)
    assert not torch.equal(point.params, draw(transformation, strength=4.0, seed=6).params)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dense_layer_rescaled_by_hand(dtype):
    model = sequential(nn.ReLU).to(dtype)
    x, y = vectors(21)
    point = symmetries(model, (x.to(dtype), y)).transformed(RELU, strength=4.0, seed=1)
    new, old = moved_tensors(point), {k: v.detach().double() for k, v in model.state_dict().items()}
    a = new["0.bias"] / old["0.bias"]
    b = new["2.bias"] / old["2.bias"]
    for scale in (a, b):
        assert bool(((scale >= 0.25) & (scale <= 4)).all())
        assert len(set(scale.tolist())) == len(scale), "each unit has its own"
    torch.testing.assert_close(new["0.weight"], a[:, None] * old["0.weight"])
    torch.testing.assert_close(new["2.weight"], b[:, None] * old["2.weight"] / a)
    torch.testing.assert_close(new["4.weight"], old["4.weight"] / b)
    torch.testing.assert_close(new["4.bias"], old["4.bias"])


def test_a_convolution_rescaled_by_hand_before_a_flattened_dense_layer():
    case = CASES["convolutional"]
    model, point = case.model(), found("convolutional").transformed(RELU, strength=4.0, seed=1)
    new, old = moved_tensors(point), model.state_dict()
    a = new["1.bias"] / old["1.bias"]
    torch.testing.assert_close(new["1.weight"], a * old["1.weight"])
    b = new["4.bias"] / old["4.bias"]
    torch.testing.assert_close(new["4.weight"], (b[:, None] / a)[..., None, None] * old["4.weight"])
    blocks = old["7.weight"].view(3, 3, 4) / b[:, None]
    torch.testing.assert_close(new["7.weight"], blocks.reshape(3, 12))
    for kept in ("0.weight", "0.bias", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(new[kept], old[kept])


def test_scales_are_log_uniform():
    model = nn.Sequential(nn.Linear(2, 4000), nn.ReLU(), nn.Linear(4000, 3)).double()
    x, y = vectors(8, 2)
    point = symmetries(model, (x, y)).transformed(RELU, strength=8.0, seed=0)
    logs = (moved_tensors(point)["0.bias"] / model[0].bias).log() / torch.tensor(8.0).log()  # type: ignore[operator]
    share = ((logs.sort().values + 1) / 2).detach()
    assert float((share - torch.linspace(0, 1, 4000)).abs().max()) < 1.95 / 4000**0.5  # Kolmogorov, 0.1 %


def test_batch_norm_scaled_by_hand_epsilon_included():
    model = CASES["convolutional"].model()
    point = found("convolutional").transformed(NORM, strength=4.0, seed=1)
    new, old, eps = moved_tensors(point), model.state_dict(), 1e-5
    a = new["0.bias"] / old["0.bias"]
    torch.testing.assert_close(new["0.weight"], a[:, None, None, None] * old["0.weight"])
    torch.testing.assert_close(new["1.running_mean"], a * old["1.running_mean"])
    torch.testing.assert_close(new["1.running_var"], a**2 * (old["1.running_var"] + eps) - eps)
    torch.testing.assert_close(new["1.weight"], old["1.weight"])


def test_channels_without_variance_keep_theirs_positive():
    model = CASES["convolutional"].model()
    norm = model[1]  # type: ignore[index]
    norm.running_var[:2] = 0
    norm.running_var[2] = 1e-6
    found = symmetries(model, images())
    for seed in range(5):
        point = found.transformed(NORM, strength=100.0, seed=seed)
        assert bool((point.buffers["1.running_var"] >= 0).all())
        assert agreement(found.objective, point).holds


@pytest.mark.parametrize("name", ["convolutional", "residual"])
def test_recalibrated_statistics_are_exact_at_the_new_point(name):
    case = CASES[name]
    model, (x, y) = case.model(), case.data()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eps = 0.1  # so that leaving epsilon out would show
    objective = tw.Objective(model, (x, y), batch_norm="recalibrated", micro_batch=8)
    own = find_symmetries(objective)
    assert set(own.places) == {RELU, NORM, ORDER}
    for transformation in own.places:
        point = own.transformed(transformation, strength=4.0, seed=2)
        torch.testing.assert_close(
            point.evaluate_points([(point.params, point.buffers)]).example_losses,
            objective.evaluate_points([(objective.params, objective.buffers)]).example_losses,
            rtol=1e-11,
            atol=1e-12,
        )


def test_batch_statistics_admit_no_exact_scale_and_the_reason_says_by_how_much():
    case = CASES["residual"]
    own = symmetries(case.model(), case.data(), batch_norm="batch", batch_size=8)
    assert set(own.places) == {RELU, ORDER}
    assert "not exact in 'batch' mode" in own.refused[NORM]
    assert float(own.refused[NORM].split("outputs by ")[1].split()[0]) < 1e-3
    for transformation in own.places:
        assert agreement(own.objective, own.transformed(transformation, strength=4.0, seed=1)).holds
    # With next to no epsilon there is nothing to make up for.
    model = case.model()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.eps = 1e-30
    assert NORM in symmetries(model, case.data(), batch_norm="batch", batch_size=8).places


@pytest.mark.parametrize("name", ["convolutional", "residual"])
def test_a_permutation_takes_the_statistics_along(name):
    model = CASES[name].model()
    point = found(name).transformed(ORDER, strength=4.0, seed=1)
    new, old = moved_tensors(point), model.state_dict()
    order = [int((old["1.running_mean"] == m).nonzero()) for m in new["1.running_mean"]]
    assert sorted(order) == list(range(4))
    assert order != list(range(4))
    for key in ("0.weight", "1.weight", "1.bias", "1.running_var"):
        torch.testing.assert_close(new[key], old[key][order])
    torch.testing.assert_close(point.params.norm(), found(name).objective.params.norm())


def test_each_head_has_its_own_matrix_and_its_inverse_transposed():
    model = CASES["separate"].model()
    old = {k: v.detach() for k, v in model.named_parameters()}
    query = moved_tensors(found("separate").transformed(QK, strength=4.0, seed=1))
    value = moved_tensors(found("separate").transformed(VO, strength=4.0, seed=1))
    matrices = []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        A = torch.linalg.lstsq(old["query.weight"][rows].T, query["query.weight"][rows].T).solution.T
        matrices.append(A)
        s = torch.linalg.svdvals(A)
        assert float(s.max()) <= 4 + 1e-9
        assert float(s.min()) >= 0.25 - 1e-9
        torch.testing.assert_close(query["query.bias"][rows], A @ old["query.bias"][rows])
        torch.testing.assert_close(query["key.weight"][rows], torch.linalg.inv(A).T @ old["key.weight"][rows])
        torch.testing.assert_close(query["key.bias"][rows], torch.linalg.inv(A).T @ old["key.bias"][rows])
        B = torch.linalg.lstsq(old["value.weight"][rows].T, value["value.weight"][rows].T).solution.T
        torch.testing.assert_close(value["value.bias"][rows], B @ old["value.bias"][rows])
        torch.testing.assert_close(
            value["out.weight"][:, rows], old["out.weight"][:, rows] @ torch.linalg.inv(B)
        )
    assert float((matrices[0] - matrices[1]).abs().max()) > 0.1
    for key in ("value.weight", "out.weight", "up.weight", "embed.weight"):
        torch.testing.assert_close(query[key], old[key])


def test_rotary_positions_leave_queries_and_keys_alone():
    assert "joined with others by cat" in found("rotary").refused[QK]
    assert found("separate").refused[NORM] == "no batch norm"
    assert found("relu").refused[QK] == "no attention: no two activations are multiplied"
    assert "go through gelu" in found("gelu").refused[RELU]


def test_what_the_trace_cannot_see_the_trial_does():
    model = Leaking().double()
    own = symmetries(model, vectors(21))
    # A unit read as a number is no tensor: the layer seems free to move.
    assert own.places == {}
    assert "changes the outputs by" in own.refused[RELU]
    assert "changes the outputs by" in own.refused[ORDER]


@pytest.mark.parametrize("transformation", [RELU, ORDER])
def test_a_wrong_place_is_never_kept(transformation):
    own = found("two-readers")
    (right,) = own.places[transformation]
    # One of the two readers is forgotten.
    dropped = own.roots["right.weight"][1]
    wrong = Place(
        transformation,
        right.size,
        {axis: sign for axis, sign in right.signs.items() if axis is not dropped},
        tuple(name for name in right.tensors if name != "right.weight"),
    )
    kept, change = _kept(own.objective, own.roots, (right, wrong))
    assert kept == (right,)
    assert change > 1e-3


def test_frozen_parameters_stay_where_they_are():
    model = cnn()
    own = symmetries(model, images())
    names = {name for places in own.places.values() for place in places for name in place.tensors}
    assert names
    assert not names & {"0.weight", "0.bias"}
    half = CASES["relu"].model()
    half[2].weight.requires_grad_(False)  # type: ignore[index]
    own = symmetries(half, vectors(21))
    assert own.places == {}
    assert "belong to the frozen 2.weight" in own.refused[ORDER]


def test_parameters_out_of_the_space_are_frozen():
    objective = tw.Objective(CASES["relu"].model(), vectors(21)).restrict(["2.*", "4.*"])
    own = find_symmetries(objective)
    assert [place.tensors for place in own.places[RELU]] == [("2.weight", "2.bias", "4.weight")]


def test_tied_weights_move_as_one():
    x, _ = tokens()
    model, y = tied(), torch.arange(21) % 7
    own = symmetries(model, (x, y))
    assert set(own.places) == {ORDER}
    point = own.transformed(ORDER, strength=4.0, seed=0)
    named = moved_tensors(point)
    torch.testing.assert_close(torch.func.functional_call(model, named, (x,)), model(x))


def test_an_l2_term_sees_the_length():
    own = symmetries(CASES["convolutional"].model(), images(), weight_decay=0.1)
    assert set(own.places) == {ORDER}
    assert own.refused[RELU] == "the L2 term (weight_decay=0.1) changes with the length of the weights"
    point = own.transformed(ORDER, strength=4.0, seed=0)
    assert point.value() == pytest.approx(own.objective.value(), rel=1e-12)


def test_other_buffers_are_constants():
    own = symmetries(Whitened().double(), vectors(21))
    assert own.places == {}
    assert "belong to the buffer mean" in own.refused[ORDER]


def test_a_model_that_fixes_its_dtype_is_proved_in_it():
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = sequential(nn.ReLU)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.to(torch.float32))

    x, y = vectors(21)
    own = symmetries(Single(), (x.float(), y))
    assert own.objective.dtype == torch.float32
    assert {t: len(p) for t, p in own.places.items()} == {RELU: 2, ORDER: 2}
    result = agreement(own.objective, own.transformed(RELU, strength=4.0, seed=0))
    assert result.holds
    assert 0 < result.worst < result.tolerance == 5e-5


class Cast(nn.Module):
    """Computes in a dtype of its own, whatever it is given."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(self.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_proves_nothing(dtype):
    x, y = vectors(21)
    with pytest.raises(
        ValueError, match=r"`objective` must be computed in float32 or float64 .* got b?float16"
    ):
        symmetries(Cast(sequential(nn.ReLU), dtype), (x.to(dtype), y))
    # What runs in double is proved in it.
    assert symmetries(sequential(nn.ReLU).to(dtype), (x.to(dtype), y)).objective.dtype == torch.float64


def test_single_precision_cannot_tell_the_epsilon_of_batch_statistics():
    x, y = images(21)
    for eps, is_kept in ((1e-5, False), (1e-9, False), (1e-30, True)):
        inner = CASES["convolutional"].model()
        inner[1].eps = eps  # type: ignore[index]
        own = symmetries(Cast(inner, torch.float32), (x.float(), y), batch_norm="batch", batch_size=21)
        assert own.objective.dtype == torch.float32
        assert (NORM in own.places) == is_kept
        assert is_kept or "which single precision cannot tell" in own.refused[NORM]


@pytest.mark.parametrize(
    ("outputs", "losses", "expected"),
    [
        (1e-16, math.nan, False),
        (math.nan, 1e-16, False),
        (None, math.nan, False),
        (None, math.inf, False),
        (None, 1e-16, True),
        (1e-16, 1e-16, True),
        (1e-16, 1e-9, False),
    ],
)
def test_agreement_is_of_finite_numbers(outputs, losses, expected):
    assert Agreement(outputs, losses, torch.float64).holds is expected


def test_a_place_that_fails_on_some_example_costs_no_other():
    own = found("two-readers")
    (right,) = own.places[ORDER]
    dropped = own.roots["right.weight"][1]
    signs = {axis: sign for axis, sign in right.signs.items() if axis is not dropped}
    wrong = Place(ORDER, right.size, signs, ("left.weight",))
    proof = replace(own, places={ORDER: (wrong, right)}).proved(ORDER, strength=4.0, seed=1)
    assert (proof.places, proof.dropped) == ((right,), (wrong,))
    assert proof.agreement.holds
    assert torch.equal(proof.point.params, own.transformed(ORDER, strength=4.0, seed=1).params)
    alone = replace(own, places={ORDER: (wrong,)}).proved(ORDER, strength=4.0, seed=1)
    assert alone.places == (wrong,)
    assert not alone.agreement.holds


def test_a_loss_of_the_model_is_compared_by_its_losses():
    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y, reduction="none", label_smoothing=0.1)

    own = symmetries(CASES["relu"].model(), vectors(21), loss=loss)
    result = agreement(own.objective, own.transformed(RELU, strength=4.0, seed=0))
    assert result.outputs is None
    assert result.holds
    wrong = own.objective.at(own.objective.params + 1e-6)
    assert not agreement(own.objective, wrong).holds


def test_agreement_is_the_largest_change_over_all_micro_batches():
    model, (x, y) = CASES["relu"].model(), vectors(21)
    a = tw.Objective(model, (x, y), micro_batch=5)
    b = a.at(a.params + 0.01)
    with torch.no_grad():
        first = model(x)
        second = torch.func.functional_call(model, b.named_params, (x,))
    change = float((second - first).abs().max() / first.abs().max())
    assert agreement(a, b).outputs == pytest.approx(change)
    losses = [F.cross_entropy(z, y, reduction="none") for z in (first, second)]
    change = float((losses[1] - losses[0]).abs().max() / losses[0].abs().max())
    assert agreement(a, b).losses == pytest.approx(change)


def test_nothing_of_the_users_is_touched(unchanged):
    model, data = shuffle_statistics(convolutional()).double(), images()
    model.train()
    with unchanged(model, data):
        own = symmetries(model, data)
        own.transformed(NORM, strength=4.0, seed=0)
    assert in_float64(own.objective) is own.objective


def test_layers_side_by_side_are_left_alone():
    own = symmetries(Joined().double(), vectors(21))
    assert own.places == {}
    assert "joined with others by cat" in own.refused[ORDER]
