"""A study that takes seconds: two small networks on 64 examples, in a module other processes can import."""

from __future__ import annotations

import textwrap
from pathlib import Path

MODULE = """
import torch
from torch import nn


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=g)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).long()
    return (x[:64], y[:64]), (x[64:], y[64:])


class Net(nn.Module):
    def __init__(self, width=4, batch_norm=False):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.second = nn.Linear(width, 2)

    def forward(self, x):
        return self.second(torch.tanh(self.norm(self.first(x))))


class Dying(Net):
    def forward(self, x):
        import os
        if self.training:
            os._exit(9)
        return super().forward(x)
"""

STUDY = """
name = "toy"
question = "Does it work?"
seeds = 2
moments = ["epoch 1", "end"]
[models]
bn = { build = "toy_networks:Net", arguments = { batch_norm = true } }
plain = "toy_networks:Net"
[data]
name = "toy_networks:data"
[training]
epochs = 2
lr = 0.1
batch_size = 16
[objective]
modes = ["running", "batch"]
batch_size = 16
[measures.sam_sharpness]
[measures.average]
measure = "average_sharpness"
arguments = { num_samples = 2 }
[pairs.barrier]
arguments = { num_points = 5 }
[[claims]]
name = "flatter"
measure = "sam_sharpness"
by = "model"
groups = ["bn", "plain"]
expect = "smaller"
margin = 1.5
primary = true
[presets.three]
seeds = 3
"""


def write_module(folder: Path) -> None:
    """Put ``toy_networks.py`` there."""
    (folder / "toy_networks.py").write_text(MODULE)


def write_study(folder: Path, more: str = "", **replaced: str) -> Path:
    """Put the study there: `more` at its end, lines replaced by others (keys are the lines' first words)."""
    lines = STUDY.strip().splitlines()
    for key, line in replaced.items():
        place = next(i for i, old in enumerate(lines) if old.split()[0] == key)
        lines[place] = line
    path = folder / "toy.toml"
    path.write_text("\n".join(lines) + "\n" + textwrap.dedent(more))
    return path
