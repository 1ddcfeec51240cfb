"""What a provenance says of an objective: the same for the same function, another for another."""

import json

import pytest
import torch
from tests.networks import Counting, cnn, images, mlp, vectors
from torch import nn

from thalweg.objective.objective import Objective


def make(**kwargs):
    return Objective(kwargs.pop("model", cnn()), kwargs.pop("data", images(21)), batch_size=8, **kwargs)


def test_the_contract():
    described = make(batch_norm="recalibrated", micro_batch=5, weight_decay=0.1).describe()
    hashes = dict.fromkeys(("model_code", "params", "buffers", "data", "calibration_data"), "")
    assert described | hashes == {
        "model": "Sequential",
        "model_code": "",
        "loss": "cross_entropy",
        "loss_code": None,
        "params": "",
        "buffers": "",
        "data": "",
        "num_examples": 21,
        "num_params": 177,
        "batch_norm": "recalibrated",
        "has_batch_norm": True,
        "batch_size": 8,
        "micro_batch": 5,
        "weight_decay": 0.1,
        "dtype": "float64",
        "device": "cpu",
        "calibration_data": "",
        "derivatives": "hold the statistics of the base point constant",
    }
    json.dumps(described, allow_nan=False)


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_two_identical_objectives_share_it(mode):
    assert make(batch_norm=mode).describe() == make(batch_norm=mode).describe()
    objective = make(batch_norm=mode)
    before = objective.describe()
    objective.gradient()
    assert objective.describe() == before, "measuring leaves no trace"
    assert objective.at(objective.params, objective.buffers).describe() == before


def differing(a, b):
    a, b = a.describe(), b.describe()
    return {k for k in a.keys() | b.keys() if a.get(k) != b.get(k)}


def test_each_part_shows_in_its_own_entry():
    base = make()
    assert differing(base, base.at(base.params * 2)) == {"params"}
    assert differing(base, base.at(base.params, {"1.running_mean": torch.ones(3)})) == {"buffers"}
    assert differing(base, base.subset(9, seed=0)) == {"data", "num_examples"}
    assert differing(base.subset(9, seed=0), base.subset(9, seed=1)) == {"data"}
    assert differing(base, make(weight_decay=0.1)) == {"weight_decay"}
    assert differing(base, make(micro_batch=5)) == {"micro_batch"}
    assert differing(base, base.to_dtype(torch.float32)) == {"params", "buffers", "dtype"}
    assert differing(base, base.restrict("7")) == {"params", "num_params"}
    x, y = images(21)
    assert differing(base, make(data=(x.flip(0), y.flip(0)))) == {"data"}
    assert differing(base, make(data=(x, (y + 1) % 3))) == {"data"}
    assert differing(base, make(batch_norm="batch")) == {"batch_norm", "buffers", "micro_batch"}


def test_functions_that_only_their_code_tells_apart_differ():
    relu = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.ReLU()).double()
    tanh = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Tanh()).double()
    tanh.load_state_dict(relu.state_dict())
    assert differing(make(model=relu), make(model=tanh)) == {"model_code"}
    one = make(loss=lambda outputs, targets: outputs.square().mean(1))
    two = make(loss=lambda outputs, targets: outputs.abs().mean(1))
    assert differing(one, two) == {"loss_code"}


def test_frozen_parameters_and_integer_buffers_are_hashed():
    changed = cnn()
    with torch.no_grad():
        changed[0].weight += 1
    assert differing(make(), make(model=changed)) == {"params"}

    class Permuted(nn.Module):
        order: torch.Tensor

        def __init__(self, order):
            super().__init__()
            self.inner = mlp()
            self.register_buffer("order", torch.tensor(order))

        def forward(self, x):
            return self.inner(x[:, self.order])

    a, b = (Objective(Permuted(o), vectors(21)) for o in ([0, 1, 2, 3, 4], [1, 0, 2, 3, 4]))
    assert a.value() != b.value()
    assert differing(a, b) == {"buffers"}


def test_counters_of_batch_norm_are_not_part_of_the_function():
    trained = cnn()
    trained[1].num_batches_tracked += 100
    assert make(model=trained).describe() == make().describe()


def test_other_counters_do_not_move_by_measuring():
    objective = Objective(Counting().double(), vectors(21))
    before = objective.describe()
    objective.gradient()
    assert objective.describe() == before


def test_recalibrated_statistics_follow_the_calibration_data():
    base = make(batch_norm="recalibrated")
    other = make(batch_norm="recalibrated", calibration_data=images(30, seed=1))
    assert differing(base, other) == {"calibration_data"}
    assert differing(base, base.frozen()) == {"buffers", "statistics"}
    moved = base.params * 1.1
    assert differing(base.frozen().at(moved), base.at(moved).frozen()) == {"buffers"}


def test_losses_are_named():
    def own(outputs, targets):
        return outputs[:, 0]

    assert make(loss=own).describe()["loss"].endswith("own")
    assert make(loss=nn.CrossEntropyLoss(reduction="none")).describe()["loss"] == "CrossEntropyLoss"
