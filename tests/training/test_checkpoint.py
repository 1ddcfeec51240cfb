"""Weights in the forms in which users have them, and the errors that name what does not fit."""

import json
import os
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from thalweg.training.checkpoint import Checkpoint, load_weights, save_weights


class Net(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)
        if tied:
            self.out = nn.Linear(4, 4, bias=False)
            self.out.weight = self.head.weight


def make(seed, tied=False):
    torch.manual_seed(seed)
    net = Net(tied)
    net.norm.running_mean.normal_()
    net.norm.num_batches_tracked.fill_(seed)
    return net


def same(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def _write_safetensors(path, state):
    save_file({k: v.contiguous() for k, v in state.items()}, path)


FORMS = {
    "w.safetensors": _write_safetensors,
    "w.pt": lambda path, state: torch.save(state, path),
    "w.pth": lambda path, state: torch.save({"epoch": 3, "model_state_dict": state, "lr": 0.1}, path),
    "w.bin": lambda path, state: torch.save({"state_dict": state}, path),
    "w.ckpt": lambda path, state: torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path),
    "compiled.pt": lambda path, state: torch.save({f"_orig_mod.{k}": v for k, v in state.items()}, path),
    "ddp.pt": lambda path, state: torch.save({f"module._orig_mod.{k}": v for k, v in state.items()}, path),
    "old.pt": lambda path, state: torch.save(state, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", FORMS)
def test_loads_the_forms_that_people_have(tmp_path, name):
    source, target = make(1), make(2)
    FORMS[name](tmp_path / name, source.state_dict())
    load_weights(tmp_path / name, target)
    assert same(source, target)


def test_export_is_plain_safetensors_and_readable_by_others(tmp_path):
    source, target = make(1).to(memory_format=torch.channels_last), make(2)
    path = tmp_path / "new" / "w.safetensors"
    save_weights(path, source)
    target.load_state_dict(load_file(path))
    assert same(source, target)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_tied_weights_survive_both_ways(tmp_path):
    source, target, third = make(1, tied=True), make(2, tied=True), make(3, tied=True)
    save_weights(tmp_path / "ours.safetensors", source)
    load_weights(tmp_path / "ours.safetensors", target)
    assert same(source, target)
    save_model(source, tmp_path / "theirs.safetensors")  # keeps one name of the two
    load_weights(tmp_path / "theirs.safetensors", third)
    assert same(source, third)
    assert third.out.weight is third.head.weight


def test_a_module_named_module_keeps_its_prefix(tmp_path):
    source, target = nn.ModuleDict({"module": make(1)}), nn.ModuleDict({"module": make(2)})
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(tmp_path / "w.pt", target)
    assert same(source, target)


def test_weights_are_cast_to_the_models_dtype(tmp_path):
    source, target = make(1), make(2).double()
    save_weights(tmp_path / "w.safetensors", source)
    load_weights(tmp_path / "w.safetensors", target)
    assert target.head.weight.dtype == torch.float64
    assert same(source.double(), target)


def altered(**changes):
    state = dict(make(1).state_dict())
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (altered(head__bias=None), r"does not fit Net: it lacks head\.bias\.$"),
        (altered(extra=torch.zeros(2)), r"does not fit Net: it has unexpected extra\.$"),
        (
            altered(head__bias=None, extra=torch.zeros(2)),
            r"it lacks head\.bias and has unexpected extra\.$",
        ),
        (
            altered(head__weight=torch.zeros(4, 5)),
            r"it has head\.weight of shape \(4, 5\) instead of \(4, 4\)\.$",
        ),
        (
            {"a": torch.zeros(1)},
            r"lacks conv\.weight, conv\.bias, norm\.weight and 6 more and has unexpected a\.$",
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_is_loaded(tmp_path, suffix, state, message):
    path = tmp_path / f"w.{suffix}"
    FORMS["w.safetensors" if suffix == "safetensors" else "w.pt"](path, state)
    target, before = make(2), make(2)
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(path, target)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert same(target, before)


class Evil:
    def __reduce__(self):
        return os.system, ("echo pwned",)


def test_unreadable_files_say_so_in_one_line(tmp_path, capfd):
    bad = {
        "missing.pt": None,
        "missing.safetensors": None,
        "empty.pt": b"",
        "empty.safetensors": b"",
        "text.pt": b"hello, world",
        "text.safetensors": b"hello, world",
        "zip.pt": b"PK\x03\x04" + bytes(50),
    }
    for name, content in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(make(1), tmp_path / "module.pt")
    torch.save({"w": torch.zeros(1), "lr": 0.1}, tmp_path / "mixed.pt")
    messages = {
        "evil.pt": "cannot be read as a torch file of weights alone",
        "module.pt": "cannot be read as a torch file of weights alone",
        "list.pt": "must hold a state dictionary, got list",
        "mixed.pt": "must hold tensors alone, but lr is none",
    }
    for name in [*bad, *messages]:
        message = messages.get(name, "is not a file" if bad.get(name) is None else "cannot be read as")
        with pytest.raises(ValueError, match=message) as caught:
            load_weights(tmp_path / name, make(2))
        assert "\n" not in str(caught.value)
    assert "pwned" not in capfd.readouterr().out


# -- whole runs ---------------------------------------------------------------------------------------


def test_a_checkpoint_brings_everything_back(tmp_path):
    net = make(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.025
    random.gauss(0, 1)  # leaves a pending Gaussian number in Python's and NumPy's generators
    np.random.standard_normal()  # noqa: NPY002
    Checkpoint.capture(net, optimizer, {"step": 7, "rows": [{"loss": 0.1}]}).save(tmp_path / "c")
    draws = torch.rand(3), np.random.standard_normal(3), [random.gauss(0, 1) for _ in range(3)]  # noqa: NPY002

    other = make(2).to(memory_format=torch.channels_last)
    other_optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    loaded = Checkpoint.load(tmp_path / "c")
    loaded.restore(other, other_optimizer)
    assert same(net, other)
    assert (loaded.header["step"], loaded.header["rows"]) == (7, [{"loss": 0.1}])
    assert other_optimizer.param_groups[0]["lr"] == 0.025
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        a, b = optimizer.state[p]["momentum_buffer"], other_optimizer.state[q]["momentum_buffer"]
        assert torch.equal(a, b)
        assert b.stride() == q.stride()
    assert torch.equal(torch.rand(3), draws[0])
    assert np.array_equal(np.random.standard_normal(3), draws[1])  # noqa: NPY002
    assert [random.gauss(0, 1) for _ in range(3)] == draws[2]


def test_a_checkpoint_is_one_file_of_tensors_and_json(tmp_path):
    net = make(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)  # without momentum there are no buffers
    Checkpoint.capture(net, optimizer, {"step": 1}).save(tmp_path / "c")
    with safe_open(tmp_path / "c", framework="pt") as file:
        assert json.loads(file.metadata()["thalweg_checkpoint"])["step"] == 1
        assert "model/head.weight" in file.keys()  # noqa: SIM118
    Checkpoint.load(tmp_path / "c").restore(net, optimizer)
    (tmp_path / "c").rename(tmp_path / "c.safetensors")
    target = make(2)
    load_weights(tmp_path / "c.safetensors", target)  # a checkpoint gives its model
    assert same(net, target)


def test_other_files_are_no_checkpoints(tmp_path):
    save_weights(tmp_path / "w.safetensors", make(1))
    with pytest.raises(ValueError, match=r"w\.safetensors is no checkpoint of a training run"):
        Checkpoint.load(tmp_path / "w.safetensors")


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"n": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match=r"keeps state that is no tensor \(_extra_state\); make it a buffer"):
        save_weights(tmp_path / "w", Odd(2, 2))
