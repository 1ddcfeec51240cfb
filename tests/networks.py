"""Tiny networks shared by the tests: each has one thing that tools get wrong."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 3
IMAGE = (1, 6, 6)


def images(n: int = 21, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Examples ``(n, 1, 6, 6)`` and classes ``(n,)``; 21 leaves an uneven last batch for most sizes."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *IMAGE, generator=rng, dtype=torch.float64)
    return x.to(dtype), torch.randint(NUM_CLASSES, (n,), generator=rng)


def vectors(n: int = 21, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Examples ``(n, width)`` in float64 and classes ``(n,)``."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=rng, dtype=torch.float64)
    return x, torch.randint(NUM_CLASSES, (n,), generator=rng)


def tokens(n: int = 21, length: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Token numbers below 7 ``(n, length)`` and classes ``(n,)``."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(7, (n, length), generator=rng), torch.randint(NUM_CLASSES, (n,), generator=rng)


def shuffle_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every layer that keeps running statistics stale ones, far from those of any data."""
    rng = torch.Generator().manual_seed(seed)
    for module in model.modules():
        mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            mean.copy_(torch.randn(mean.shape, generator=rng))
            var.copy_(torch.rand(var.shape, generator=rng) + 0.5)
    return model


def built(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Affine parameters away from one and nought, stale statistics, a dtype."""
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return shuffle_statistics(model).to(dtype)


def seeded(seed: int) -> None:
    """Seed torch's global generator, from which layers are initialised."""
    torch.manual_seed(seed)


def cnn(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Two convolutions with batch norm between them, the first convolution frozen."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.Tanh(),
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(16, NUM_CLASSES),
        )
    model[0].requires_grad_(False)
    return cast(nn.Sequential, built(model, dtype))


class Residual(nn.Module):
    """Convolutions with batch norm around skip connections; the layers run in another order than named."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, NUM_CLASSES)
        self.norm3 = nn.BatchNorm1d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.conv1(x)))
        x = x + F.gelu(self.norm2(self.conv2(x)))
        return self.head(self.norm3(x.mean((2, 3))))


def residual(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Build `Residual`."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        return built(Residual(), dtype)


def mlp(seed: int = 0, width: int = 5, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Dense, tanh, dense: no normalisation."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        model = nn.Sequential(nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, NUM_CLASSES))
    return model.to(dtype)


class Tied(nn.Module):
    """An embedding whose weight is also that of the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(self.embed(ids).mean(1))))


def tied(seed: int = 0) -> Tied:
    """Build `Tied` in float64."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        return Tied().double()


class Attention(nn.Module):
    """One attention layer and a layer norm over token embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(x.mean(1))


def attention(seed: int = 0) -> Attention:
    """Build `Attention` in float64."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        return Attention().double()


class Outputs:
    """What many libraries' models return: an object with `.logits`."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class DictionaryInput(nn.Module):
    """Takes named tensors, returns an object with `.logits`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Outputs:
        mask = attention_mask.to(self.head.weight.dtype)[..., None]
        return Outputs(self.head(torch.tanh((self.embed(input_ids) * mask).sum(1))))


def dictionary_input(seed: int = 0) -> DictionaryInput:
    """Build `DictionaryInput` in float64."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        return DictionaryInput().double()


class Counting(nn.Module):
    """Each forward pass adds to an integer buffer, a floating one, and one that it rebinds."""

    calls: Tensor
    total: Tensor
    rebound: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, NUM_CLASSES)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("total", torch.zeros(5))
        self.register_buffer("rebound", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.total += x.detach().sum(0)
        self.rebound = self.rebound + 1
        return self.linear(x)


class WithUnused(nn.Module):
    """Has a parameter that no output depends on, and a scalar one."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.unused = nn.Parameter(torch.ones(2, 3))
        self.linear = nn.Linear(5, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x)


def with_unused(seed: int = 0) -> WithUnused:
    """Build `WithUnused` in float64."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        return WithUnused().double()


def with_dropout(seed: int = 0) -> nn.Sequential:
    """Dropout between two dense layers; in training mode, as built."""
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        return nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, NUM_CLASSES)).double()


class Noisy(nn.Module):
    """Adds random numbers whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + 0.1 * torch.randn_like(x))


class DrawsAndDiscards(nn.Module):
    """Moves the global generators in every pass although its outputs do not depend on them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3)
        return self.linear(x)
