"""The objective as a function: value, gradient, and its variants at other points, data, spaces and dtypes."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.networks import (
    Counting,
    attention,
    cnn,
    dictionary_input,
    images,
    mlp,
    residual,
    tied,
    tokens,
    vectors,
    with_unused,
)
from tests.objective.by_hand import loss_and_gradient
from torch import nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.param_space import ParamSpace
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")


def tied_data(n=21):
    ids, _ = tokens(n)
    return ids, ids[:, 0]


CASES = {
    "cnn": (cnn, images),
    "residual": (residual, images),
    "mlp": (mlp, vectors),
    "tied": (tied, tied_data),
    "attention": (attention, tokens),
    "unused": (with_unused, vectors),
}


def make(case, **kwargs):
    build, data = CASES[case]
    return Objective(build(), data(21), **{"batch_size": 8, "micro_batch": 5, **kwargs})


def copied_from(model, vector):
    """A copy of the model with its trainable parameters set to the vector, by torch alone."""
    other = copy.deepcopy(model)
    nn.utils.vector_to_parameters(vector, [p for p in other.parameters() if p.requires_grad])
    return other


# -- value and gradient ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_value_accuracy_and_gradient_by_hand(case, unchanged):
    build, data = CASES[case]
    model, (x, y) = build(), data(21)
    loss, accuracy, gradient = loss_and_gradient(model, (x, y), "running")
    with unchanged(model, x, y):
        objective = Objective(model, (x, y), micro_batch=5)
        result = objective.evaluate()
        ours = objective.gradient()
    assert objective.value() == pytest.approx(loss, rel=1e-12)
    assert (result.loss, result.accuracy) == pytest.approx((loss, accuracy), rel=1e-12)
    assert (result.num_examples, result.penalty) == (21, 0.0)
    assert objective.params.shape == ours.shape == (objective.space.dim,)
    assert torch.allclose(ours, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_gradient_against_central_differences(case, mode, weight_decay):
    objective = make(case, batch_norm=mode, weight_decay=weight_decay)
    function = objective.frozen()
    gradient, h = objective.gradient(), 1e-6
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        v = torch.randn(objective.space.dim, generator=rng, dtype=torch.float64)
        slope = (
            function.at(objective.params + h * v).value() - function.at(objective.params - h * v).value()
        ) / (2 * h)
        assert slope == pytest.approx(float(gradient @ v), rel=1e-7, abs=1e-8)


def test_every_entry_of_the_gradient_against_central_differences():
    objective = make("unused", weight_decay=0.3)
    gradient, h = objective.gradient(), 1e-5
    for i, step in enumerate(torch.eye(objective.space.dim, dtype=torch.float64)):
        ends = [objective.at(objective.params + s * h * step).value() for s in (1, -1)]
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float(gradient[i]), abs=1e-9)


def test_the_gradient_vanishes_where_nothing_depends_on_a_parameter():
    objective = make("unused")
    assert not objective.space.unflatten(objective.gradient())["unused"].any()


def test_weight_decay_is_torchs_convention():
    model, data = mlp(), vectors(21)
    plain = Objective(model, data)
    decayed = Objective(model, data, weight_decay=0.04)
    square = sum(float(p.detach().square().sum()) for p in model.parameters())
    assert decayed.evaluate().loss == plain.value(), "the loss leaves the term out"
    assert decayed.evaluate().penalty == pytest.approx(0.02 * square, rel=1e-14)
    assert decayed.value() == pytest.approx(plain.value() + 0.02 * square, rel=1e-14)
    # One step of plain SGD with torch's weight_decay follows exactly this gradient.
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.04)
    F.cross_entropy(model(data[0]), data[1]).backward()
    optimizer.step()
    after = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert torch.allclose(after, decayed.params - decayed.gradient(), rtol=1e-12, atol=1e-14)


def test_weight_decay_follows_the_point_and_leaves_frozen_parameters_out():
    objective = make("cnn", weight_decay=1.0)
    assert objective.evaluate().penalty == pytest.approx(0.5 * float(objective.params.square().sum()))
    assert objective.at(torch.zeros_like(objective.params)).evaluate().penalty == 0
    doubled = objective.at(2 * objective.params)
    assert doubled.evaluate().penalty == pytest.approx(4 * objective.evaluate().penalty)


@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_change_nothing_beyond_rounding(mode):
    build, data = CASES["cnn"]
    objectives = [
        Objective(build(), data(21), batch_norm=mode, batch_size=8, micro_batch=m)
        for m in (2, 5, 20, 21, 400)
    ]
    values = [o.value() for o in objectives]
    gradients = torch.stack([o.gradient() for o in objectives])
    assert max(values) - min(values) < 1e-14
    assert float((gradients - gradients[0]).abs().max()) < 1e-14


def test_a_last_batch_of_one_counts_once():
    x, y = vectors(21)
    x[-1] *= 100  # a large loss, which a mean of batch means would weight 20 times over
    model = mlp()
    expected = float(F.cross_entropy(model(x), y).detach())
    assert Objective(model, (x, y), micro_batch=20).value() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_models(dtype):
    model = mlp(dtype=dtype)
    objective = Objective(model, vectors(21), micro_batch=5)
    assert objective.dtype == dtype
    assert objective.gradient().dtype == dtype
    exact = loss_and_gradient(mlp(), vectors(21), "running")[0]
    assert objective.value() == pytest.approx(exact, rel=20 * torch.finfo(dtype).eps)


def test_values_are_the_same_each_time_and_under_no_grad():
    objective = make("residual", batch_norm="batch")
    first, gradient = objective.value(), objective.gradient()
    with torch.no_grad():
        assert objective.value() == first
        assert torch.equal(objective.gradient(), gradient)


# -- the point ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_another_point_is_the_model_with_those_parameters(mode):
    build, data = CASES["residual"]
    model = build()
    objective = Objective(model, data(21), batch_norm=mode, batch_size=8, micro_batch=5)
    before = objective.params.clone()
    value = objective.value()
    torch.manual_seed(0)
    moved = before + 0.2 * torch.randn_like(before)
    loss, _, gradient = loss_and_gradient(copied_from(model, moved), data(21), mode, batch_size=8)
    there = objective.at(moved)
    assert there.value() == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(there.gradient(), gradient, rtol=1e-9, atol=1e-12)
    assert torch.equal(objective.params, before)
    assert objective.value() == value
    assert objective.at(before).value() == pytest.approx(value, rel=1e-14)


def test_the_point_is_copied():
    objective = make("mlp")
    moved = objective.params + 1
    there = objective.at(moved)
    value = there.value()
    moved.zero_()
    assert there.value() == value
    assert float(there.params.abs().sum()) > 0


def test_points_come_in_any_float_dtype_and_with_a_graph():
    objective = make("mlp")
    value = objective.value()
    single = objective.at(objective.params.float())
    assert single.params.dtype == torch.float64
    assert single.value() == pytest.approx(value, rel=1e-5)
    assert not objective.at(objective.params.clone().requires_grad_()).params.requires_grad


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: p[None], lambda p: torch.cat([p, p])])
def test_points_of_another_shape_are_refused(change):
    objective = make("mlp")
    with pytest.raises(ValueError, match=rf"`params` must have shape \({objective.space.dim},\)"):
        objective.at(change(objective.params))


@pytest.mark.parametrize("mode", MODES)
def test_buffers_belong_to_the_point(mode):
    objective = make("cnn", batch_norm=mode)
    mean = torch.full((3,), 0.7, dtype=torch.float64)
    there = objective.at(objective.params, {"1.running_mean": mean})
    model, data = cnn(), images(21)
    model[1].running_mean.copy_(mean)
    loss, _, _ = loss_and_gradient(model, data, mode, batch_size=8)
    assert there.value() == pytest.approx(loss, rel=1e-12)
    changes = there.value() != pytest.approx(objective.value(), rel=1e-6)
    assert changes == (mode == "running"), "elsewhere batch norm computes its own"
    if mode == "batch":  # a state dictionary holds these, so that they are no error
        given = {k: v for k, v in cnn().state_dict().items() if k not in dict(cnn().named_parameters())}
        assert objective.at(objective.params, given).value() == pytest.approx(objective.value(), rel=1e-14)
    # Those that were not given stay.
    if mode == "running":
        assert torch.equal(there.buffers["4.running_var"], objective.buffers["4.running_var"])
    assert there.at(objective.params, dict(objective.buffers)).value() == pytest.approx(
        objective.value(), rel=1e-14
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["1.running_men", "nonsense", "1.num_batches", "0.weight"])
def test_unknown_buffers_are_refused(mode, name):
    objective = make("cnn", batch_norm=mode)
    with pytest.raises(ValueError, match=rf"`buffers` must name the model's floating buffers, got '{name}'"):
        objective.at(objective.params, {name: torch.zeros(3)})


def test_buffers_of_another_shape_are_refused():
    objective = make("cnn")
    with pytest.raises(ValueError, match=r"'1.running_mean' has \(3,\), got \(1,\)"):
        objective.at(objective.params, {"1.running_mean": torch.zeros(1)})


def test_floating_buffers_other_than_statistics_belong_to_every_mode():
    model = nn.Sequential(Counting(), nn.BatchNorm1d(3)).double()
    for mode in MODES:
        objective = Objective(model, vectors(21), batch_norm=mode)
        assert {"0.total", "0.rebound"} <= set(objective.buffers)
        assert not any("num_batches" in k or "calls" in k for k in objective.buffers)


# -- other data, spaces, dtypes ----------------------------------------------------------------------


def test_a_subset_is_unbiased_and_keeps_the_order():
    objective = make("cnn")
    losses = objective.evaluate_points([(objective.params, None)]).example_losses[0]
    means = torch.tensor([objective.subset(6, seed=s).value() for s in range(400)], dtype=torch.float64)
    standard_error = means.std() / 400**0.5
    assert abs(float(means.mean() - losses.mean()) / float(standard_error)) < 3
    # Sampling without replacement: variance s^2 / n (1 - n / N).
    expected = float(losses.var()) / 6 * (1 - 6 / 21)
    assert float(means.var()) == pytest.approx(expected, rel=0.3)
    x = objective.subset(6, seed=1)._examples.batch[0]
    places = [next(i for i in range(21) if torch.equal(x[j], images(21)[0][i])) for j in range(6)]
    assert places == sorted(set(places))


def test_a_subset_in_batch_mode_takes_whole_batches_and_is_unbiased():
    objective = make("cnn", batch_norm="batch")  # batches of 8, 8 and 5
    x, y = images(21)
    batches = [loss_and_gradient(cnn(), (x[i : i + 8], y[i : i + 8]), "batch")[0] for i in (0, 8, 16)]
    sizes = [8, 8, 5]

    def mean(*which):
        return sum(batches[i] * sizes[i] for i in which) / sum(sizes[i] for i in which)

    for n, possible in [(8, [(0,), (1,), (2,)]), (14, [(0, 1), (0, 2), (1, 2)])]:
        values = [objective.subset(n, seed=s) for s in range(200)]
        found = torch.tensor([o.value() for o in values], dtype=torch.float64)
        allowed = torch.tensor([mean(*w) for w in possible], dtype=torch.float64)
        assert float((found[:, None] - allowed).abs().min(1).values.max()) < 1e-12
        assert {o.num_examples for o in values} == {sum(sizes[i] for i in w) for w in possible}
        z = (found.mean() - objective.value()) / (found.std() / 200**0.5)
        assert abs(float(z)) < 3
    assert objective.subset(21).value() == pytest.approx(objective.value(), rel=1e-14)
    assert objective.subset(1).num_examples in (5, 8)


@pytest.mark.parametrize("mode", MODES)
def test_a_subset_of_all_is_the_objective(mode):
    objective = make("cnn", batch_norm=mode)
    assert objective.subset(21, seed=5).value() == pytest.approx(objective.value(), rel=1e-14)
    assert objective.subset(np.int64(7), seed=5).num_examples in (5, 7, 8)


def test_subsets_follow_the_seed_alone(unchanged):
    objective = make("mlp")
    with unchanged():
        values = [objective.subset(7, seed=s).value() for s in (3, 3, 4)]
    assert values[0] == values[1] != values[2]
    assert objective.subset(7).value() == objective.subset(7, seed=0).value()


@pytest.mark.parametrize(
    ("n", "message"), [(22, "at most the 21 examples"), (0, "at least 1"), (2.0, "whole number")]
)
@pytest.mark.parametrize("mode", ["running", "batch"])
def test_bad_subset_sizes_are_refused(n, message, mode):
    with pytest.raises(ValueError, match=rf"`n` must be .*{message}"):
        make("cnn", batch_norm=mode).subset(n)


@pytest.mark.parametrize("mode", MODES)
def test_restricting_keeps_the_function_and_cuts_the_gradient(mode):
    objective = make("residual", batch_norm=mode)
    for pattern in ("head", "norm1.*", ["conv1", "head.bias"]):
        part = objective.restrict(pattern)
        assert part.value() == pytest.approx(objective.value(), rel=1e-14)
        full = objective.space.unflatten(objective.gradient())
        expected = torch.cat([full[n].flatten() for n in part.space.names])
        assert torch.allclose(part.gradient(), expected, rtol=1e-12, atol=1e-14)
    part = objective.restrict("head")
    moved = dict(objective.named_params)
    moved["head.weight"] = moved["head.weight"] + 0.5
    whole = objective.at(objective.space.flatten(moved)).value()
    assert part.at(part.space.flatten(moved)).value() == pytest.approx(whole, rel=1e-14)


def test_restricting_happens_at_the_point_and_can_be_repeated():
    objective = make("mlp")
    there = objective.at(objective.params * 2).restrict("0")
    assert there.value() == objective.at(objective.params * 2).value()
    assert there.restrict("0.bias").space.names == ("0.bias",)
    assert there.restrict("0.bias").value() == there.value()
    with pytest.raises(ValueError, match=r"`params` must match trainable parameters, but '2' matches none"):
        there.restrict("2")


def test_restricting_keeps_the_l2_term():
    objective = make("mlp", weight_decay=0.1)
    for there in (objective.restrict("*.weight").restrict("0"), objective.restrict("0")):
        assert there.value() == pytest.approx(objective.value(), rel=1e-14)
        entries = torch.cat(
            [torch.arange(s.start, s.stop) for s in objective.space if s.name in there.named_params]
        )
        torch.testing.assert_close(there.gradient(), objective.gradient()[entries])
        further = there.at(2 * there.params)
        moved = objective.params.clone()
        moved[entries] *= 2
        assert further.value() == pytest.approx(objective.at(moved).value(), rel=1e-14)
    # The gradient of the term is that of the chosen parameters, whatever the others weigh.
    undecayed = make("mlp").restrict("0")
    torch.testing.assert_close(there.gradient() - undecayed.gradient(), 0.1 * there.params)
    # Frozen from the start is another function: what the optimizer never decays. It says so.
    model = mlp()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("0."))
    frozen = Objective(model, vectors(), weight_decay=0.1)
    assert torch.equal(frozen.params, there.params)
    assert frozen.value() < there.value() - 0.01
    torch.testing.assert_close(frozen.gradient(), there.gradient())
    assert there.describe()["l2_term"] == "of the parameters held constant, too"
    assert "l2_term" not in frozen.describe()
    assert "l2_term" not in undecayed.describe()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["cnn", "residual", "attention"])
def test_another_dtype_is_the_same_function(case, mode):
    objective = make(case, batch_norm=mode)
    single = objective.to_dtype(torch.float32)
    assert single.params.dtype == single.gradient().dtype == torch.float32
    assert single.dtype == torch.float32
    assert all(b.dtype == torch.float32 for b in single.buffers.values())
    assert single.value() == pytest.approx(objective.value(), rel=1e-5)
    back = single.to_dtype(torch.float64)
    assert back.gradient().dtype == torch.float64
    assert torch.allclose(back.gradient(), objective.gradient(), rtol=1e-3, atol=1e-5)
    assert objective.dtype == torch.float64
    # From single precision the values of the parameters are kept, and the arithmetic is exact.
    model = CASES[case][0]().float()
    x, y = CASES[case][1](21)
    upcast = Objective(model, (x, y), batch_norm=mode, batch_size=8, micro_batch=5).to_dtype(torch.float64)
    loss, _, _ = loss_and_gradient(copy.deepcopy(model).double(), (x, y), mode, batch_size=8)
    assert upcast.value() == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_only_floating_dtypes(dtype):
    with pytest.raises(ValueError, match="`dtype` must be a floating one"):
        make("mlp").to_dtype(dtype)


def test_variants_combine():
    objective = make("cnn", batch_norm="recalibrated")
    a = objective.at(objective.params * 1.1).subset(9, seed=2).to_dtype(torch.float32).restrict("7")
    b = objective.to_dtype(torch.float32).restrict("7").subset(9, seed=2)
    b = b.at(a.params)
    assert a.space == b.space
    assert a.num_examples == b.num_examples == 9
    assert a.value() != pytest.approx(b.value(), rel=1e-7), "the other layers are those of another point"
    assert objective.subset(9, seed=2).subset(4, seed=0).num_examples == 4


# -- tied, dictionary, frozen ------------------------------------------------------------------------


def test_tied_parameters_move_together():
    model, data = tied(), tied_data()
    objective = Objective(model, data, micro_batch=5)
    assert objective.space == ParamSpace.of(model)
    moved = objective.params * 1.3
    assert objective.at(moved).value() == pytest.approx(
        loss_and_gradient(copied_from(model, moved), data, "running")[0], rel=1e-13
    )


def test_frozen_parameters_are_constants():
    objective = make("cnn")
    assert not any(n.startswith("0.") for n in objective.space.names)
    assert set(objective.named_params) == set(objective.space.names)


def test_dictionary_models():
    ids, y = tokens(21)
    mask = (torch.rand(21, 4) > 0.3).long()
    model = dictionary_input()
    expected = float(F.cross_entropy(model(ids, mask).logits, y).detach())
    data = {"input_ids": ids, "attention_mask": mask, "labels": y}
    objective = Objective(model, data, micro_batch=5)
    assert objective.value() == pytest.approx(expected, rel=1e-13)
    assert objective.evaluate().accuracy is not None
    own = Objective(
        model,
        data,
        loss=lambda model, batch: F.cross_entropy(
            model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"], reduction="none"
        ),
        micro_batch=5,
    )
    assert own.value() == pytest.approx(expected, rel=1e-13)
    assert torch.allclose(own.gradient(), objective.gradient(), rtol=1e-12)
    assert own.evaluate().accuracy is None
    assert own.subset(6, seed=0).value() == pytest.approx(objective.subset(6, seed=0).value(), rel=1e-13)


# -- frozen and described ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["params", "batch_norm", "batch_size", "anything"])
def test_an_objective_is_frozen(name):
    objective = make("mlp")
    for variant in (objective, objective.at(objective.params), objective.subset(3)):
        with pytest.raises(AttributeError, match=rf"an Objective is frozen, so `{name}` cannot be set"):
            setattr(variant, name, None)


def test_later_changes_of_the_model_do_not_reach_the_objective():
    model, data = cnn(), images(21)
    objective = Objective(model, data)
    value = objective.value()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    model.train()
    assert objective.value() == value
    assert Objective(model, data).value() != value


def test_copies_and_pickles_measure_the_same():
    objective = make("cnn", batch_norm="recalibrated")
    for other in (copy.copy(objective), copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert other.value() == objective.value()


def test_repr_says_what_it_is():
    assert repr(make("mlp")) == "Objective(Sequential, P = 57, N = 21, cross_entropy, batch norm absent)"
    assert "batch norm recalibrated" in repr(make("cnn", batch_norm="recalibrated"))


def test_a_gradient_that_is_not_finite_is_never_silent():
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    x, y = torch.ones(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    objective = Objective(model, (x, y), loss=lambda outputs, targets: (outputs[:, 0] - targets).abs().sqrt())
    assert objective.value() == 0
    with pytest.raises(NonFiniteLossError, match="the gradient is not finite although the loss is"):
        objective.gradient()
