"""Many points at once: the same numbers as one by one, and every failure named."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from tests.networks import cnn, images, mlp, residual, vectors
from tests.objective.by_hand import loss_and_gradient
from torch import nn

from thalweg.core.errors import NonFiniteLossError
from thalweg.objective import evaluation
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")


def make(mode="running", build=cnn, **kwargs):
    return Objective(build(), images(21), batch_norm=mode, **{"batch_size": 8, "micro_batch": 5, **kwargs})


def line(objective, num_points=5):
    rng = torch.Generator().manual_seed(0)
    direction = torch.randn(objective.space.dim, generator=rng, dtype=torch.float64)
    return [objective.params + a * direction for a in torch.linspace(-0.3, 0.3, num_points).tolist()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [cnn, residual])
@pytest.mark.parametrize("group", [None, 1, 2])
def test_points_together_equal_points_one_by_one(mode, build, group, monkeypatch):
    objective = make(mode, build)
    if group:
        size = objective.space.dim * objective.params.element_size()
        monkeypatch.setattr(evaluation, "POINT_GROUP_BYTES", group * size)
    points = line(objective)
    done = []
    # A generator: points may be made as they are needed.
    result = objective.evaluate_points(((p, None) for p in points), on_point=done.append)
    for i, point in enumerate(points):
        one = objective.at(point).evaluate()
        assert float(result.losses[i]) == pytest.approx(one.loss, rel=1e-14)
        assert float(result.accuracies[i]) == pytest.approx(one.accuracy, abs=1e-14)
        assert float(result.losses[i]) == pytest.approx(float(result.example_losses[i].mean()), rel=1e-14)
    assert result.example_losses.shape == (5, 21)
    assert result.losses.dtype == result.accuracies.dtype == torch.float64
    assert done == sorted(done)
    assert set(done) >= {None: {5}, 1: {1, 2, 3, 4, 5}, 2: {2, 4, 5}}[group]


@pytest.mark.parametrize("mode", MODES)
def test_each_point_brings_its_own_buffers(mode):
    objective = make(mode)
    stale = {k: b + 0.5 for k, b in objective.buffers.items()}
    points = [(objective.params, None), (objective.params, stale), (objective.params, objective.buffers)]
    losses = objective.evaluate_points(points).losses.tolist()
    assert losses[0] == pytest.approx(objective.value(), rel=1e-14)
    assert losses[2] == pytest.approx(losses[0], rel=1e-14)
    assert (losses[1] == pytest.approx(losses[0], rel=1e-6)) == (mode != "running")


def test_points_do_not_disturb_the_objective(unchanged):
    objective = make("recalibrated")
    before = (objective.params.clone(), {k: b.clone() for k, b in objective.buffers.items()})
    value = objective.value()
    with unchanged(objective.params, objective.buffers):
        objective.evaluate_points([(p, None) for p in line(objective)])
    assert torch.equal(objective.params, before[0])
    assert objective.value() == value


def test_example_losses_come_in_the_order_of_the_data():
    x, y = images(21)
    losses = make(micro_batch=4).evaluate_points([(make().params, None)]).example_losses[0]
    expected = F.cross_entropy(cnn().eval()(x), y, reduction="none").detach()
    assert torch.allclose(losses, expected, rtol=1e-12)


def test_the_l2_term_is_left_out():
    objective = make(weight_decay=3.0)
    assert float(objective.evaluate_points([(objective.params, None)]).losses) == make().value()


def test_accuracy_is_nan_without_classes():
    x, y = vectors(21)
    objective = Objective(mlp(), (x, F.one_hot(y, 3).double()), loss="mse")
    result = objective.evaluate_points([(objective.params, None)])
    assert math.isnan(float(result.accuracies[0]))
    assert objective.evaluate().accuracy is None


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="`points` must hold at least one point"):
        make().evaluate_points([])


def broken(where):
    x, y = vectors(21)
    x[where] = math.nan
    return Objective(mlp(), (x, y), micro_batch=5)


@pytest.mark.parametrize(
    ("where", "example", "batch"), [(7, 7, "5 to 9"), (20, 20, "20 to 20"), ([13, 4], 4, "0 to 4")]
)
def test_a_loss_that_is_not_finite_names_example_and_batch(where, example, batch):
    objective = broken(where)
    message = rf"example {example}, in the batch of examples {batch}, has loss nan"
    with pytest.raises(NonFiniteLossError, match=message):
        objective.value()
    with pytest.raises(NonFiniteLossError, match=message):
        objective.gradient()


def test_infinite_losses_are_caught_too():
    objective = Objective(
        mlp(), vectors(21), loss=lambda outputs, targets: outputs[:, 0] / (targets - targets)
    )
    with pytest.raises(NonFiniteLossError, match=r"has loss -?inf"):
        objective.value()


def test_non_finite_losses_can_be_kept():
    objective = broken(7)
    result = objective.evaluate_points([(objective.params, None)], allow_non_finite=True)
    assert math.isnan(float(result.losses[0]))
    assert result.example_losses[0].isnan().nonzero().tolist() == [[7]]
    far = objective.subset(3, seed=1)
    assert math.isfinite(far.value())


def test_a_point_that_overflows_is_reported():
    objective = Objective(mlp(dtype=torch.float32), vectors(21), micro_batch=5)
    with pytest.raises(NonFiniteLossError, match="example 0, in the batch of examples 0 to 4"):
        objective.at(torch.full_like(objective.params, 3e38)).value()


class Interrupting(nn.Module):
    """Raises as Ctrl-C does, in its second pass after being armed."""

    armed = 0

    def forward(self, outputs, targets):
        if self.armed:
            Interrupting.armed += 1
            if self.armed > 2:
                raise KeyboardInterrupt("stop")
        return F.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_leaves_everything_as_it_was(mode, unchanged):
    model, data = cnn(), images(21)
    model.train()
    (model[7].weight * 1).sum().backward()
    Interrupting.armed = 0
    objective = Objective(model, data, loss=Interrupting(), batch_norm=mode, batch_size=8, micro_batch=5)
    value, gradient = objective.value(), objective.gradient()
    moved = objective.params * 1.1
    with unchanged(model, *data, objective.params, objective.buffers):
        for call in (objective.value, objective.gradient, objective.at(moved).value):
            Interrupting.armed = 1
            with pytest.raises(KeyboardInterrupt, match="stop"):
                call()
    Interrupting.armed = 0
    assert objective.value() == value
    assert torch.equal(objective.gradient(), gradient)


def test_an_interrupt_during_recalibration_leaves_no_hook(unchanged):
    model, data = residual(), images(21)
    objective = Objective(model, data, batch_norm="recalibrated", micro_batch=5)
    private = objective._network.model
    calls = []

    def interrupt(_module, _inputs):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt("stop")

    handle = private.conv2.register_forward_pre_hook(interrupt)
    with unchanged(model, private):
        with pytest.raises(KeyboardInterrupt, match="stop"):
            objective.value()
        assert "effective_buffers" not in objective.__dict__, "half of it must not be kept"
    handle.remove()
    assert objective.value() == pytest.approx(loss_and_gradient(model, data, "recalibrated")[0], rel=1e-12)


def test_a_parameter_that_is_not_finite_is_named():
    model, (x, y) = mlp(), vectors(21)
    with torch.no_grad():
        model[-1].bias[0] = float("nan")
    name = list(dict(model.named_parameters()))[-1]
    with pytest.raises(
        NonFiniteLossError, match=rf"example 0, .* In the network {re.escape(name)} is not finite"
    ):
        Objective(model, (x, y)).value()
    x[3] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"example 3, .* has loss nan\.$"):
        Objective(mlp(), (x, y)).value()
