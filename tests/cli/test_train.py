"""``thalweg train``: own models and data, resumption, and exit codes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from thalweg.cli import main
from thalweg.core.measurement import Measurement
from thalweg.models.registry import build_model
from thalweg.training.trainer import TrainConfig, train

OWN = """
import torch
from torch import nn

def data(n=22, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=rng)
    return x, (x[:, 0] > 0).long()

def pair():
    return data(), data(9, 1)

def regression():
    x = data()[0]
    return x, x @ torch.ones(4, 2)

def huber(outputs, targets):
    return nn.functional.huber_loss(outputs, targets, reduction="none").mean(1)

def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

class Explodes(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
    def forward(self, x):
        return super().forward(x) * (float("nan") if self.training else 1)
"""


@pytest.fixture
def thalweg(monkeypatch, capsys, tmp_path):
    """Run the command beside a module ``own_things``: ``thalweg(...) -> (exit code, stdout, stderr)``."""
    (tmp_path / "own_things.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["thalweg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main.run()
        output = capsys.readouterr()
        return caught.value.code, output.out, output.err

    return run


ARGUMENTS = (
    *("train", "--model", "own_things:net", "--data", "own_things:pair", "--out", "out", "--seed", 1),
    *("--epochs", 3, "--batch-size", 4, "--lr", 0.1, "--step-size", 1, "--gamma", 0.9, "--device", "cpu"),
)
CONFIG = TrainConfig(seed=1, epochs=3, batch_size=4, lr=0.1, step_size=1, gamma=0.9)


def test_trains_own_model_on_own_data_as_the_library_does(thalweg, tmp_path):
    code, out, err = thalweg(*ARGUMENTS)
    assert (code, err) == (0, "")
    assert "weights in out/model.safetensors" in out.replace("\\", "/")
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert [row[1] for row in rows] == ["0.1", "0.1", "0.09", "0.081"]

    import own_things  # type: ignore[import-not-found]

    model = build_model("own_things:net", 1)
    history = train(model, *own_things.pair(), CONFIG)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(saved[name], t) for name, t in model.state_dict().items())
    assert json.loads((tmp_path / "out" / "history.json").read_text()) == history.to_dict()
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_json_is_the_history(thalweg):
    code, out, err = thalweg(*ARGUMENTS, "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    history = Measurement.from_dict(printed)
    assert history.measure == "train"
    assert 0 <= history.value <= 1
    assert printed["weights"].endswith("model.safetensors")


def test_looks_at_the_losses_may_be_rarer_and_the_last_epoch_has_one(thalweg, tmp_path):
    every = json.loads(thalweg(*ARGUMENTS, "--json")[1])
    rarer = json.loads(thalweg(*ARGUMENTS, "--out", "rarer", "--evaluate-every", 2, "--json")[1])
    assert rarer["epochs"]["tensor"] == [0, 2, 3]
    assert rarer["train_loss"]["tensor"] == [every["train_loss"]["tensor"][i] for i in (0, 2, 3)]
    assert rarer["learning_rate"]["tensor"] == [every["learning_rate"]["tensor"][i] for i in (0, 2, 3)]


def test_the_same_again_prints_the_same_and_another_run_is_refused(thalweg):
    first = thalweg(*ARGUMENTS, "--json")
    assert thalweg(*ARGUMENTS, "--json") == first
    code, out, err = thalweg(*ARGUMENTS, "--momentum", 0.5)
    assert (code, out) == (2, "")
    assert "holds another run: momentum is 0.9 there and 0.5 here" in err
    assert err.count("\n") == 1


def test_training_data_alone_and_other_losses(thalweg):
    code, out, _ = thalweg(*ARGUMENTS, "--data", "own_things:data", "--json")
    assert code == 0
    assert json.loads(out)["test_loss"]["tensor"] == [None] * 4
    for i, loss in enumerate(("mse", "own_things:huber")):
        code, out, _ = thalweg(
            *ARGUMENTS,
            "--data",
            "own_things:regression",
            "--loss",
            loss,
            "--lr",
            0.01,
            "--out",
            f"o{i}",
            "--json",
        )
        assert code == 0
        losses = json.loads(out)["train_loss"]["tensor"]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--model", "no_such_model"), "`model` must be"),
        (("--model", "own_things:nothing"), "has no attribute 'nothing'"),
        (("--data", "no-such-data"), "`data` must be"),
        (("--data", "own_things:nothing"), "has no attribute 'nothing'"),
        (("--batch-size", 0), "`batch_size` must be a whole number of at least 1, got 0"),
        (("--batch-size", "many"), "--batch-size"),
        (("--batch-size", 7), "leave a last batch of one"),
        (("--evaluate-every", 0), "`evaluate_every` must be a whole number of at least 1, got 0"),
        (("--lr", -1), "`lr` must be a finite number above 0"),
        (("--checkpoint-every", 0), "`checkpoint_every` must be a whole number of at least 1"),
        (("--device", "abacus"), "`device` must be auto"),
        (("--loss", "hinge"), "`loss` must be"),
        (("--out", "own_things.py"), "own_things.py"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(thalweg, change, message):
    code, out, err = thalweg(*ARGUMENTS, *change)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_divergence_is_one_line_and_exit_1(thalweg):
    code, out, err = thalweg(*ARGUMENTS, "--model", "own_things:Explodes")
    assert (code, out) == (1, "")
    assert "training diverged: the loss is nan at step 1, in epoch 1" in err


def test_help_has_an_example(thalweg):
    code, out, _ = thalweg("train", "--help")
    assert code == 0
    assert "thalweg train --model small_cnn_bn --data fashion-mnist" in " ".join(out.split())


@pytest.mark.real_data
def test_the_papers_network_on_real_data(thalweg):
    code, out, _ = thalweg(
        *("train", "--model", "small_cnn_bn", "--data", "fashion-mnist:1000", "--out", "real"),
        *("--seed", 1, "--epochs", 1, "--json"),
    )
    assert code == 0
    history = json.loads(out)
    assert history["test_accuracy"]["tensor"][1] > history["test_accuracy"]["tensor"][0]
    assert history["provenance"]["objective"]["num_params"] == 421_834
