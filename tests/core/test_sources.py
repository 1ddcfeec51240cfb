"""Files that decide what code does are known wherever they are imported from, and no others."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from thalweg.core.sources import source_identity

FILES = {
    "own_net.py": """
import torch
from torch import nn
from own_layers import act
from own_package import near

class Base(nn.Module):
    def forward(self, x):
        return helper(self.body(x))

class Net(Base):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 2)

def helper(x):
    from own_lazy import later
    return torch.tanh(x)
""",
    "own_layers.py": "import math\n\ndef act(x):\n    return x\n",
    "own_package/__init__.py": "",
    "own_package/near.py": "if True:\n    from . import far as other\n",
    "own_package/far.py": "SCALE = 1.0\n",
    "own_package/aside.py": "SCALE = 1.0\n",
    "own_lazy.py": "later = 1\n",
    "own_loss.py": "import own_layers\n\ndef loss(o, t):\n    return o - t\n",
}


@pytest.fixture
def identities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Those of the network and of the loss, after files were changed."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def read(**changed: str) -> list[str]:
        for name, text in FILES.items():
            (tmp_path / name).write_text(text + changed.get(Path(name).stem, ""))
        for name in [name for name in sys.modules if name.startswith("own_")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        net: Any = importlib.import_module("own_net").Net()
        loss = importlib.import_module("own_loss").loss
        return [source_identity(nn.Sequential(net, nn.ReLU())), source_identity(functools.partial(loss, t=0))]

    return read


@pytest.mark.parametrize(
    ("changed", "net", "loss"),
    [
        ("own_net", True, False),
        ("own_layers", True, True),
        ("near", True, False),
        ("far", True, False),
        ("aside", False, False),
        ("own_lazy", False, False),
        ("own_loss", False, True),
    ],
)
def test_a_file_counts_if_it_is_imported(
    identities: Callable[..., list[str]], changed: str, net: bool, loss: bool
) -> None:
    before, after = identities(), identities(**{changed: "# changed\n"})
    assert [a != b for a, b in zip(before, after, strict=True)] == [net, loss]
    assert identities() == before


def test_installed_code_is_none_of_the_users() -> None:
    nothing = source_identity()
    assert source_identity(nn.TransformerEncoderLayer(4, 2), torch.nn.functional.relu, len) == nothing
