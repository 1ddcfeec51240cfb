"""The single reduction over the data."""

import weakref
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from tests.networks import DrawsAndDiscards, cnn, images, mlp, tokens, vectors

from thalweg.objective.compilation import first_micro_batch
from thalweg.objective.micro_batch import (
    MOST_EXAMPLES,
    PASS_BYTES,
    accelerator_micro_batch,
    resolve_micro_batch,
)
from thalweg.objective.objective import Objective
from thalweg.objective.reduction import Rows


def make(n=21, micro_batch=5, **kwargs):
    return Objective(mlp(), vectors(n), micro_batch=micro_batch, **kwargs)


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 20, 21, 22])
def test_sums_weight_uneven_last_batches_by_their_examples(micro_batch):
    x, _ = vectors(21)
    total = make(micro_batch=micro_batch).reduce(lambda micro: micro.batch[0].sum(0))
    assert torch.allclose(total, x.sum(0), rtol=1e-13)
    sizes = make(micro_batch=micro_batch).reduce(lambda micro: torch.tensor([micro.size, 1]))
    assert sizes.tolist() == [21, -(-21 // micro_batch)]


def test_slices_come_in_order_and_cover_the_data_once():
    seen, kept = [], []

    def note(micro):
        seen.append((micro.start, micro.stop, micro.size))
        kept.append(micro.batch)
        return torch.zeros(())

    objective = make()
    objective.reduce(note)
    assert seen == [(0, 5, 5), (5, 10, 5), (10, 15, 5), (15, 20, 5), (20, 21, 1)]
    x, y = vectors(21)
    assert torch.equal(torch.cat([b[0] for b in kept]), x)
    assert torch.equal(torch.cat([b[1] for b in kept]), y)


Pair = namedtuple("Pair", ["a", "b"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b: a,
        lambda a, b: (a, b),
        lambda a, b: [a, (b, a)],
        lambda a, b: {"z": a, "a": {"inner": b}},
        lambda a, b: Pair(a, b),
        lambda a, b: OrderedDict(z=a, a=b),
    ],
)
def test_the_structure_comes_back(wrap):
    x, _ = vectors(21)
    result = make().reduce(lambda micro: wrap(micro.losses().sum(), micro.batch[0].square().sum(0)))
    expected = wrap(make().reduce(lambda m: m.loss_sum()), x.square().sum(0))
    assert type(result) is type(expected)

    def flat(x):
        if isinstance(x, torch.Tensor):
            return [x]
        return [leaf for part in (x.values() if isinstance(x, dict) else x) for leaf in flat(part)]

    for ours, theirs in zip(flat(result), flat(expected), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-13)
    if isinstance(expected, dict):
        assert list(result) == list(expected)


def test_what_the_function_returns_is_not_written_to():
    first = torch.zeros(3)
    make().reduce(lambda micro: first)
    assert not first.any()


def test_dtypes_are_kept():
    result = make().reduce(lambda m: (torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.float32)))
    assert [t.dtype for t in result] == [torch.int64, torch.float32]
    assert result[0].tolist() == [5, 5]


def test_structures_that_change_from_batch_to_batch_are_no_sum():
    with pytest.raises(ValueError, match="`fn` must return the same structure"):
        make().reduce(lambda m: (m.loss_sum(),) if m.start == 0 else (m.loss_sum(), m.loss_sum()))


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 21])
def test_rows_come_in_the_order_of_the_data(micro_batch):
    x, y = vectors(21)
    objective = make(micro_batch=micro_batch)
    rows = objective.reduce(lambda m: (Rows(m.batch[0]), Rows(m.batch[1]), m.batch[0].sum(0)))
    assert torch.equal(rows[0], x)
    assert torch.equal(rows[1], y)
    assert rows[1].dtype == y.dtype
    assert torch.allclose(rows[2], x.sum(0), rtol=1e-13)


def test_rows_of_a_micro_batch_are_not_held_until_the_end():
    # Between large tensors that come and go, small ones that stay keep their memory from being used again.
    alive = []

    def rows(micro):
        alive.append(weakref.ref(made := micro.batch[0] * 2))
        held = sum(ref() is not None for ref in alive)
        assert held <= 2, f"{held} micro-batches' rows are alive"
        return Rows(made)

    assert len(make(n=40, micro_batch=2).reduce(rows)) == 40
    assert len(alive) == 20


def test_rows_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"rows of one shape for every micro-batch, got \(1,\) after \(3,\)"):
        make().reduce(lambda m: Rows(torch.ones(m.size, 3 if m.start == 0 else 1)))


@pytest.mark.parametrize("value", [1.0, None, "x", (torch.zeros(()), 3)])
def test_what_is_no_tensor_is_refused(value):
    with pytest.raises(
        TypeError, match="`fn` must return a tensor, or a tuple, list or dictionary of tensors"
    ):
        make().reduce(lambda m: value)


def test_losses_are_per_example_and_follow_the_parameters():
    objective = make()
    example_losses = objective.evaluate_points([(objective.params, None)]).example_losses[0]
    kept = []
    objective.reduce(lambda m: kept.append(m.losses()) or m.loss_sum())
    assert torch.equal(torch.cat(kept), example_losses)
    other = objective.at(objective.params * 2)
    total = objective.reduce(lambda m: m.loss_sum(other.named_params))
    assert float(total) / 21 == pytest.approx(other.value(), rel=1e-13)


def test_losses_are_those_of_the_outputs():
    pieces = []

    def note(micro):
        assert torch.equal(micro.losses_of(micro.outputs()), micro.losses())
        params = {k: 2 * v for k, v in micro.objective.named_params.items()}
        assert torch.equal(micro.losses_of(micro.outputs(params)), micro.losses(params))
        pieces.append(micro.outputs())
        return torch.zeros(())

    make().reduce(note)
    assert [tuple(p.shape) for p in pieces] == [(5, 3)] * 4 + [(1, 3)]
    of_model = make(loss=lambda model, batch: model(batch[0]).square().sum(1))
    of_model.reduce(lambda micro: torch.tensor(micro.outputs() is None).float())
    assert of_model.loss.takes_model
    assert not make().loss.takes_model


def test_losses_can_be_differentiated_twice():
    objective = make()
    v = objective.space.unflatten(torch.ones_like(objective.params))

    def product(micro):
        gradient = torch.func.grad(micro.loss_sum)
        return objective.space.flatten(torch.func.jvp(gradient, (objective.named_params,), (v,))[1])

    Hv = objective.reduce(product) / 21
    h = 1e-5
    ones = torch.ones_like(objective.params)
    slope = (
        objective.at(objective.params + h * ones).gradient()
        - objective.at(objective.params - h * ones).gradient()
    ) / (2 * h)
    assert torch.allclose(Hv, slope, rtol=1e-6, atol=1e-9)


def test_a_function_may_map_over_directions():
    objective = Objective(cnn(), images(21), batch_norm="recalibrated", micro_batch=5)
    V = torch.randn(objective.space.dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def slopes(micro):
        def along(v):
            tangent = (objective.space.unflatten(v),)
            return torch.func.jvp(micro.loss_sum, (objective.named_params,), tangent)[1]

        return torch.func.vmap(along, in_dims=1)(V)

    assert torch.allclose(objective.reduce(slopes) / 21, V.T @ objective.gradient(), rtol=1e-10)


def test_models_that_draw_numbers_leave_the_global_generators_alone(unchanged):
    model, data = DrawsAndDiscards().double(), vectors(21)
    with unchanged(model, *data):
        objective = Objective(model, data, micro_batch=5)
        objective.value()
        objective.gradient()
        objective.reduce(lambda m: m.loss_sum())


def test_integer_inputs_stay_integers():
    ids, _ = tokens(21)
    objective = Objective(
        mlp(width=4),
        (ids, tokens(21)[1]),
        loss=lambda model, batch: model(batch[0].double()).square().sum(1),
    )
    kinds = []
    objective.reduce(lambda m: kinds.append(m.batch[0].dtype) or m.loss_sum())
    assert set(kinds) == {torch.int64}


@pytest.mark.parametrize(
    ("asked", "partition", "expected"),
    [("auto", None, 128), ("auto", 32, 32), (7, None, 7), (7, 32, 32), (np.int64(7), None, 7)],
)
def test_the_rule_for_micro_batches(asked, partition, expected):
    resolved = resolve_micro_batch(asked, partition)
    assert resolved == expected
    assert type(resolved) is int


@pytest.mark.parametrize("size", [1.0, 3e5, 7e6, PASS_BYTES / 3, PASS_BYTES, 1.5 * PASS_BYTES, 1e15])
def test_an_accelerators_pass_writes_no_more_than_it_may(size):
    number = accelerator_micro_batch(size)
    assert number & (number - 1) == 0
    assert number == 1 or number * size <= PASS_BYTES
    assert number == MOST_EXAMPLES or 2 * number * size > PASS_BYTES


def test_what_a_pass_writes_is_counted():
    """What two dense layers put out, 8 bytes a number: views, and what is changed in place, take no more."""
    model = torch.nn.Sequential(
        torch.nn.Unflatten(1, (5, 1)),
        torch.nn.Flatten(),
        torch.nn.Linear(5, 40, bias=False),
        torch.nn.ReLU(inplace=True),
        torch.nn.Linear(40, 3, bias=False),
    ).double()
    objective = Objective(model, vectors(21), loss=lambda outputs, targets: outputs[:, 0])
    micro = first_micro_batch(objective)
    assert objective._network.bytes_of_example(micro, objective.named_tensors) == 8 * (40 + 3)


@pytest.mark.parametrize("value", [0, -3, 2.5, "big", None, True])
@pytest.mark.parametrize("mode", ["running", "batch"])
def test_bad_micro_batches_are_refused_in_every_mode(value, mode):
    with pytest.raises(ValueError, match="`micro_batch` must be a whole number of at least 1"):
        Objective(cnn(), images(21), batch_norm=mode, batch_size=8, micro_batch=value)
