"""The training loop against a loop anyone would write, and what it leaves alone."""

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.core.rng import generator
from thalweg.models.small_cnn import SmallCNN
from thalweg.objective.objective import Objective
from thalweg.training.trainer import TrainConfig, train
from thalweg.training.trajectory import TrainingHistory


class Net(nn.Module):
    """Convolution, batch norm, dropout, dense, on (B, 2, 6, 6); 3 classes."""

    def __init__(self, seed=0, dropout=0.0):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(64, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=rng))

    def forward(self, x):
        return self.head(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))


def make_data(n=53, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, 2, 6, 6, generator=rng), torch.randint(0, 3, (n,), generator=rng)
    # Classes that can be learnt: each shifts its own half of a channel.
    x[:, 0] += (y[:, None, None] - 1).float()
    return x.to(dtype), y


TRAIN, TEST = make_data(), make_data(19, seed=1)
CONFIG = TrainConfig(seed=3, epochs=3, batch_size=8, lr=0.05)  # 53 = 6 * 8 + 5


def state(model):
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


def plain_loop(model, x, y, config, num_steps):
    """What anyone would write, in the order of examples that `train` documents."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    model.train()
    step = 0
    for epoch in range(1, 1000):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * config.gamma ** ((epoch - 1) // config.step_size)
        order = torch.randperm(len(x), generator=generator(config.seed, "order", epoch))
        for i in range(0, len(x), config.batch_size):
            index = order[i : i + config.batch_size]
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
            step += 1
            if step == num_steps:
                return


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_fifty_float64_steps_agree_with_a_plain_loop(batch_norm, weight_decay):
    torch.manual_seed(0)
    x, y = torch.randn(67, 1, 28, 28, dtype=torch.float64), torch.randint(0, 10, (67,))
    # 10 batches an epoch, the last of 4 examples; the rate drops after epochs 2 and 4.
    config = TrainConfig(seed=2, epochs=5, batch_size=7, lr=0.02, weight_decay=weight_decay)
    ours = SmallCNN(batch_norm, width=4).double()
    plain = SmallCNN(batch_norm, width=4).double()
    plain.load_state_dict(ours.state_dict())
    train(ours, (x, y), None, config)
    plain_loop(plain, x, y, config, num_steps=50)
    assert float((state(ours) - state(plain)).abs().max()) < 1e-10


def test_history_is_what_the_objective_says():
    model = Net()
    start = Objective(model.eval(), TEST).evaluate()
    history = train(model, TRAIN, TEST, CONFIG)
    assert history.epochs.tolist() == [0, 1, 2, 3]
    assert history.learning_rate.tolist() == [0.05, 0.05, 0.05, 0.025]
    assert float(history.test_loss[0]) == start.loss
    assert float(history.test_accuracy[0]) == start.accuracy
    for data, loss, accuracy in (
        (TRAIN, history.train_loss, history.train_accuracy),
        (TEST, history.test_loss, history.test_accuracy),
    ):
        with torch.no_grad():
            outputs = model.eval()(data[0])
        assert float(loss[-1]) == pytest.approx(float(F.cross_entropy(outputs, data[1])), rel=1e-5)
        assert float(accuracy[-1]) == pytest.approx(float((outputs.argmax(1) == data[1]).double().mean()))
    assert history.value == float(history.test_accuracy[-1])
    assert float(history.train_loss[-1]) < 0.5 * float(history.train_loss[0])


def test_history_round_trips_and_tells_where_it_came_from():
    history = train(Net(), TRAIN, TEST, CONFIG)
    back = Measurement.from_dict(json.loads(json.dumps(history.to_dict(), allow_nan=False)))
    assert isinstance(back, TrainingHistory)
    assert back.to_dict() == history.to_dict()
    assert torch.equal(back.test_loss, history.test_loss)
    assert back.epochs.dtype == torch.int64
    provenance = history.provenance
    assert provenance["function"] == "train"
    assert {k: provenance[k] for k in ("seed", "epochs", "lr", "momentum", "batch_size")} == {
        "seed": 3,
        "epochs": 3,
        "lr": 0.05,
        "momentum": 0.9,
        "batch_size": 8,
    }
    assert provenance["objective"]["batch_norm"] == "running"
    assert provenance["objective"]["params"] == Objective(Net(), TRAIN).describe()["params"]
    assert "\n" not in repr(history)
    assert repr(history).startswith("TrainingHistory(")


def test_same_seed_same_bits_other_seed_other_order():
    models = [Net(), Net(), Net()]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        torch.manual_seed(random.randrange(1000))
        train(model, TRAIN, TEST, TrainConfig(seed=seed, epochs=1, batch_size=8))
    assert torch.equal(state(models[0]), state(models[1]))
    assert not torch.equal(state(models[0]), state(models[2]))


def test_dropout_draws_from_the_seed():
    models = [Net(dropout=0.5), Net(dropout=0.5), Net(dropout=0.0)]
    for model in models:
        train(model, TRAIN, TEST, CONFIG)
    assert torch.equal(state(models[0]), state(models[1]))
    assert not torch.equal(state(models[0]), state(models[2]))


def test_nothing_else_of_the_users_is_touched(unchanged):
    model = Net(dropout=0.5)
    model.dropout.eval()
    model.norm.train()
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    gradient, kept = model.head.weight.grad, model.head.weight.grad.clone()
    strides = [p.stride() for p in model.parameters()]
    flags = [m.training for m in model.modules()]
    x, y = TRAIN
    with unchanged(x, y, *TEST):  # the data, and every global state
        train(model, (x, y), TEST, CONFIG)
    assert [m.training for m in model.modules()] == flags
    assert model.head.weight.grad is gradient
    assert torch.equal(gradient, kept)
    assert model.conv.weight.grad is None
    assert [p.stride() for p in model.parameters()] == strides


def test_flags_come_back_after_an_error_too():
    model = Net().eval()

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, TRAIN, TEST, CONFIG, callbacks=[interrupt])
    assert not model.training
    assert model.conv.weight.grad is None


def test_frozen_parameters_stay():
    model = Net()
    model.conv.weight.requires_grad_(False)
    before, head = model.conv.weight.clone(), model.head.weight.clone()
    train(model, TRAIN, TEST, TrainConfig(seed=0, epochs=1, batch_size=8, weight_decay=0.1))
    assert torch.equal(model.conv.weight, before)
    assert not torch.equal(model.head.weight, head)


def test_callbacks_and_progress_see_every_step():
    seen, steps = [], []

    def look(state):
        seen.append((state.epoch, state.step, state.num_steps, state.optimizer.param_groups[0]["lr"]))
        assert state.loss.shape == ()
        assert state.model.training

    train(Net(), TRAIN, TEST, CONFIG, callbacks=[look], progress=lambda *s: steps.append(s))
    assert steps == [(i, 21) for i in range(1, 22)]
    assert [s[:3] for s in seen] == [((i - 1) // 7 + 1, i, 21) for i in range(1, 22)]
    assert [s[3] for s in seen] == [0.05] * 14 + [0.025] * 7


def test_without_test_data_the_value_is_the_training_accuracy():
    history = train(Net(), TRAIN, None, CONFIG)
    assert history.value == float(history.train_accuracy[-1])
    assert bool(history.test_loss.isnan().all())
    assert history.to_dict()["test_loss"]["tensor"] == [None] * 4
    assert history.provenance["test_data"] is None


def test_other_losses_and_forms_of_data():
    x = torch.randn(21, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.ones(3, 2)
    config = TrainConfig(seed=0, epochs=5, batch_size=4)
    history = train(nn.Linear(3, 2), (x, y), (x, y), config, loss="mse")
    assert float(history.test_loss[-1]) < 0.5 * float(history.test_loss[0])
    assert bool(history.train_accuracy.isnan().all())
    assert np.isnan(history.value)

    results = []
    for data in (TRAIN, TensorDataset(*TRAIN), DataLoader(TensorDataset(*TRAIN), batch_size=16)):
        model = Net()
        train(model, data, None, CONFIG)
        results.append(state(model))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])

    class Named(Net):
        def forward(self, pixels):
            return super().forward(pixels)

    model = Named()
    train(model, {"pixels": TRAIN[0], "labels": TRAIN[1]}, None, CONFIG)
    assert torch.equal(results[0], state(model))


def test_a_last_batch_of_one_is_refused_only_where_it_cannot_work():
    data = make_data(17)
    train(Net(), data, None, TrainConfig(seed=0, epochs=1, batch_size=8))  # normalises over 16 pixels
    x = data[0].flatten(1)
    flat = nn.Sequential(nn.Linear(72, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    before = state(flat)
    with pytest.raises(ValueError, match="`batch_size` 8 and 17 examples leave a last batch of one"):
        train(flat, (x, data[1]), None, TrainConfig(seed=0, epochs=1, batch_size=8))
    with pytest.raises(ValueError, match="`batch_size` 1 and 17 examples leave a last batch of one"):
        train(flat, (x, data[1]), None, TrainConfig(seed=0, epochs=1, batch_size=1))
    assert torch.equal(state(flat), before)


def test_a_shuffling_loader_is_refused():
    loader = DataLoader(TensorDataset(*TRAIN), shuffle=True)
    with pytest.raises(ValueError, match=r"data=loader\.dataset"):
        train(Net(), loader, None, CONFIG)


def test_integer_images_are_refused_or_cast_like_the_objective_does():
    # float64 data train a float32 model: cast once, not each step.
    model, other = Net(), Net()
    train(model, (TRAIN[0].double(), TRAIN[1]), None, CONFIG)
    train(other, TRAIN, None, CONFIG)
    assert torch.equal(state(model), state(other))


@pytest.mark.parametrize("bad_step", [1, 9, 14, 20])
def test_divergence_names_step_and_epoch(bad_step):
    class Diverging(Net):
        steps = 0

        def forward(self, x):
            if self.training:
                self.steps += 1
            return super().forward(x) * (float("nan") if self.training and self.steps == bad_step else 1.0)

    message = rf"training diverged: the loss is nan at step {bad_step}, in epoch {(bad_step - 1) // 7 + 1}"
    with pytest.raises(NonFiniteLossError, match=message):
        train(Diverging(), TRAIN, TEST, CONFIG)


def test_divergence_in_the_last_step_of_an_epoch_names_the_epoch():
    def spoil(state):
        if state.step == 7:
            with torch.no_grad():
                state.model.head.bias.fill_(float("inf"))

    with pytest.raises(NonFiniteLossError, match=r"after epoch 1 \(step 7\): the loss is not finite"):
        train(Net(), TRAIN, TEST, CONFIG, callbacks=[spoil])


@pytest.mark.parametrize(
    ("field", "bad", "error", "message"),
    [
        ("epochs", 0, ValueError, "`epochs` must be a whole number of at least 1, got 0"),
        ("batch_size", 2.5, ValueError, "`batch_size` must be a whole number"),
        ("step_size", -1, ValueError, "`step_size` must be a whole number"),
        ("lr", 0.0, ValueError, "`lr` must be a finite number above 0"),
        ("lr", float("nan"), ValueError, "`lr` must be a finite number above 0"),
        ("momentum", 1.0, ValueError, r"`momentum` must lie in \[0, 1\)"),
        ("weight_decay", -0.1, ValueError, "`weight_decay` must be a finite number >= 0"),
        ("gamma", 0.0, ValueError, "`gamma` must be a finite number above 0"),
        ("seed", 1.5, TypeError, "`seed` must be an integer"),
    ],
)
def test_bad_configurations_are_refused(field, bad, error, message):
    with pytest.raises(error, match=message):
        TrainConfig(**{"seed": 0, field: bad})


def test_bad_checkpoint_interval_is_refused():
    with pytest.raises(ValueError, match="`checkpoint_every` must be a whole number of at least 1, got 0"):
        train(Net(), TRAIN, None, CONFIG, checkpoint_every=0)
