"""Runs that leave another one: all up to there to the bit, and nothing but the order of the data after."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from thalweg.core.rng import generator
from thalweg.training.branch import Branch, data_order, kept_checkpoint
from thalweg.training.config import TrainConfig, shared_epochs
from thalweg.training.trainer import train


class Net(nn.Module):
    """Batch norm, dropout and noise from NumPy and Python: every generator there is has a say."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(64, 3)
        self.noise = 0.01 * (dropout > 0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=rng))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.noise:
            x = x + self.noise * (random.gauss(0, 1) + float(np.random.standard_normal()))  # noqa: NPY002
        return self.head(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))


def make_data(n: int = 29) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 6, 6, generator=rng), torch.randint(0, 3, (n,), generator=rng)


DATA = make_data()
CONFIG = TrainConfig(
    seed=5, epochs=3, batch_size=4, lr=0.05, step_size=1
)  # 8 steps an epoch, the last of one
NUM_STEPS = 24
# The start, within an epoch, before its short last batch, at its end, at the very end.
STEPS = (0, 3, 7, 8, 13, 24)


def bits(model: nn.Module) -> bytes:
    return b"".join(t.numpy().tobytes() for t in model.state_dict().values())


def watched(log: list) -> dict:
    """Notes the state after each step, and the generators, which know what was drawn."""

    def note(state) -> None:
        drawn = (
            torch.get_rng_state().numpy().tobytes(),
            random.getstate(),
            np.random.get_state()[1].tobytes(),  # noqa: NPY002
        )
        rate = state.optimizer.param_groups[0]["lr"]
        log.append((state.step, bits(state.model), drawn, rate))

    return {"callbacks": [note]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run that is branched: its folder and its log."""
    folder, log = tmp_path_factory.mktemp("run"), []
    train(Net(), DATA, None, CONFIG, checkpoint_dir=folder, keep_steps=STEPS, **watched(log))
    return folder, log


def test_keeping_steps_changes_nothing(run, tmp_path) -> None:
    folder, log = run
    plain: list = []
    train(Net(), DATA, None, CONFIG, checkpoint_dir=tmp_path, **watched(plain))
    assert plain == log
    assert (tmp_path / "history.json").read_text() == (folder / "history.json").read_text()
    kept = sorted(p.name for p in folder.glob("step*.safetensors"))
    assert kept == sorted(kept_checkpoint(folder, step).name for step in STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_all_up_to_there_is_shared_and_the_order_alone_differs_after(run, step, tmp_path) -> None:
    folder, log = run
    branch, model = Branch(kept_checkpoint(folder, step), order_seed=7), Net()
    seen: list = []
    history = train(model, DATA, None, CONFIG, branch=branch, **watched(seen))
    kept = {k.removeprefix("model/"): t for k, t in load_file(branch.path).items() if k.startswith("model/")}
    at_step = log[step - 1][1] if step else bits(Net())
    assert b"".join(kept[k].numpy().tobytes() for k in Net().state_dict()) == at_step
    assert [s for s, *_ in seen] == list(range(step + 1, NUM_STEPS + 1)), "it went on from there"
    for (s, ours, drawn, rate), (_, theirs, run_drawn, run_rate) in zip(seen, log[step:], strict=True):
        # After step 7 a single example is left of the epoch, which has but one order.
        assert (ours == theirs) == (step == 7 and s == 8)
        assert drawn == run_drawn, "dropout and noise are those of the run"
        assert rate == run_rate
    if step == NUM_STEPS:
        assert bits(model) == log[-1][1]
    assert history.epochs.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("step", STEPS)
def test_the_same_order_gives_the_same_bits_and_another_does_not(run, step) -> None:
    models = [Net() for _ in range(3)]
    for model, order_seed in zip(models, (7, 7, 8), strict=True):
        train(model, DATA, None, CONFIG, branch=Branch(kept_checkpoint(run[0], step), order_seed))
    assert bits(models[0]) == bits(models[1])
    assert (bits(models[0]) == bits(models[2])) == (step == NUM_STEPS)


@pytest.mark.parametrize("step", [0, 3, 7, 8, 13])
def test_each_epoch_is_one_pass_over_the_data(step) -> None:
    for epoch in (1, 2, 3):
        own = data_order(29, CONFIG, epoch, None)
        other = data_order(29, CONFIG, epoch, (step, 7))
        assert torch.equal(own, torch.randperm(29, generator=generator(5, "order", epoch)))
        assert torch.equal(other.sort().values, torch.arange(29))
        seen = min(max(0, 4 * (step - 8 * (epoch - 1))), 29)
        assert torch.equal(own[:seen], other[:seen])
        # A single example that is left has but one order.
        assert torch.equal(own[seen:], other[seen:]) == (seen >= 28)


def test_what_is_left_comes_in_any_order() -> None:
    config = TrainConfig(seed=0, epochs=1, batch_size=2)
    orders = [tuple(data_order(5, config, 1, (1, seed))[2:].tolist()) for seed in range(3000)]
    counts = [orders.count(p) for p in itertools.permutations(sorted(orders[0]))]
    assert sum(counts) == 3000
    assert min(counts) > 500 - 5 * 20.4  # standard deviation of a count of 1/6 in 3,000


def test_a_branch_is_a_loop_anyone_would_write(run, tmp_path) -> None:
    x, y = DATA[0].double(), DATA[1]
    config = TrainConfig(seed=5, epochs=3, batch_size=4, lr=0.05, step_size=1, weight_decay=0.1)
    ours, plain = Net(dropout=0).double(), Net(dropout=0).double()
    train(Net(dropout=0).double(), (x, y), None, config, checkpoint_dir=tmp_path, keep_steps=[11])
    train(ours, (x, y), None, config, branch=Branch(kept_checkpoint(tmp_path, 11), 7))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    plain.train()
    for epoch in (1, 2, 3):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5 ** (epoch - 1)
        order = torch.randperm(29, generator=generator(5, "order", epoch))
        if epoch == 2:  # step 11 is the third of the second epoch
            again = torch.randperm(17, generator=generator(7, "branch order", 2))
            order = torch.cat([order[:12], order[12:][again]])
        if epoch == 3:
            order = order[torch.randperm(29, generator=generator(7, "branch order", 3))]
        for index in order.split(4):
            optimizer.zero_grad()
            F.cross_entropy(plain(x[index]), y[index]).backward()
            optimizer.step()
    for a, b in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


class KilledError(Exception):
    pass


def kill_at(step: int):
    def callback(state) -> None:
        if state.step == step:
            raise KilledError(f"at {step}")

    return callback


@pytest.mark.parametrize("killed", [5, 8, 14])
def test_killed_and_resumed_a_branch_and_a_run_that_keeps_steps_are_the_same(run, killed, tmp_path) -> None:
    for folder, options in (
        (tmp_path / "run", {"keep_steps": STEPS}),
        (tmp_path / "branch", {"branch": Branch(kept_checkpoint(run[0], 3), 7)}),
    ):
        calm, killed_model = Net(), Net()
        train(calm, DATA, None, CONFIG, checkpoint_dir=folder / "calm", **options)
        options = {"checkpoint_dir": folder / "killed", "checkpoint_every": 2, **options}
        with pytest.raises(KilledError, match="at"):
            train(Net(), DATA, None, CONFIG, callbacks=[kill_at(killed)], **options)
        train(killed_model, DATA, None, CONFIG, **options)
        assert bits(calm) == bits(killed_model)
        read = [json.loads((folder / k / "history.json").read_text()) for k in ("calm", "killed")]
        assert read[0] == read[1]
    for step in STEPS:
        ours, theirs = (load_file(kept_checkpoint(f, step)) for f in (run[0], tmp_path / "run" / "killed"))
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_provenance_tells_branches_apart(run) -> None:
    plain = json.loads((run[0] / "history.json").read_text())["provenance"]
    assert "branch" not in plain
    described = [
        train(Net(), DATA, None, CONFIG, branch=Branch(kept_checkpoint(run[0], step), seed)).provenance
        for step, seed in ((3, 7), (3, 8), (13, 7))
    ]
    assert [p["branch"]["step"] for p in described] == [3, 3, 13]
    assert [p["branch"]["order_seed"] for p in described] == [7, 8, 7]
    assert (
        described[0]["branch"]["state"] == described[1]["branch"]["state"] != described[2]["branch"]["state"]
    )
    assert all({k: v for k, v in p.items() if k != "branch"} == plain for p in described)


def test_refusals(run, tmp_path) -> None:
    folder = run[0]
    with pytest.raises(ValueError, match="`keep_steps` needs a `checkpoint_dir`"):
        train(Net(), DATA, None, CONFIG, keep_steps=[3])
    with pytest.raises(ValueError, match="`keep_steps` must be at most 24, the steps of a run, got 25"):
        train(Net(), DATA, None, CONFIG, checkpoint_dir=tmp_path, keep_steps=[25])
    with pytest.raises(ValueError, match="`keep_steps` must be a whole number of at least 0, got -1"):
        train(Net(), DATA, None, CONFIG, checkpoint_dir=tmp_path, keep_steps=[-1])
    with pytest.raises(ValueError, match=r"asks for step 5, but the run in .* is at step 24 and did not"):
        train(Net(), DATA, None, CONFIG, checkpoint_dir=folder, keep_steps=[5])
    other = TrainConfig(seed=5, epochs=3, batch_size=4, lr=0.01, step_size=1)
    with pytest.raises(ValueError, match=r"`branch` .* holds another run: lr is 0.05 there and 0.01 here"):
        train(Net(), DATA, None, other, branch=Branch(kept_checkpoint(folder, 3), 7))
    branch = Branch(kept_checkpoint(folder, 3), 7)
    train(Net(), DATA, None, CONFIG, checkpoint_dir=tmp_path / "b", branch=branch)
    with pytest.raises(ValueError, match=r"holds another run: branch is .* there and None here"):
        train(Net(), DATA, None, CONFIG, checkpoint_dir=tmp_path / "b")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        train(Net(), DATA, None, CONFIG, branch=Branch(tmp_path / "nothing.safetensors", 7))


@pytest.mark.parametrize(
    ("gamma", "step_size", "epochs"), [(1.0, 2, 5), (0.5, 2, 5), (0.1, 3, 4), (0.1, 5, 7)]
)
@pytest.mark.parametrize("every", [1, 2])
def test_a_run_whose_schedule_parts_later_is_to_the_bit_the_one_from_the_start(
    tmp_path, gamma, step_size, epochs, every
) -> None:
    first = dataclasses.replace(CONFIG, epochs=5, step_size=3, gamma=0.2, evaluate_every=every)
    second = dataclasses.replace(first, epochs=epochs, step_size=step_size, gamma=gamma)
    shared = shared_epochs(first, second)
    assert shared == shared_epochs(second, first) >= 1
    train(Net(), DATA, DATA, first, checkpoint_dir=tmp_path / "a", keep_steps=[8 * shared])

    log_ours: list = []
    log_scratch: list = []
    ours, scratch = Net(), Net()
    branch = Branch(kept_checkpoint(tmp_path / "a", 8 * shared))
    from_branch = train(ours, DATA, DATA, second, branch=branch, callbacks=[log_ours.append])
    from_start = train(scratch, DATA, DATA, second, callbacks=[log_scratch.append])

    assert len(log_scratch) - len(log_ours) == 8 * shared
    assert bits(ours) == bits(scratch)
    assert from_branch.to_dict() == from_start.to_dict()


def test_where_schedules_have_parted_a_run_of_the_other_is_refused(tmp_path) -> None:
    first = dataclasses.replace(CONFIG, epochs=4, step_size=3, gamma=0.2)
    second = dataclasses.replace(first, gamma=1.0)
    train(Net(), DATA, None, first, checkpoint_dir=tmp_path, keep_steps=[8, 16, 24])
    train(Net(), DATA, None, second, branch=Branch(kept_checkpoint(tmp_path, 16)))
    with pytest.raises(ValueError, match=r"holds another run: gamma is 0.2 there and 1.0 here"):
        train(Net(), DATA, None, second, branch=Branch(kept_checkpoint(tmp_path, 24)))
    with pytest.raises(ValueError, match=r"holds another run: gamma is"):
        train(Net(), DATA, None, second, branch=Branch(kept_checkpoint(tmp_path, 16), order_seed=3))
    other = dataclasses.replace(second, lr=0.1)
    with pytest.raises(ValueError, match=r"holds another run: lr is 0.05 there and 0.1 here"):
        train(Net(), DATA, None, other, branch=Branch(kept_checkpoint(tmp_path, 8)))


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({}, 9),
        ({"epochs": 4}, 3),
        ({"gamma": 1.0}, 3),
        ({"gamma": 0.5}, 3),
        ({"step_size": 2}, 1),
        ({"step_size": 1}, 0),
        ({"step_size": 8}, 3),
        ({"gamma": 1.0, "step_size": 2}, 3),
        ({"momentum": 0.9}, 9),
        ({"lr": 0.1}, 0),
        ({"seed": 6}, 0),
        ({"batch_size": 8}, 0),
        ({"momentum": 0.5}, 0),
        ({"weight_decay": 0.1}, 0),
        ({"evaluate_every": 2}, 0),
    ],
)
def test_two_runs_are_one_until_a_rate_of_theirs_differs(change, shared) -> None:
    config = TrainConfig(seed=5, epochs=10, step_size=4, gamma=0.1)
    assert shared_epochs(config, dataclasses.replace(config, **change)) == shared
    constant = dataclasses.replace(config, gamma=1.0)
    assert shared_epochs(constant, dataclasses.replace(constant, step_size=2, epochs=7)) == 6
