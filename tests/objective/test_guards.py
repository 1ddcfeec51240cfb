"""What an objective refuses, each refusal with its remedy; and that a refusal touches nothing."""

import numpy as np
import pytest
import torch
from tests.networks import cnn, images, mlp, vectors, with_dropout
from torch import nn

from thalweg.objective.guards import unwrapped
from thalweg.objective.objective import Objective


def refused(error, match, unchanged, model, data, **kwargs):
    watched = [model] if isinstance(model, nn.Module) else []
    with unchanged(*watched, data), pytest.raises(error, match=match):
        Objective(model, data, **kwargs)


@pytest.mark.parametrize("model", [None, "resnet18", lambda x: x, nn.Linear])
def test_a_model_must_be_a_module(model, unchanged):
    refused(TypeError, "`model` must be a torch.nn.Module, got", unchanged, model, vectors())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 4, num_layers=2, dropout=0.3, batch_first=True)

    def forward(self, x):
        return self.lstm(x[:, None])[0][:, 0]


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(5, 1, dropout=0.2, batch_first=True)

    def forward(self, x):
        return self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]


@pytest.mark.parametrize(
    ("layer", "rate"),
    [
        (nn.Dropout(0.5), 0.5),
        (nn.Dropout1d(0.1), 0.1),
        (nn.AlphaDropout(0.2), 0.2),
        (nn.FeatureAlphaDropout(1.0), 1.0),
    ],
)
def test_dropout_that_is_on_is_refused(layer, rate, unchanged):
    model = nn.Sequential(nn.Linear(5, 4), layer, nn.Linear(4, 3)).double()
    message = rf"dropout that is on, but layer '1' drops with p = {rate}: .* Call model.eval\(\) first"
    refused(ValueError, message, unchanged, model, vectors())
    model.eval()
    assert Objective(model, vectors()).value() == Objective(model, vectors()).value()


@pytest.mark.parametrize(("build", "name"), [(Recurrent, "lstm"), (Attending, "attention")])
def test_dropout_inside_other_layers_is_refused(build, name, unchanged):
    refused(ValueError, f"layer '{name}' drops with p = 0", unchanged, build().double(), vectors())
    Objective(build().double().eval(), vectors()).value()


def test_dropout_that_is_off_in_a_training_model_is_fine():
    model = with_dropout().train()
    model[1].eval()
    assert Objective(model, vectors()).value() == Objective(with_dropout().eval(), vectors()).value()
    model = nn.Sequential(nn.Dropout(0.0), mlp()).train()
    Objective(model, vectors())


@pytest.mark.parametrize("mode", ["eval", "Running", None, 1])
def test_unknown_batch_norm_modes_are_refused(mode, unchanged):
    message = "`batch_norm` must be one of running, recalibrated, batch, got"
    refused(ValueError, message, unchanged, cnn(), images(), batch_norm=mode)


@pytest.mark.parametrize("size", [0, -1, 2.5, "128", True])
def test_bad_batch_sizes_are_refused(size, unchanged):
    message = "`batch_size` must be a whole number of at least 1"
    refused(ValueError, message, unchanged, mlp(), vectors(), batch_size=size)
    assert Objective(mlp(), vectors(), batch_size=np.int64(4)).batch_size == 4


@pytest.mark.parametrize("weight_decay", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_bad_weight_decay_is_refused(weight_decay, unchanged):
    message = "`weight_decay` must be a finite number >= 0"
    refused(ValueError, message, unchanged, mlp(), vectors(), weight_decay=weight_decay)


@pytest.mark.parametrize(("n", "batch_size"), [(21, 20), (21, 4), (21, 1), (1, 128), (129, 128)])
def test_a_last_batch_of_one_is_refused_in_batch_mode(n, batch_size, unchanged):
    message = rf"no batch of one in 'batch' mode, got {batch_size} for {n} examples"
    refused(ValueError, message, unchanged, cnn(), images(n), batch_norm="batch", batch_size=batch_size)
    Objective(cnn(), images(n), batch_norm="running", batch_size=batch_size).value()


@pytest.mark.parametrize("frozen", [True, False])
def test_a_model_without_a_trainable_parameter_is_refused(frozen, unchanged):
    model = mlp().requires_grad_(False) if frozen else nn.Flatten()
    message = "at least one parameter with requires_grad=True, got none"
    refused(ValueError, message, unchanged, model, vectors())


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_batch_norm_alone_without_parameters_is_refused(mode, unchanged):
    model = nn.BatchNorm1d(5, affine=False, track_running_stats=False)
    refused(ValueError, "at least one parameter", unchanged, model, vectors(), batch_norm=mode)


@pytest.mark.parametrize(
    "layer", [nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyBatchNorm1d(affine=False)], ids=repr
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_layers_without_a_shape_are_refused(layer):
    model = nn.Sequential(nn.Linear(5, 3), layer)
    with pytest.raises(ValueError, match=r"without a shape yet \(1\.\w+.*run one forward pass first"):
        Objective(model, vectors())


def test_lazy_layers_that_ran_are_fine():
    model = nn.Sequential(nn.LazyLinear(3)).double()
    model(vectors()[0])
    assert Objective(model, vectors()).space.dim == 18


def test_parameters_of_several_dtypes_are_refused(unchanged):
    model = nn.Sequential(nn.Linear(5, 4).double(), nn.Linear(4, 3))
    message = (
        r"trainable parameters in one floating dtype on one device, got torch.float32 on cpu, torch.float64"
    )
    refused(ValueError, message, unchanged, model, vectors())


def test_complex_parameters_are_refused(unchanged):
    model = nn.Linear(5, 3, dtype=torch.complex64)
    refused(ValueError, "one floating dtype on one device, got torch.complex64", unchanged, model, vectors())


def test_frozen_parameters_of_another_dtype_are_fine():
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3).double()
            self.steps = nn.Parameter(torch.arange(3), requires_grad=False)

        def forward(self, x):
            return self.linear(x) + self.steps

    assert Objective(Offset(), vectors()).to_dtype(torch.float32).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_scripted_modules_are_refused(inside):
    scripted = torch.jit.script(cnn())
    model = nn.Sequential(scripted) if inside else scripted
    with pytest.raises(TypeError, match=r"must not hold TorchScript modules, .* scripted from"):
        Objective(model, images(21), batch_norm="batch", batch_size=8)


# -- wrappers ----------------------------------------------------------------------------------------


def test_compiled_models_are_unwrapped_and_left_alone(unchanged):
    model, data = cnn(), images(21)
    compiled = torch.compile(model, backend="eager")
    with unchanged(model, *data):
        objective = Objective(compiled, data, micro_batch=5)
        assert objective.value() == Objective(model, data, micro_batch=5).value()
        objective.gradient()
    assert objective.space.names[0] == "1.weight", "names are the model's own"
    assert unwrapped(compiled) is model


def test_data_parallel_models_are_unwrapped(unchanged):
    model, data = cnn(), images(21)
    wrapped = nn.DataParallel(model)
    with unchanged(model, *data):
        assert Objective(wrapped, data).value() == Objective(model, data).value()
    assert unwrapped(torch.compile(wrapped, backend="eager")) is model


def test_averaged_models_are_measured_as_they_are():
    model, data = mlp(), vectors(21)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    assert Objective(averaged, data).value() == Objective(model, data).value()


def test_another_default_device_is_refused_with_the_remedy():
    model, data = mlp(), vectors(21)
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=r"`torch.set_default_device` .*model.to\('meta'\)"),
    ):
        Objective(model, data)
