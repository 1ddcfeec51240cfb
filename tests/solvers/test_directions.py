"""Directions of every kind: where they come from, how long they are, and which are orthogonal."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.networks import cnn, images, mlp, residual, vectors
from torch import Tensor, nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers.directions import find_directions, random_direction

DTYPE = torch.float64


@pytest.fixture
def objective(toys) -> Objective:
    return Objective(toys.convnet(), toys.images(), batch_size=8)


def network(toys, seed: int = 1, **options: Any) -> Objective:
    return Objective(toys.convnet(seed), toys.images(), batch_size=8, **options)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def worst_cosine(cosines: Tensor) -> float:
    return float((cosines - torch.eye(len(cosines), dtype=DTYPE)).abs().max())


def trajectory(objective: Objective, num: int = 6) -> list[Tensor]:
    """Points that come nearer, the last one the objective's own."""
    steps = normals(num, objective.space.dim) * torch.arange(num - 1, -1, -1)[:, None]
    return list(objective.params + steps)


# -- norms and angles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["filter", "layer", "global", "raw", "none"])
@pytest.mark.parametrize("ignore", ["bias_and_norm", "none"])
@pytest.mark.parametrize("build", [cnn, residual])
def test_random_directions_are_orthogonal_and_as_long_as_each_alone(normalisation, ignore, build) -> None:
    o = Objective(build(), images(), batch_size=8)
    choice = {"normalisation": normalisation, "ignore": ignore}
    found = find_directions(o, "random", num_directions=3, **choice, seed=5)
    assert found.vectors.shape == (o.space.dim, 3)
    assert worst_cosine(found.cosines) <= 1e-12
    for j in range(3):
        alone = random_direction(o, j, **choice, seed=5)
        assert float(found.norms[j]) == pytest.approx(float(alone.norm()), rel=1e-12)
        for slot, rows in o.space.filters(found.vectors[:, j].clone()):
            if len(slot.shape) < 2 and ignore == "bias_and_norm":
                assert float(rows.abs().max()) == 0, slot.name
            elif normalisation == "filter":
                weights = o.named_params[slot.name].reshape(slot.num_filters, -1)
                torch.testing.assert_close(rows.norm(dim=1), weights.norm(dim=1), rtol=1e-9, atol=1e-14)
        assert found.description["directions"][j]["row_norm_error"] <= 1e-9
    assert torch.equal(found.vectors[:, 0], random_direction(o, 0, **choice, seed=5))


def test_norms_and_cosines_are_those_of_the_columns(objective: Objective) -> None:
    V = normals(objective.space.dim, 3)
    found = find_directions(objective, V, orthogonalise=False, seed=0)
    assert torch.equal(found.vectors, V)
    torch.testing.assert_close(found.norms, V.norm(dim=0), rtol=1e-14, atol=0)
    expected = torch.nn.functional.cosine_similarity(V[:, 0], V[:, 2], dim=0)
    assert float(found.cosines[0, 2]) == pytest.approx(float(expected), rel=1e-12)
    assert found.names == ("given 0", "given 1", "given 2")
    as_array = find_directions(objective, V.numpy(), orthogonalise=False, seed=0)
    assert torch.equal(as_array.vectors, V)


@pytest.mark.parametrize("cosine", [0.3, -0.99, 0.99999])
def test_given_directions_are_orthogonalised_by_their_lengths(toys, cosine: float) -> None:
    """Without the division by the squared norm, as landscaper has it, these come out nearly parallel."""
    o = toys.quadratic(torch.ones(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE))
    first = torch.tensor([3.0, 0.0], dtype=DTYPE)
    second = 5 * torch.tensor([cosine, (1 - cosine**2) ** 0.5], dtype=DTYPE)
    found = find_directions(o, [first, second], seed=0)
    assert torch.equal(found.vectors[:, 0], first)
    expected = torch.tensor([0.0, 5.0], dtype=DTYPE)
    torch.testing.assert_close(found.vectors[:, 1], expected, rtol=1e-9, atol=1e-10)
    assert worst_cosine(found.cosines) <= 1e-12


def test_every_pair_of_every_kind_is_orthogonal(toys, objective: Objective) -> None:
    steps = trajectory(objective)
    kinds = [
        "random",
        "gradient",
        "top",
        "top",
        "bottom",
        steps,
        steps,
        normals(objective.space.dim),
        "random",
    ]
    found = find_directions(objective, kinds, seed=0)
    assert worst_cosine(found.cosines) <= 1e-12
    assert found.names == (
        "random 0",
        "gradient",
        "top eigenvector 0",
        "top eigenvector 1",
        "bottom eigenvector 0",
        "trajectory component 0",
        "trajectory component 1",
        "given 0",
        "random 1",
    )
    torch.testing.assert_close(found.norms[1:7], torch.ones(6, dtype=DTYPE), rtol=1e-12, atol=0)
    # Two networks keep their angle, and all others make room for both.
    ends = [network(toys, 1), network(toys, 2)]
    mixed = find_directions(objective, ["random", ends[0], "gradient", ends[1]], seed=0)
    skew = mixed.cosines.clone()
    between = torch.nn.functional.cosine_similarity(
        ends[0].params - objective.params, ends[1].params - objective.params, dim=0
    )
    assert float(skew[1, 3]) == pytest.approx(float(between), rel=1e-12)
    skew[1, 3] = skew[3, 1] = 0
    assert worst_cosine(skew) <= 1e-12


def test_in_single_precision_only_the_rounding_of_entries_is_left(objective: Objective) -> None:
    single = objective.to_dtype(torch.float32)
    found = find_directions(single, ["random", "gradient", "random"], seed=0)
    assert found.vectors.dtype == torch.float32
    assert found.norms.dtype == found.cosines.dtype == DTYPE
    assert worst_cosine(found.cosines) <= 1e-7
    exact = find_directions(objective, ["random", "random"], seed=0)
    own = find_directions(single, ["random", "random"], seed=0)
    torch.testing.assert_close(own.vectors.double(), exact.vectors, rtol=1e-5, atol=1e-7)


# -- seeds ----------------------------------------------------------------------------------------------


def test_the_first_directions_of_a_seed_are_the_same_however_many(objective: Objective) -> None:
    three, four = (find_directions(objective, "random", num_directions=n, seed=9) for n in (3, 4))
    assert torch.equal(three.vectors, four.vectors[:, :3])
    other = find_directions(objective, "random", num_directions=3, seed=10)
    assert not torch.equal(three.vectors, other.vectors)
    # Whatever stands between them.
    mixed = find_directions(objective, ["random", "gradient", "random"], orthogonalise=False, seed=9)
    assert torch.equal(mixed.vectors[:, 2], random_direction(objective, 1, seed=9))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_device_changes_nothing_but_rounding(toys) -> None:
    here, there = (
        Objective(toys.convnet().to(d), [t.to(d) for t in toys.images()], batch_size=8)
        for d in ("cpu", "cuda")
    )
    kinds = ["random", "top", "gradient"]
    a, b = (find_directions(o, kinds, seed=0).vectors.cpu() for o in (here, there))
    assert torch.equal(a[:, 0], b[:, 0])
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# -- the gradient and the Hessian -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_the_gradient_points_uphill_at_length_one(toys, mode: str) -> None:
    o = network(toys, batch_norm=mode)
    found = find_directions(o, "gradient", seed=0)
    torch.testing.assert_close(found.vectors[:, 0], o.gradient() / o.gradient().norm(), rtol=1e-13, atol=0)
    h = 1e-5
    low, high = (o.frozen().at(o.params + s * found.vectors[:, 0]).value() for s in (-h, h))
    expected = found.description["directions"][0]["gradient_norm"]
    assert (high - low) / (2 * h) == pytest.approx(expected, rel=1e-6)


def test_top_and_bottom_are_the_hessians_outermost_eigenvectors_in_turn(toys) -> None:
    """Planted: every eigenvector and its sign are known."""
    P = 8
    Q = torch.linalg.qr(normals(P, P, seed=3)).Q
    values = torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.1, -1.0, -4.0], dtype=DTYPE)
    o = toys.quadratic(torch.zeros(P, dtype=DTYPE), (Q * values) @ Q.T)
    found = find_directions(o, ["bottom", "top", "top", "bottom"], seed=0)
    for j, k in enumerate((7, 0, 1, 6)):
        v = found.vectors[:, j]
        assert float(v[v.abs().argmax()]) > 0
        assert abs(float(v @ Q[:, k])) == pytest.approx(1, abs=1e-5)
        assert found.description["directions"][j]["eigenvalue"] == pytest.approx(float(values[k]), rel=1e-5)
        residual = (Hessian(o) @ v - values[k] * v).norm()
        assert float(residual) <= 1e-3 * 9.0
    assert found.description["operator"]["composition"]


def test_the_sign_of_an_eigenvector_does_not_hang_on_rounding(toys) -> None:
    """Entries that are each other's opposites but for the last bit: the first of them is positive."""
    v = torch.tensor([0.1, -1.0, 1.0, 0.2], dtype=DTYPE)
    for nudge in (torch.zeros(4), 1e-12 * normals(4, seed=1), 1e-12 * normals(4, seed=2)):
        w = v + nudge
        H = torch.outer(w, w) / w.norm() ** 2
        o = toys.quadratic(torch.zeros(4, dtype=DTYPE), H)
        for seed in (0, 1):
            found = find_directions(o, "top", seed=seed).vectors[:, 0]
            torch.testing.assert_close(found, -v / v.norm(), rtol=1e-4, atol=1e-4)


# -- trajectories ---------------------------------------------------------------------------------------


def test_components_are_the_singular_vectors_about_the_centre(objective: Objective) -> None:
    steps = trajectory(objective)
    found = find_directions(objective, [steps, steps, steps], seed=0)
    rows = torch.stack(steps) - objective.params
    _, S, Vh = torch.linalg.svd(rows, full_matrices=False)
    for k in range(3):
        v = found.vectors[:, k]
        assert abs(float(v @ Vh[k])) == pytest.approx(1, abs=1e-10)
        assert float(v[v.abs().argmax()]) > 0
        share = float(S[k] ** 2 / S.square().sum())
        assert found.description["directions"][k]["share"] == pytest.approx(share, rel=1e-10)
    # Any iterable, a lazy one too, and a block (T, P).
    for other in (iter(steps), torch.stack(steps)):
        again = find_directions(objective, [other, other], seed=0)
        torch.testing.assert_close(again.vectors, found.vectors[:, :2], rtol=1e-9, atol=1e-11)


def test_two_trajectories_each_begin_with_their_first_component(objective: Objective) -> None:
    a, b = trajectory(objective), [2 * objective.params, objective.params]
    found = find_directions(objective, [a, b, a], orthogonalise=False, seed=0)
    assert [d["index"] for d in found.description["directions"]] == [0, 0, 1]
    unit = objective.params / objective.params.norm()
    assert abs(float(found.vectors[:, 1] @ unit)) == pytest.approx(1, abs=1e-12)


# -- through networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_one_is_the_network_given_statistics_and_all(toys, mode: str, dtype: torch.dtype) -> None:
    data = toys.images()[0].to(dtype), toys.images()[1]
    centre, one, two = (
        Objective(toys.convnet(s, dtype), data, batch_norm=mode, batch_size=8) for s in range(3)
    )
    found = find_directions(centre, [one, two], seed=0)
    assert found.names == ("to network 1", "to network 2")
    for steps, end in (((1.0, 0.0), one), ((0, 1), two), ((0.0, 0.0), centre)):
        params, buffers = found.point(centre, steps)
        assert torch.equal(params, end.params)
        assert centre.at(params, buffers).value() == end.value()
    # By the sum alone, up to the last place.
    torch.testing.assert_close(centre.params + found.vectors[:, 1], two.params)
    if mode == "running":
        assert found.offsets is not None
        _, halfway = found.point(centre, (0.5, 0.25))
        for name, b in centre.buffers.items():
            expected = 0.25 * b + 0.5 * one.buffers[name] + 0.25 * two.buffers[name]
            torch.testing.assert_close(halfway[name], expected)


def test_only_networks_take_buffers_along(toys, objective: Objective) -> None:
    assert find_directions(objective, ["random", "gradient"], seed=0).offsets is None
    found = find_directions(objective, ["random", network(toys)], seed=0)
    assert found.offsets is not None
    for offset in found.offsets.values():
        assert float(offset[0].abs().max()) == 0
        assert float(offset[1].abs().max()) > 0
    assert found.ends[0] is None
    without = Objective(mlp(), vectors())
    other = Objective(mlp(1), vectors())
    assert find_directions(without, other, seed=0).offsets is None


def test_a_network_that_is_scaled_is_a_vector_like_others(toys, objective: Objective) -> None:
    found = find_directions(
        objective,
        ["random", network(toys)],
        normalisation=("filter", "filter"),
        ignore=("none", "none"),
        seed=0,
    )
    assert found.offsets is None
    assert found.ends == (None, None)
    assert worst_cosine(found.cosines) <= 1e-12
    for slot, rows in objective.space.filters(found.vectors[:, 1].clone()):
        weights = objective.named_params[slot.name].reshape(slot.num_filters, -1)
        torch.testing.assert_close(rows.norm(dim=1), weights.norm(dim=1), rtol=1e-9, atol=0)


def test_where_networks_agree_no_step_moves_an_entry(toys) -> None:
    """A pruned weight is nought everywhere on the plane."""
    nets = [toys.convnet(s) for s in range(2)]
    with torch.no_grad():
        for net in nets:
            net.head.weight[:, ::2] = 0.1
    a, b = (Objective(net, toys.images(), batch_size=8) for net in nets)
    params, _ = find_directions(a, b, seed=0).point(a, [0.37])
    weight = a.space.unflatten(params)["head.weight"]
    assert torch.equal(weight[:, ::2], a.named_params["head.weight"][:, ::2])


# -- scaling of other kinds ------------------------------------------------------------------------------


def test_one_name_scales_random_directions_alone_and_names_for_each_scale_each(objective: Objective) -> None:
    steps = trajectory(objective)
    given = normals(objective.space.dim, seed=4)
    kinds = ["gradient", given, steps]
    found = find_directions(
        objective, kinds, normalisation="layer", ignore="bias_and_norm", orthogonalise=False, seed=0
    )
    assert torch.equal(found.vectors[:, 1], given)
    assert found.norms[[0, 2]].tolist() == pytest.approx([1, 1])
    assert {d["normalisation"] for d in found.description["directions"]} == {"none"}
    asked = find_directions(
        objective,
        kinds,
        normalisation=("filter", "raw", "layer"),
        ignore=("bias_and_norm", "none", "none"),
        orthogonalise=False,
        seed=0,
    )
    named = objective.space.unflatten(asked.vectors[:, 0].contiguous())
    weights = objective.named_params["conv.weight"].flatten(1).norm(dim=1)
    torch.testing.assert_close(named["conv.weight"].flatten(1).norm(dim=1), weights)
    assert float(named["conv.bias"].abs().max()) == 0
    torch.testing.assert_close(asked.vectors[:, 1], given / given.norm(), rtol=1e-13, atol=0)
    layered = objective.space.unflatten(asked.vectors[:, 2].contiguous())
    for name, weight in objective.named_params.items():
        assert float(layered[name].norm()) == pytest.approx(float(weight.norm()))


# -- what it leaves alone, and what it says ---------------------------------------------------------------


def test_nothing_of_the_users_is_touched(toys, unchanged) -> None:
    net, other, data = toys.convnet(), toys.convnet(1), toys.images()
    given = normals(Objective(net, data).space.dim)
    steps = [given + k for k in range(3)]
    with unchanged(net, other, *data, given, steps):
        o = Objective(net, data, batch_size=8)
        find_directions(o, ["random", "top", Objective(other, data, batch_size=8), steps, given], seed=0)


def test_the_description_is_json_and_tells_inputs_apart(toys, objective: Objective) -> None:
    steps, given = trajectory(objective), normals(objective.space.dim)
    kinds = ["random", "gradient", "top", network(toys), steps, given]
    told = [
        json.dumps(find_directions(objective, k, seed=0).description, sort_keys=True, allow_nan=False)
        for k in (
            kinds,
            kinds,
            [*kinds[:-1], given + 1e-9],
            [*kinds[:3], network(toys, 2), *kinds[4:]],
            [*kinds[:4], [*steps[1:]], given],
        )
    ]
    assert told[0] == told[1]
    assert len(set(told)) == 4


def test_progress_is_that_of_the_eigenvectors(objective: Objective) -> None:
    seen: list[tuple[int, int]] = []
    find_directions(objective, ["top", "bottom"], seed=0, progress=lambda *a: seen.append(a))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


# -- bad input --------------------------------------------------------------------------------------------


def bad(
    objective: Objective, kinds: Any, match: str, error: type[Exception] = ValueError, **options: Any
) -> None:
    with pytest.raises(error, match=match):
        find_directions(objective, kinds, **{"seed": 0, **options})


def test_what_is_no_direction_is_refused(toys, objective: Objective) -> None:
    P = objective.space.dim
    ones = torch.ones(P, dtype=DTYPE)
    bad(objective, [], "`directions` must hold at least one direction")
    bad(
        objective,
        ["random", "eigen"],
        r"`directions\[1\]` must be one of random, gradient, top, bottom, a vector",
    )
    bad(objective, [{"a": ones}], r"`directions\[0\]` must be .* got dict", TypeError)
    bad(objective, [3], r"`directions\[0\]` must be .* got int", TypeError)
    bad(
        objective,
        [toys.convnet()],
        r"`directions\[0\]` must come with its data and loss, got the bare ConvNet",
        TypeError,
    )
    bad(toys.convnet(), "random", "`objective` must be a thalweg.Objective", TypeError)
    bad(objective, ones[1:], rf"`directions\[0\]` must have shape \({P},\).* got \({P - 1},\)")
    bad(objective, 0 * ones, r"`directions\[0\]` must not be zero")
    bad(objective, ones * float("nan"), r"`directions\[0\]` must be finite")
    bad(objective, [[]], r"`directions\[0\]`, a trajectory, must hold at least one point")
    bad(objective, [[ones, ones[1:]]], r"`directions\[0\]\[1\]` must have shape")
    bad(objective, [[objective.params + ones, objective.params]] * 2, r"asks for 2 principal components, but")
    bad(objective, ["random"] * 2, "`num_directions` goes with a single kind", num_directions=3)
    bad(objective, "random", "`num_directions` must be a whole number", num_directions=0)
    bad(objective, "random", "`seed` must be an integer", TypeError, seed=0.5)
    bad(objective, "random", "`orthogonalise` must be True or False", orthogonalise="yes")
    bad(
        objective,
        ["random"] * 2,
        "`normalisation` must be one name, .* or 2, one a direction",
        normalisation=("raw",),
    )
    bad(objective, ["random"] * 2, "`ignore` must be one of", ignore=("none", "biasbn"))
    bad(objective.at(objective.params * float("inf")), "random", "`objective` must be at a point of finite")


def test_directions_that_span_no_surface_are_refused(toys, objective: Objective) -> None:
    v = normals(objective.space.dim)
    for orthogonalise in (True, False):
        bad(
            objective,
            [v, -3 * v],
            r"`directions\[1\]` \(given 1\) must not lie in the span",
            orthogonalise=orthogonalise,
        )
        bad(
            objective,
            ["gradient"] * 2,
            r"span of the other directions \(gradient\)",
            orthogonalise=orthogonalise,
        )
    end = network(toys)
    bad(objective, [end, network(toys)], r"\(to network 2\) must not lie in the span")
    two = normals(2)
    flat = toys.quadratic(two, torch.eye(2, dtype=DTYPE))
    bad(
        flat,
        "random",
        r"`directions\[2\]` \(random 2\)",
        num_directions=3,
        ignore="none",
        normalisation="raw",
    )
    bad(flat, "top", "asks for 3 eigenvectors, but there are only P = 2", num_directions=3)


def test_a_zero_gradient_is_no_direction(toys) -> None:
    o = toys.quadratic(torch.zeros(3, dtype=DTYPE), torch.eye(3, dtype=DTYPE), num_examples=1)
    bad(o, "gradient", r"`directions\[0\]`, the gradient, is zero at this point")


def test_other_networks_are_refused_with_what_differs(toys, objective: Objective) -> None:
    data = toys.images()
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    bad(
        objective,
        Objective(wide, data, batch_size=8),
        r"`directions\[0\]` must be a point of the objective's own function",
    )
    bad(objective, network(toys, batch_norm="batch"), "their batch_norm differs")
    bad(objective, objective, r"`directions\[0\]` must be another point than the objective's own")
    bad(objective, objective.at(objective.params * float("nan")), "parameters that are not finite")

    class Sharper(type(toys.convnet())):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    sharper = Sharper(3).double().eval()
    bad(objective, Objective(sharper, data, batch_size=8), "give other losses through")


def test_a_network_whose_loss_is_not_finite_is_refused(toys, objective: Objective) -> None:
    net = copy.deepcopy(toys.convnet(1))
    with torch.no_grad():
        net.norm.running_var.fill_(-1.0)
    with pytest.raises(NonFiniteLossError, match="the loss is not finite"):
        find_directions(objective, Objective(net, toys.images(), batch_size=8), seed=0)


def test_kinds_of_one_sequence_type(objective: Objective) -> None:
    """A tuple, a list, or one name: the same."""
    kinds: list[Sequence[str] | str] = [("random",), ["random"], "random"]
    first, *others = (find_directions(objective, k, seed=0).vectors for k in kinds)
    assert all(torch.equal(first, other) for other in others)
