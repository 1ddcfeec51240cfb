"""`align_permutation`: networks permuted by hand come back, whatever they are; refusals; what is told."""

from __future__ import annotations

import copy
import json
import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.networks import images, residual, vectors
from tests.symmetric_networks import CASES, ORDER, Joined, Leaking, convolutional, sequential
from torch import Tensor, nn

import thalweg as tw
from thalweg.core.measurement import Measurement
from thalweg.solvers.symmetries.transformations import Symmetries, find_symmetries

MODES = ("running", "recalibrated", "batch")
METHODS = ("weights", "activations")


def order(n: int, seed: int) -> Tensor:
    """A random order other than the present one."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        found = torch.randperm(n, generator=rng)
        if not torch.equal(found, torch.arange(n)):
            return found


def put_out(order: Tensor, *layers: nn.Module) -> None:
    """Everything with one entry a unit in its first dimension: weights, biases, norms with statistics."""
    with torch.no_grad():
        for layer in layers:
            for t in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                if t.ndim:
                    t.copy_(t[order].clone())


def take(order: Tensor, weight: Tensor, positions: int = 1) -> None:
    """The second dimension of a weight, each unit having several entries side by side."""
    with torch.no_grad():
        blocks = weight.view(len(weight), len(order), positions, *weight.shape[2:])
        weight.copy_(blocks[:, order].reshape(weight.shape))


def permuted_mlp(model: Any) -> None:
    first, second = order(6, 1), order(4, 2)
    put_out(first, model[0])
    take(first, model[2].weight)
    put_out(second, model[2])
    take(second, model[4].weight)


def permuted_convolutional(model: Any) -> None:
    first, second = order(4, 1), order(3, 2)
    put_out(first, model[0], model[1])
    take(first, model[4].weight)
    put_out(second, model[4])
    take(second, model[7].weight, positions=4)


def permuted_residual(model: Any) -> None:
    stream = order(4, 1)
    put_out(stream, model[0], model[1])
    for i, block in enumerate((model[3], model[4])):
        inner = order(4, 2 + i)
        take(stream, block.conv1.weight)
        put_out(inner, block.conv1, block.norm1)
        take(inner, block.conv2.weight)
        put_out(stream, block.conv2, block.norm2)
    take(stream, model[7].weight)


def permuted_weight_normed(model: Any) -> None:
    own = [model[i].parametrizations.weight for i in (0, 3, 6)]  # lengths and directions
    orders = order(4, 1), order(3, 2), order(5, 3)
    put_out(orders[0], model[0], own[0], model[1])
    take(orders[0], own[1].original1)
    put_out(orders[1], model[3], own[1])
    take(orders[1], own[2].original1, positions=9)
    put_out(orders[2], model[6], own[2])
    take(orders[2], model[8].weight)


BY_HAND = {
    "relu": permuted_mlp,
    "convolutional": permuted_convolutional,
    "residual": permuted_residual,
    "weight-norm": permuted_weight_normed,
}


def pair(name: str, **kwargs: Any) -> tuple[tw.Objective, tw.Objective]:
    """A network that fits its own answers, and itself permuted by hand."""
    first, x = lively(name)
    with torch.no_grad():
        y = first(x).argmax(1)
    second = copy.deepcopy(first)
    BY_HAND[name](second)
    with torch.no_grad():
        torch.testing.assert_close(second(x), first(x), rtol=1e-11, atol=1e-12)
    a, b = (tw.Objective(n, (x, y), micro_batch=64, **kwargs) for n in (first, second))
    return a, b


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_lengths_of_a_weight_norm_move_with_its_directions(method, mode):
    a, b = pair("weight-norm", batch_norm=mode, batch_size=7)
    found = tw.align_permutation(a, b, method=method, seed=0)
    assert found.layers == ("0", "3", "6")
    assert found.distance_before > 1
    assert found.value == 0
    assert torch.equal(found.params, a.params)
    assert "0.parametrizations.weight.original0" in found.tensors["0"]


def lively(name: str) -> tuple[nn.Module, Tensor]:
    """A network and examples on which hardly a unit is silent: such a one is like none by its activations."""
    model, (x, _) = CASES[name].model(), CASES[name].data(300)  # type: ignore[call-arg]
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm2d) and layer.bias is not None:
                layer.bias += 1
    return model, 3 * x if x.is_floating_point() else x


def test_units_that_never_change_are_like_none():
    first, x = lively("relu")
    with torch.no_grad():
        first[0].bias[2] = -100.0  # type: ignore[index]
    a = tw.Objective(first, (x, torch.zeros(len(x), dtype=torch.int64)))
    found = tw.align_permutation(a, a, method="activations", seed=0)
    assert float(found.similarities[0]) == pytest.approx(0.9)
    assert found.num_moved.tolist() == [0, 0]
    assert found.value == 0.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["relu", "convolutional", "residual"])
def test_a_network_permuted_by_hand_comes_back_and_the_barrier_is_gone(name, method, mode):
    a, b = pair(name, batch_norm=mode, batch_size=7)
    assert tw.linear_path(a, b).barrier > 1e-3
    found = tw.align_permutation(a, b, method=method, num_restarts=10, seed=0)
    assert found.value == 0.0
    assert found.distance_before == pytest.approx(float((a.params - b.params).norm()))
    assert torch.equal(found.objective.params, a.params)
    if mode != "batch":
        # Running statistics went along, to the bit.
        assert all(torch.equal(found.objective.buffers[k], t) for k, t in a.buffers.items())
    path = tw.linear_path(a, found.objective)
    assert path.barrier == pytest.approx(0, abs=1e-12)
    # One channel is silent where batch norm's statistics are stale: matched, being what is left over.
    is_silent = (name, method, mode) == ("convolutional", "activations", "running")
    assert float(found.similarities.max()) == pytest.approx(6 / 7 if is_silent else 1, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if ORDER in case.places])
def test_every_architecture_with_layers_to_permute_comes_back(name, method):
    """Recurrent nets, gates, encoders by hand and torch's own, with heads and packed projections."""
    model, x = lively(name)
    a = tw.Objective(model, (x, torch.zeros(len(x), dtype=torch.int64)))
    found = find_symmetries(a, (ORDER,))
    permuted = found.transformed(ORDER, strength=4.0, seed=5)
    b = a.at(permuted.params, permuted.buffers)
    assert not torch.equal(a.params, b.params)
    result = tw.align_permutation(a, b, method=method, num_restarts=40, seed=0)
    assert result.value == 0.0
    assert tw.linear_path(a, result.objective, num_points=5).barrier == pytest.approx(0, abs=1e-12)


def test_permutations_say_which_unit_of_b_comes_where():
    a, b = pair("relu")
    found = tw.align_permutation(a, b, seed=0)
    assert found.layers == ("0", "2")
    assert found.num_units.tolist() == [6, 4]
    first, second = order(6, 1), order(4, 2)
    # b = a[planted], so that b[inverse] = a.
    assert found.permutations["0"].tolist() == first.argsort().tolist()
    assert found.permutations["2"].tolist() == second.argsort().tolist()
    rows = b.named_params["0.weight"][found.permutations["0"]]
    assert torch.equal(rows, found.objective.named_params["0.weight"])
    assert found.num_moved.tolist() == [
        int((o.argsort() != torch.arange(len(o))).sum()) for o in (first, second)
    ]
    assert found.tensors["0"] == ("0.weight", "0.bias", "2.weight")
    assert found.left_alone == {}


def test_two_dense_layers_reach_the_least_distance_of_all_permutations():
    def net(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)
            ).double()

    for seed in range(3):
        nets: list[Any] = [net(2 * seed), net(2 * seed + 1)]
        least = math.inf
        for p in permutations(range(4)):
            for q in permutations(range(3)):
                own = copy.deepcopy(nets[1])
                put_out(torch.tensor(p), own[0])
                take(torch.tensor(p), own[2].weight)
                put_out(torch.tensor(q), own[2])
                take(torch.tensor(q), own[4].weight)
                ends = [nn.utils.parameters_to_vector(m.parameters()).detach() for m in (nets[0], own)]
                least = min(least, float((ends[0] - ends[1]).norm()))
        a, b = (tw.Objective(n, vectors()) for n in nets)
        found = tw.align_permutation(a, b, num_restarts=20, seed=0)
        assert found.value == pytest.approx(least, rel=1e-12)
        assert found.distances.min() == found.value
        # The cosine and the distance are one number.
        norms = float(a.params.norm()), float(b.params.norm())
        from_cosine = norms[0] ** 2 + norms[1] ** 2 - 2 * norms[0] * norms[1] * found.similarities
        torch.testing.assert_close(found.distances.square(), from_cosine)
        assert float(found.start_similarities[0]) == pytest.approx(
            float(a.params @ b.params) / (norms[0] * norms[1])
        )
        assert bool((found.similarities >= found.start_similarities - 1e-12).all())


def test_a_stream_that_one_weight_puts_out_and_takes_has_its_best_order():
    a, b = (tw.Objective(residual(seed), images()) for seed in (0, 1))
    found = tw.align_permutation(a, b, num_restarts=24, seed=0)
    (layer,) = found.layers
    own = find_symmetries(b, (ORDER,))
    points = [own.reordered(b, [torch.tensor(p)]) for p in permutations(range(4))]
    assert found.value == pytest.approx(min(float((a.params - o.params).norm()) for o in points))
    assert found.num_units.tolist() == [4]
    assert layer == "conv2"


class TwoLayers(nn.Module):
    """A convolution with batch norm, and a dense layer after the flattening."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.dense, self.head = nn.Linear(64, 5), nn.Linear(5, 3)
            self.norm.running_mean.copy_(torch.randn(4))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.rand(4) + 0.5)  # type: ignore[union-attr]
        self.double().eval()

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = F.relu(self.norm(self.conv(x)))
        return first, F.relu(self.dense(first.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[1])


def test_activations_are_matched_by_their_correlations():
    """The objective and its optimum, from the users' own modules by `numpy.corrcoef`."""
    nets = [TwoLayers(seed) for seed in (0, 1)]
    x, y = images(40)
    found = tw.align_permutation(
        *(tw.Objective(n, (x, y), micro_batch=7) for n in nets), method="activations", seed=0
    )
    with torch.no_grad():
        (a1, a2), (b1, b2) = (n.features(x) for n in nets)
    total = 0.0
    for name, first, second in (("conv", a1, b1), ("dense", a2, b2)):
        n = first.shape[1]
        rows = [t.movedim(1, 0).flatten(1).numpy() for t in (first, second)]
        with np.errstate(invalid="ignore"):
            corr = np.nan_to_num(np.corrcoef(*rows)[:n, n:])
        assert corr.shape == (n, n)
        best = max(permutations(range(n)), key=lambda p, corr=corr: corr[range(len(p)), p].sum())
        assert found.permutations[name].tolist() == list(best)
        total += corr[range(n), best].sum()
    assert float(found.similarities[0]) == pytest.approx(total / 9, abs=1e-9)
    # One layer's optimum does not hang on the other's order: every start ends there.
    assert float(found.similarities.max() - found.similarities.min()) < 1e-12
    assert found.start_similarities[0] < found.similarities[0]


def test_activations_see_the_statistics_of_the_mode():
    nets = [TwoLayers(seed) for seed in (0, 1)]
    ends = [
        tw.align_permutation(
            *(tw.Objective(n, images(20), batch_norm=mode, batch_size=10) for n in nets),
            method="activations",
            seed=0,
        ).similarities[0]
        for mode in MODES
    ]
    assert len({round(float(s), 6) for s in ends}) == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_the_aligned_network_is_b_in_the_users_own_hands(method, mode):
    nets = [TwoLayers(seed) for seed in (0, 1)]
    x, y = images(21)
    a, b = (
        tw.Objective(n, (x, y), batch_norm=mode, batch_size=8, weight_decay=0.1, micro_batch=5) for n in nets
    )
    found = tw.align_permutation(a, b, method=method, seed=0)
    assert sum(found.num_moved) > 0
    assert found.objective.value() == pytest.approx(b.value(), rel=1e-12)
    own, theirs = found.objective.describe(), b.describe()
    assert {k for k in own if own[k] != theirs[k]} <= {"params", "buffers"}
    assert found.largest_change < 1e-12
    proof = found.provenance["proof"]
    assert (proof["num_examples"], proof["dtype"], proof["tolerance"]) == (21, "float64", 2e-10)
    if mode == "running":
        twin = copy.deepcopy(nets[1])
        state = {**found.objective.named_params, **found.objective.buffers}
        twin.load_state_dict(state, strict=False)
        torch.testing.assert_close(twin(x), nets[1](x), rtol=1e-11, atol=1e-12)


def test_examples_checked_are_whole_batches_in_batch_mode():
    nets = [TwoLayers(seed) for seed in (0, 1)]
    for asked, used in ((1, 8), (8, 8), (17, 16), (100, 21)):
        a, b = (tw.Objective(n, images(21), batch_norm="batch", batch_size=8) for n in nets)
        found = tw.align_permutation(a, b, num_checked=asked, seed=0)
        assert found.provenance["proof"]["num_examples"] == used
    a, b = (tw.Objective(n, images(21)) for n in nets)
    assert tw.align_permutation(a, b, num_checked=4, seed=0).provenance["proof"]["num_examples"] == 4


def test_single_precision_moves_entries_and_changes_none():
    nets = [TwoLayers(seed).float() for seed in (0, 1)]
    x, y = images(21)
    a, b = (tw.Objective(n, (x.float(), y)) for n in nets)
    found = tw.align_permutation(a, b, seed=0)
    assert found.params.dtype == torch.float32
    assert torch.equal(found.params.sort().values, b.params.sort().values)
    assert found.provenance["proof"]["dtype"] == "float64"
    assert found.largest_change < 2e-10


def test_a_result_on_file_knows_the_point_and_not_the_network(tmp_path):
    a, b = pair("convolutional")
    found = tw.align_permutation(a, b, seed=0)
    raw = json.loads(json.dumps(found.to_dict(tmp_path), allow_nan=False))
    back: Any = Measurement.from_dict(raw, tmp_path)
    assert back == found
    with pytest.raises(AttributeError, match=r"no `objective`, only its point: .* b.at\(result.params"):
        _ = back.objective
    again = b.at(back.params, back.buffers)
    assert again.value() == found.objective.value()
    assert back.permutations["0"].tolist() == found.permutations["0"].tolist()


def test_layers_that_cannot_be_permuted_are_named_and_left_alone_only_when_asked():
    class Half(nn.Module):
        """One layer that may be permuted, and two that are joined."""

        def __init__(self, seed: int) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.joined, self.free = Joined(), nn.Linear(3, 7)
                self.last = nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.free(self.joined(x))))

    a, b = (tw.Objective(Half(seed).double(), vectors()) for seed in (0, 1))
    with pytest.raises(ValueError, match=r"some may not \(joined.first: they are joined .*partial=True"):
        tw.align_permutation(a, b, seed=0)
    found = tw.align_permutation(a, b, partial=True, seed=0)
    assert found.layers == ("joined.last", "free")
    assert set(found.left_alone) == {"joined.first", "joined.second"}
    assert found.value < found.distance_before


def test_nothing_to_permute_is_refused_with_the_layer():
    a, b = (tw.Objective(Joined().double(), vectors()) for _ in range(2))
    with pytest.raises(
        ValueError, match=r"hidden units .* it has none \(first: they are joined with others by cat"
    ):
        tw.align_permutation(a, b, partial=True, seed=0)
    a, b = (tw.Objective(nn.Linear(5, 3).double(), vectors()) for _ in range(2))
    with pytest.raises(ValueError, match=r"it has none \(no layer of units may trade places"):
        tw.align_permutation(a, b, seed=0)
    frozen = [sequential(nn.ReLU).double() for _ in range(2)]
    frozen[1].load_state_dict(frozen[0].state_dict())
    for net in frozen:
        net[0].requires_grad_(False)  # type: ignore[index]
    a, b = (tw.Objective(n, vectors()) for n in frozen)
    with pytest.raises(ValueError, match=r"some may not \(0: they belong to the frozen 0.weight"):
        tw.align_permutation(a, b, seed=0)


def test_units_told_apart_where_no_trace_sees_it_are_not_permuted():
    nets = [Leaking().double() for _ in range(2)]
    a, b = (tw.Objective(n, vectors()) for n in nets)
    with pytest.raises(ValueError, match=r"none \(first: they change the outputs when they trade places\)"):
        tw.align_permutation(a, b, seed=0)


def test_a_network_whose_function_does_change_is_never_returned(monkeypatch):
    """Should the search for symmetries be wrong, the proof on the examples is not."""
    a, b = pair("convolutional")
    own = Symmetries.reordered

    def wrong(self: Symmetries, objective: tw.Objective, orders: Any) -> tw.Objective:
        point = own(self, objective, orders)
        return point.at(point.params, {k: t.flip(0) for k, t in point.buffers.items()})

    monkeypatch.setattr(Symmetries, "reordered", wrong)
    with pytest.raises(
        tw.ThalwegError, match=r"is not the function that `b` is: on 256 examples they differ"
    ):
        tw.align_permutation(a, b, seed=0)


def test_models_that_differ_in_what_no_shape_shows_are_refused():
    a, b = (
        tw.Objective(sequential(activation).double(), vectors()) for activation in (nn.ReLU, nn.LeakyReLU)
    )
    with pytest.raises(ValueError, match=r"points of one function, .* such as an activation, a mask or an"):
        tw.align_permutation(a, b, seed=0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: (sequential(nn.ReLU).float(), 21), "differs: 'float64' in `a` and 'float32'"),
        (lambda: (convolutional().double(), 21), "`a` and `b` must have the same trainable parameters"),
        (lambda: (nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).double(), 21), "has shape"),
        (lambda: (sequential(nn.ReLU).double(), 20), "their num_examples differs"),
    ],
)
def test_networks_that_are_not_points_of_one_function_are_refused(other, message):
    a = tw.Objective(sequential(nn.ReLU).double(), vectors(21))
    model, n = other()
    x, y = images(n) if isinstance(model[0], nn.Conv2d) else vectors(n)
    b = tw.Objective(model, (x.to(next(model.parameters()).dtype), y))
    with pytest.raises(ValueError, match=message):
        tw.align_permutation(a, b, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "`method` must be one of weights, activations, got 'magic'"),
        ({"num_restarts": 0}, "`num_restarts` must be a whole number of at least 1, got 0"),
        ({"partial": "yes"}, "`partial` must be True or False, got 'yes'"),
        ({"num_checked": 0.5}, "`num_checked` must be a whole number"),
    ],
)
def test_arguments_are_checked(arguments, message):
    a, b = pair("relu")
    with pytest.raises(ValueError, match=message):
        tw.align_permutation(a, b, seed=0, **arguments)


def test_parameters_that_are_not_finite_are_named():
    a, b = pair("relu")
    broken = a.params.clone()
    broken[0] = math.nan
    with pytest.raises(tw.NonFiniteLossError, match=r"`a` has no units to match: 0.weight is not finite"):
        tw.align_permutation(a.at(broken), b, seed=0)
    a, b = pair("convolutional")
    spoilt = {**b.buffers, "1.running_mean": torch.full((4,), math.nan)}
    with pytest.raises(tw.NonFiniteLossError, match=r"`b` has no units .* 1.running_mean is not finite"):
        tw.align_permutation(a, b.at(b.params, spoilt), seed=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_users_is_touched(method, mode, unchanged):
    nets = [TwoLayers(seed).train() for seed in (0, 1)]
    data = images(21)
    with unchanged(*nets, data):
        a, b = (tw.Objective(n, data, batch_norm=mode, batch_size=8) for n in nets)
        tw.align_permutation(a, b, method=method, seed=0)
