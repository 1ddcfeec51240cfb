"""The private copy: nothing that a forward pass writes or draws outlives the call."""

import pytest
import torch
import torch.nn.functional as F
from tests.networks import (
    Counting,
    DrawsAndDiscards,
    Noisy,
    cnn,
    images,
    mlp,
    residual,
    shuffle_statistics,
    vectors,
)
from torch import nn
from torch.nn.utils import parametrizations

from thalweg.core.errors import NondeterminismError
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")


def everything(objective):
    """Call each entry point once."""
    objective.value()
    objective.gradient()
    objective.reduce(lambda micro: micro.loss_sum())
    objective.at(objective.params * 1.1).value()
    objective.evaluate_points([(objective.params, None), (objective.params * 0.9, None)])
    objective.subset(8, seed=0).gradient()
    objective.to_dtype(torch.float32).value()
    objective.frozen().value()
    objective.describe()


def used(model, data):
    """A model as it is in the middle of training: gradients set, hooks on, train and eval mixed."""
    model.train()
    list(model.modules())[-1].eval()
    model(data[0]).square().sum().backward()
    calls = []
    model.register_forward_hook(lambda *_: calls.append("user"))
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [cnn, residual])
def test_nothing_of_the_users_is_touched(build, mode, unchanged):
    data = images(21)
    model = used(build(), data)
    with unchanged(model, *data):
        everything(Objective(model, data, batch_norm=mode, batch_size=8, micro_batch=5, weight_decay=0.1))


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_counts_its_calls_is_left_alone(mode, unchanged):
    model = nn.Sequential(Counting(), nn.BatchNorm1d(3)).double()
    data = vectors(21)
    expected = model[0].linear(data[0])
    with unchanged(model, *data):
        objective = Objective(model, data, batch_norm=mode, batch_size=8, micro_batch=5)
        before = {k: b.clone() for k, b in objective.buffers.items()}
        everything(objective)
        # Counters of the objective's own point and of its private copy stay where they were, too.
        for name, buffer in objective.buffers.items():
            assert torch.equal(buffer, before[name])
        for name, buffer in objective._network.model.named_buffers():
            assert torch.equal(buffer, dict(model.named_buffers())[name])
    if mode == "running":
        loss = F.cross_entropy(model[1].eval()(expected), data[1])
        assert objective.value() == pytest.approx(float(loss.detach()), rel=1e-12)


class WritesLater(nn.Module):
    """Writes to a buffer only for data unlike the first batch, which a single trial run does not see."""

    seen: torch.Tensor

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if x[0, 0] > 10:
            self.seen += 1
        return self.linear(x) + self.seen


def test_a_buffer_written_on_some_batches_only_is_restored():
    (x, y), model = vectors(20), WritesLater().double()
    x[10:, 0] = 11
    objective = Objective(model, (x, y), micro_batch=5)
    first = objective.value()
    assert objective.value() == first
    assert float(objective.buffers["seen"]) == 0
    outputs = model.linear(x) + (x[:, :1] > 10)
    assert first == pytest.approx(float(F.cross_entropy(outputs, y).detach()), rel=1e-13)


class WritesItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        return self.linear(x.relu_())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_that_writes_to_its_input_leaves_the_data_alone(dtype, unchanged):
    model, (x, y) = WritesItsInput().double(), vectors(21)
    data = (x.to(dtype), y)
    expected = F.cross_entropy(model.linear(data[0].double().relu()), y)
    with unchanged(model, *data):
        objective = Objective(model, data, micro_batch=5)
        everything(objective)
    assert objective.value() == pytest.approx(float(expected.detach()), rel=1e-12)


class ClampsItsWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.clamp_(-0.1, 0.1)
        return self.linear(x)


def test_a_model_that_writes_to_its_parameters_is_refused(unchanged):
    model, data = ClampsItsWeights().double(), vectors(21)
    with (
        unchanged(model, *data),
        pytest.raises(ValueError, match=r"must not write to its parameters .* changed 'linear.weight'"),
    ):
        Objective(model, data)


@pytest.mark.parametrize("build", [Noisy, lambda: nn.Sequential(Noisy(), nn.Linear(3, 3))])
def test_a_model_that_draws_random_numbers_is_refused(build, unchanged):
    model, data = build().double(), vectors(21)
    with (
        unchanged(model, *data),
        pytest.raises(NondeterminismError, match=r"two answers to the same examples \(largest difference \d"),
    ):
        Objective(model, data)


class KeepsState(nn.Module):
    """Its output depends on how often it was called: a plain attribute, which no copy of buffers undoes."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(5, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) + self.calls * torch.arange(3)


def test_a_model_that_keeps_state_is_refused():
    model = KeepsState().double()
    with pytest.raises(NondeterminismError, match="draws random numbers or keeps state"):
        Objective(model, vectors(21))
    assert model.calls == 0


def test_a_loss_that_draws_random_numbers_is_refused():
    with pytest.raises(NondeterminismError, match="two answers"):
        Objective(mlp(), vectors(21), loss=lambda outputs, targets: outputs[:, 0] + torch.rand(len(outputs)))


def test_numbers_that_change_nothing_are_no_nondeterminism(unchanged):
    model, data = DrawsAndDiscards().double(), vectors(21)
    with unchanged(model, *data):
        everything(Objective(model, data, micro_batch=5))


def test_hooks_that_change_the_output_are_part_of_the_function():
    model, (x, y) = mlp(), vectors(21)
    model[0].register_forward_hook(lambda _m, _i, output: output * 2)
    model[2].register_forward_pre_hook(lambda _m, inputs: (inputs[0] + 1,))
    expected = F.cross_entropy(model(x), y)
    assert Objective(model, (x, y), micro_batch=5).value() == pytest.approx(
        float(expected.detach()), rel=1e-13
    )


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights(wrap, unchanged):
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(wrap(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)).double(), vectors(21)
    expected = float(F.cross_entropy(model.eval()(x), y).detach())
    model.train()
    with unchanged(model, x, y):
        objective = Objective(model, (x, y), micro_batch=5)
        everything(objective)
    assert objective.value() == pytest.approx(expected, rel=1e-12)
    h, v = 1e-6, torch.ones_like(objective.params)
    slope = (
        objective.at(objective.params + h * v).value() - objective.at(objective.params - h * v).value()
    ) / (2 * h)
    assert slope == pytest.approx(float(objective.gradient().sum()), rel=1e-6)


def test_instance_norm_with_statistics_keeps_them(unchanged):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True), nn.Flatten(), nn.Linear(48, 3)
    )
    shuffle_statistics(model).double().train()
    with unchanged(model):
        everything(Objective(model, images(21), micro_batch=5))


def test_gradients_of_the_users_model_do_not_reach_the_copy():
    model, data = mlp(), vectors(21)
    F.cross_entropy(model(data[0]), data[1]).backward()
    objective = Objective(model, data)
    assert all(p.grad is None for p in objective._network.model.parameters())
    assert not objective.gradient().requires_grad
    assert not objective.evaluate_points([(objective.params, None)]).example_losses.requires_grad


class Even(nn.Linear):
    def forward(self, x):
        return super().forward(x).view(7, -1, 3).flatten(0, 1)


def test_a_model_that_refuses_the_short_last_batch_is_one_clear_error():
    model = Even(5, 3).double()
    Objective(model, vectors(21), micro_batch=7)
    with pytest.raises(ValueError, match=r"`data` must fit `model` .* on the last 6 examples Even and"):
        Objective(model, vectors(20), micro_batch=7)


class Fails(nn.Linear):
    def __init__(self, error):
        super().__init__(5, 3)
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), TypeError("no"), ZeroDivisionError("no"), StopIteration("no")]
)
def test_what_the_model_raises_on_the_data_is_one_clear_error(error):
    with pytest.raises(
        ValueError,
        match="`data` must fit `model` and `loss`, but on the first 21 examples Fails and cross_entropy gave "
        f"{type(error).__name__}: no",
    ):
        Objective(Fails(error).double(), vectors(21))
