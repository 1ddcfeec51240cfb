"""The noise's trace of networks as users write them, against one example's gradient after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import networks
from torch import Tensor, nn

import thalweg as tw
from thalweg.core.errors import DerivativeError

NUM_TOKENS, LENGTH, N = 7, 6, 13


class Recurrent(nn.Module):
    """Tokens embedded, a recurrent layer that takes positions first, the last state read out."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM | nn.RNN], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_TOKENS, 4)
        self.cell = kind(4, 5, **options)
        self.head = nn.Linear(5 * (1 + self.cell.bidirectional), 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(ids).transpose(0, 1))[0][-1])


class Spoken(nn.Module):
    """A recurrent layer between an embedding and an output layer that are one weight, at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_TOKENS, 5)
        self.cell = nn.GRU(5, 5, batch_first=True)
        self.out = nn.Linear(5, NUM_TOKENS, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.cell(self.embed(ids))[0]).transpose(1, 2)


class PositionsFirst(nn.Module):
    """Attention over positions that come first: what a layer sees first are not examples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_TOKENS, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.embed(ids).transpose(0, 1)).mean(0))


class PositionsFirstDense(nn.Module):
    """The same of dense layers alone, whose gradients' lengths would be told by their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x.transpose(0, 1)))).mean(0)


class Grouped(nn.Module):
    """Group norm, a convolution in groups, and a scale that is used by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.gelu(self.norm(self.conv(x)))
        return self.head((self.scale * self.depthwise(x)).mean((2, 3)))


def built(build: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        networks.seeded(0)
        return build().double().eval()


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(NUM_TOKENS, (N, length), generator=torch.Generator().manual_seed(1))


def normal(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


CLASSES = torch.arange(N) % 3

# name: network, inputs, targets.
ODD: dict[str, tuple[Any, Tensor, Tensor]] = {
    "gru": (lambda: Recurrent(nn.GRU), tokens(), CLASSES),
    "lstm of two layers, both ways": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        tokens(),
        CLASSES,
    ),
    "rnn": (lambda: Recurrent(nn.RNN), tokens(), CLASSES),
    "tied, each position a target": (Spoken, tokens(), tokens().roll(-1, 1)),
    "positions first": (PositionsFirst, tokens(), CLASSES),
    # As many positions as examples, so that no shape gives them away.
    "positions first, as many as examples": (PositionsFirst, tokens(N), CLASSES),
    "dense, positions first": (PositionsFirstDense, normal(LENGTH, 2), CLASSES),
    "dense, positions first, as many as examples": (PositionsFirstDense, normal(N, 2), CLASSES),
    "groups": (Grouped, normal(1, 8, 8), CLASSES),
}


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``(N, P)``: by plain reverse mode on the user's own network."""
    params = list(model.parameters())
    rows = []
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params)]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ODD)
def test_trace_and_scale(name: str) -> None:
    build, x, y = ODD[name]
    model = built(build)
    G = gradients(model, x, y)
    deviations = G - G.mean(0)
    trace, square = float(deviations.square().sum()) / N, float(G.mean(0).square().sum())
    found = tw.gradient_noise(tw.Objective(model, (x, y)), k=0, seed=0)
    assert found.value == pytest.approx(trace, rel=1e-10)
    assert found.gradient_square == pytest.approx(square, rel=1e-10)
    # A part of the examples, and another division of the work, are no other numbers.
    again = tw.gradient_noise(tw.Objective(model, (x, y), micro_batch=4), k=0, seed=0)
    assert again.value == pytest.approx(trace, rel=1e-10)


@pytest.mark.parametrize("name", ["gru", "tied, each position a target", "groups"])
def test_directions(name: str) -> None:
    build, x, y = ODD[name]
    model = built(build)
    G = gradients(model, x, y)
    deviations = G - G.mean(0)
    spectrum = torch.linalg.svdvals(deviations).square() / N
    found = tw.gradient_noise(tw.Objective(model, (x, y)), k=2, against=(), rtol=1e-8, seed=0)
    torch.testing.assert_close(found.eigenvalues, spectrum[:2], rtol=1e-7, atol=0)


class Centred(nn.Module):
    """Subtracts the batch's own mean, by hand: no layer tells that examples depend on one another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        return self.head(torch.tanh(hidden - hidden.mean(0)))


def test_examples_that_depend_on_one_another_are_refused() -> None:
    with pytest.raises(DerivativeError, match="depend on the others of its batch"):
        tw.gradient_noise(tw.Objective(built(Centred), (normal(2), CLASSES)), k=0, seed=0)
