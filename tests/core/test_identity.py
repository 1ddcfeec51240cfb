"""Code is told apart by what it does, and is the same in every run."""

from __future__ import annotations

import functools
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from thalweg.core.identity import code_identity


def scaled(factor):
    return lambda outputs, targets: factor * (outputs - targets).square().mean(1)


def closing_over(function):
    return lambda outputs, targets: function(outputs, targets)


def plain(outputs, targets):
    return (outputs - targets).abs().mean(1)


class Twisted(nn.Linear):
    def forward(self, x):
        return torch.tanh(super().forward(x))


DIFFERENT = [
    scaled(1.0),
    scaled(2.0),
    closing_over(plain),
    closing_over(scaled(1.0)),
    plain,
    functools.partial(plain, targets=0),
    functools.partial(plain, targets=1),
    lambda outputs, targets: (outputs + targets).sum(1),
    nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
    nn.Sequential(nn.Linear(2, 2), nn.Tanh()),
    nn.Linear(2, 2),
    Twisted(2, 2),
]


def test_different_code_has_different_identities() -> None:
    assert len({code_identity(thing) for thing in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize("make", [lambda: scaled(3.0), lambda: nn.Sequential(Twisted(2, 2), nn.ReLU())])
def test_made_twice_it_is_the_same(make) -> None:
    assert code_identity(make()) == code_identity(make())


STEEP = 2.0


class Scaled(nn.Module):
    """A factor that no printed structure shows, and a global."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x * STEEP


def by_a_global(outputs, targets):
    return STEEP * (outputs - targets).square().sum(1)


def test_plain_attributes_and_globals_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def identities() -> list[str]:
        return [code_identity(thing) for thing in (Scaled(1.0), nn.Sequential(Scaled(1.0)), by_a_global)]

    before = identities()
    assert identities() == before
    assert code_identity(Scaled(1.0)) != code_identity(Scaled(3.0))
    assert code_identity(nn.Sequential(Scaled(1.0))) != code_identity(nn.Sequential(Scaled(3.0)))
    assert code_identity(Scaled(1.0)) == code_identity(Scaled(1.0).eval())
    monkeypatch.setitem(globals(), "STEEP", 3.0)
    assert not set(before) & set(identities())


def test_without_source_the_bytecode_tells_apart() -> None:
    def compiled(text: str) -> types.FunctionType:
        namespace: dict[str, types.FunctionType] = {}
        exec(f"def f(outputs, targets): return {text}", namespace)
        return namespace["f"]

    a, b = compiled("outputs.abs().sum(1)"), compiled("outputs.exp().sum(1)")
    assert code_identity(a) != code_identity(b)
    assert code_identity(a) == code_identity(compiled("outputs.abs().sum(1)"))


def test_another_process_agrees() -> None:
    program = (
        "from torch import nn; from thalweg.core.identity import code_identity;"
        "print(code_identity(nn.TransformerEncoderLayer(4, 2)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == code_identity(nn.TransformerEncoderLayer(4, 2))
