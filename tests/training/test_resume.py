"""KilledError anywhere, a run goes on to the same bits; another run in the folder is refused."""

import dataclasses
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from thalweg.training import trainer
from thalweg.training.checkpoint import Checkpoint
from thalweg.training.trainer import TrainConfig, seconds_spent, train


class Net(nn.Module):
    """Everything with a state: batch norm, dropout, a layer that draws from NumPy and Python."""

    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.dropout, self.head = nn.Dropout(0.3), nn.Linear(64, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=rng))

    def forward(self, x):
        import random

        import numpy as np

        if self.training:
            x = x + 0.01 * random.gauss(0, 1) + 0.01 * float(np.random.standard_normal())  # noqa: NPY002
        return self.head(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))


def make_data(n, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 6, 6, generator=rng), torch.randint(0, 3, (n,), generator=rng)


TRAIN, TEST = make_data(29, 0), make_data(13, 1)
CONFIG = TrainConfig(seed=5, epochs=4, batch_size=4, lr=0.05)  # 8 steps an epoch, the last of one example


class KilledError(Exception):
    pass


def kill_at(step):
    def callback(state):
        if state.step == step:
            raise KilledError(f"at {step}")

    return callback


def outcome(folder):
    """Bits of the weights, and the history, as an undisturbed run leaves them."""
    weights = load_file(folder / "model.safetensors")
    digest = hashlib.sha256(b"".join(weights[k].numpy().tobytes() for k in sorted(weights))).hexdigest()
    return digest, json.loads((folder / "history.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=folder)
    return outcome(folder)


# Within the first epoch, at and around its end, within a later one, at the very end.
@pytest.mark.parametrize("step", [3, 8, 9, 13, 19, 32])
@pytest.mark.parametrize("every", [None, 1, 5, 8])
def test_interrupted_run_resumes_to_the_same_bits(tmp_path, undisturbed, step, every):
    with pytest.raises(KilledError, match=f"at {step}"):
        train(
            Net(),
            TRAIN,
            TEST,
            CONFIG,
            checkpoint_dir=tmp_path,
            checkpoint_every=every,
            callbacks=[kill_at(step)],
        )
    assert not (tmp_path / "model.safetensors").exists()
    model, steps = Net(), []
    history = train(
        model, TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, progress=lambda s, n: steps.append(s)
    )
    assert outcome(tmp_path) == undisturbed
    assert history.to_dict() == undisturbed[1]
    saved = max([0] + [s for s in range(1, step) if s % 8 == 0 or (every and s % every == 0)])
    if every and step % every == 0 and step % 8:
        saved = step  # the checkpoint comes before the callbacks
    assert steps == list(range(saved + 1, 33))  # it went on, it did not start anew
    assert torch.equal(model.head.weight, load_file(tmp_path / "model.safetensors")["head.weight"])


def test_a_finished_run_is_returned_and_its_exports_made_good(tmp_path, undisturbed):
    train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path)
    (tmp_path / "model.safetensors").unlink()  # as if killed after the last checkpoint
    (tmp_path / "history.json").unlink()
    steps = []
    train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, progress=lambda s, n: steps.append(s))
    assert steps == []
    assert outcome(tmp_path) == undisturbed


def test_only_three_files_and_the_lock_are_left(tmp_path):
    left = tmp_path / ".checkpoint.safetensors.123.partial"
    left.write_text("by a killed run")
    train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, checkpoint_every=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".lock",
        "checkpoint.safetensors",
        "history.json",
        "model.safetensors",
    ]


def test_two_runs_into_one_folder_do_not_interleave(tmp_path):
    def second(state):
        with pytest.raises(ValueError, match="`checkpoint_dir` must not be written by two runs at once"):
            train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path)
        raise KilledError("seen enough")

    with pytest.raises(KilledError, match="seen enough"):
        train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, callbacks=[second])


def test_seconds_add_up_over_resumes_and_no_result_knows_them(tmp_path, monkeypatch, undisturbed):
    clock = [1000.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: clock[0])

    def tick(stop):
        def callback(state):
            clock[0] += 1
            if state.step == stop:
                raise KilledError(f"at {stop}")

        return callback

    assert seconds_spent(tmp_path) == 0
    # What came after the last checkpoint, at an epoch's end, is done again and does not count.
    for stop, spent in ((10, 8), (20, 16)):
        with pytest.raises(KilledError, match=f"at {stop}"):
            train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, callbacks=[tick(stop)])
        assert seconds_spent(tmp_path) == spent
    clock[0] += 500  # between two runs
    train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, callbacks=[tick(None)])
    assert seconds_spent(tmp_path) == 32
    train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path)
    assert seconds_spent(tmp_path) == 32
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(TrainConfig)])
def test_another_configuration_is_refused_by_name(tmp_path, field):
    with pytest.raises(KilledError):
        train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, callbacks=[kill_at(9)])
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    changed = {"gamma": 0.25, "momentum": 0.5, "weight_decay": 0.1, "lr": 0.1}.get(field)
    old = getattr(CONFIG, field)
    other = dataclasses.replace(CONFIG, **{field: old + 1 if changed is None else changed})
    new = getattr(other, field)
    with pytest.raises(
        ValueError,
        match=rf"`checkpoint_dir` .* holds another run: {field} is {old} there and {new} here\. Name",
    ):
        train(Net(), TRAIN, TEST, other, checkpoint_dir=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_other_data_or_another_start_are_refused_by_name(tmp_path):
    with pytest.raises(KilledError):
        train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, callbacks=[kill_at(9)])
    with pytest.raises(ValueError, match=r"another run: objective\.data is "):
        train(Net(), make_data(29, 7), TEST, CONFIG, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"another run: test_data is .* there and None here"):
        train(Net(), TRAIN, None, CONFIG, checkpoint_dir=tmp_path)
    model = Net()
    with torch.no_grad():
        model.head.bias.add_(1)
    with pytest.raises(ValueError, match=r"another run: objective\.params is "):
        train(model, TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(KilledError):
        train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path, callbacks=[kill_at(9)])
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors cannot be read as safetensors"):
        train(Net(), TRAIN, TEST, CONFIG, checkpoint_dir=tmp_path)


# -- kill -9 ------------------------------------------------------------------------------------------

SCRIPT = textwrap.dedent("""
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    import test_resume as t
    from thalweg.training import checkpoint

    kill_step, in_write = int(sys.argv[3]), sys.argv[4] == "write"
    def kill(): os.kill(os.getpid(), signal.SIGKILL)

    if in_write:  # die with half of the new checkpoint on disk
        real, count = checkpoint.save_file, 0
        def save_file(tensors, path, metadata=None):
            global count
            count += 1
            real(tensors, path, metadata)
            if count == kill_step:
                os.truncate(path, os.path.getsize(path) // 2)
                kill()
        checkpoint.save_file = save_file

    def callback(state):
        if not in_write and state.step == kill_step: kill()

    options = {'checkpoint_dir': sys.argv[2], 'checkpoint_every': 3, 'callbacks': [callback]}
    t.train(t.Net(), t.TRAIN, t.TEST, t.CONFIG, **options)
""")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize(("where", "number"), [("step", 13), ("write", 5)])
def test_kill_nine_resumes_to_the_same_bits(tmp_path, monkeypatch, where, number):
    here, folder = str(Path(__file__).parent), tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, here, str(folder), str(number), where]
    killed = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 0 < Checkpoint.load(folder / "checkpoint.safetensors").header["step"] < 32
    # A run knows its network by the name of its module, too.
    monkeypatch.syspath_prepend(here)
    same = importlib.import_module("test_resume")
    for each in (folder, tmp_path / "whole"):
        train(same.Net(), TRAIN, TEST, CONFIG, checkpoint_dir=each)
    assert outcome(folder) == outcome(tmp_path / "whole")
