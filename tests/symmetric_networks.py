"""Networks whose function-preserving changes are known: what each allows, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tests.networks import NUM_CLASSES, built, images, seeded, tokens, vectors
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Block(nn.Module):
    """A residual block with batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Encoder(nn.Module):
    """Attention written by hand with four dense layers, and a ReLU layer; rotary positions if asked for."""

    def __init__(self, packing: str = "separate", rotary: bool = False, num_kv_heads: int = 2) -> None:
        super().__init__()
        width, self.num_heads = 8, 2
        self.packing, self.rotary, self.num_kv_heads = packing, rotary, num_kv_heads
        self.embed = nn.Embedding(7, width)
        self.norm = nn.LayerNorm(width)
        if packing == "separate":
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width, 4 * num_kv_heads)
            self.value = nn.Linear(width, 4 * num_kv_heads)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        B, T, _ = x.shape
        y = self.norm(x)
        if self.packing == "separate":
            q = self.query(y).view(B, T, self.num_heads, 4).transpose(1, 2)
            k, v = (
                layer(y).view(B, T, self.num_kv_heads, 4).transpose(1, 2) for layer in (self.key, self.value)
            )
            if self.num_kv_heads == 1:
                k, v = (t.expand(B, 2, T, 4) for t in (k, v))
        elif self.packing == "split":
            q, k, v = (t.view(B, T, self.num_heads, 4).transpose(1, 2) for t in self.qkv(y).split(8, dim=-1))
        else:
            q, k, v = self.qkv(y).reshape(B, T, 3, self.num_heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary:
            q, k = rotated(q), rotated(k)
        z = F.scaled_dot_product_attention(q, k, v) if self.packing == "unbind" else attend(q, k, v)
        x = x + self.out(z.transpose(1, 2).reshape(B, T, 8))
        x = x + self.down(F.relu(self.up(self.norm(x))))
        return self.head(x.mean(1))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of ``(B, H, T, d)``."""
    return (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v


def rotated(x: Tensor) -> Tensor:
    """Rotary positions on ``(B, H, T, 4)``."""
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :2], x[..., 2:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Torchs(nn.Module):
    """One of torch's own encoder layers over token embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(ids)).mean(1))


class TwoReaders(nn.Module):
    """One ReLU layer read by two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = (
            nn.Linear(5, 6),
            nn.Linear(6, NUM_CLASSES),
            nn.Linear(6, NUM_CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.1)
        return self.left(h) + torch.tanh(self.right(h))


class Leaking(TwoReaders):
    """One unit of the layer is also read where no trace sees it, as a number of NumPy's."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.1)
        return self.left(h) + torch.tanh(self.right(h)) * (1 + self.first.bias.detach().numpy()[0])


class Gated(TwoReaders):
    """The layer also gates: its scale matters, the order of its units does not."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        return self.left(h) + self.right(torch.sigmoid(h))


class Joined(nn.Module):
    """Two layers side by side, as in a dense net: beyond what is found, and nothing is made up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(10, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        return self.last(torch.cat([h, F.relu(self.second(h))], 1))


class Whitened(nn.Module):
    """A buffer of constants in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x) - self.mean))


class Recurrent(nn.Module):
    """A plain ReLU network over five steps: a weight between a layer and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 4, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[..., None])[0][:, -1])


def sequential(activation: type[nn.Module]) -> nn.Module:
    """Dense layers with biases."""
    return nn.Sequential(
        nn.Linear(5, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, NUM_CLASSES)
    )


def convolutional() -> nn.Module:
    """Batch norm, ReLU, pooling; flattened into a dense layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, NUM_CLASSES),
    )


def separable() -> nn.Module:
    """A depthwise convolution between two batch norms, and one in groups after a group norm."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, groups=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 1),
        nn.GroupNorm(2, 6),
        nn.GELU(),
        nn.Conv2d(6, 4, 2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, NUM_CLASSES),
    )


def instance() -> nn.Module:
    """Instance norm, whose affine weights torch repeats for each example, and padding by reflection."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.InstanceNorm2d(4, affine=True),
        nn.ReLU(),
        nn.ReflectionPad2d(1),
        nn.Conv2d(4, NUM_CLASSES, 3),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )


def residual() -> nn.Module:
    """Two blocks in a stream."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        Block(4),
        Block(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, NUM_CLASSES),
    )


def weight_normed() -> nn.Module:
    """Directions and lengths apart: the length of a unit's weights is a number of its own."""
    return nn.Sequential(
        weight_norm(nn.Conv2d(1, 4, 3)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        weight_norm(nn.Conv2d(4, 3, 2)),
        nn.ReLU(),
        nn.Flatten(),
        weight_norm(nn.Linear(27, 5)),
        nn.ReLU(),
        nn.Linear(5, NUM_CLASSES),
    )


RELU, NORM, ORDER, QK, VO = "relu_rescaling", "batch_norm_scaling", "permutation", "query_key", "value_output"


@dataclass(frozen=True)
class Case:
    """A network with its data and the number of places that each transformation has there."""

    build: Callable[[], nn.Module]
    data: Callable[[], Any]
    places: dict[str, int]

    def model(self) -> nn.Module:
        """The network in float64, its affine parameters and statistics away from the defaults."""
        with torch.random.fork_rng(devices=[]):
            seeded(3)
            return built(self.build()).eval()


CASES = {
    "relu": Case(lambda: sequential(nn.ReLU), vectors, {RELU: 2, ORDER: 2}),
    "leaky-relu": Case(lambda: sequential(nn.LeakyReLU), vectors, {RELU: 2, ORDER: 2}),
    "prelu": Case(lambda: sequential(nn.PReLU), vectors, {RELU: 2, ORDER: 2}),
    "gelu": Case(lambda: sequential(nn.GELU), vectors, {ORDER: 2}),
    "convolutional": Case(convolutional, images, {RELU: 2, NORM: 1, ORDER: 2}),
    "separable": Case(separable, images, {RELU: 3, NORM: 2, ORDER: 4}),
    "residual": Case(residual, images, {RELU: 3, NORM: 5, ORDER: 3}),
    # Weights that take units have their own length, so that no scale passes through but into the last.
    "weight-norm": Case(weight_normed, images, {RELU: 1, NORM: 1, ORDER: 3}),
    "instance-norm": Case(instance, images, {RELU: 1, ORDER: 1}),
    "glu": Case(lambda: nn.Sequential(nn.Linear(5, 8), nn.GLU(), nn.Linear(4, 3)), vectors, {ORDER: 1}),
    "two-readers": Case(TwoReaders, vectors, {RELU: 1, ORDER: 1}),
    "gated": Case(Gated, vectors, {ORDER: 1}),
    "joined": Case(Joined, vectors, {}),
    "recurrent": Case(Recurrent, vectors, {RELU: 1, ORDER: 1}),
    "torchs": Case(Torchs, tokens, {RELU: 1, ORDER: 5, QK: 1, VO: 1}),
    "separate": Case(Encoder, tokens, {RELU: 1, ORDER: 5, QK: 1, VO: 1}),
    "split": Case(lambda: Encoder("split"), tokens, {RELU: 1, ORDER: 5, QK: 1, VO: 1}),
    "unbind": Case(lambda: Encoder("unbind"), tokens, {RELU: 1, ORDER: 5, QK: 1, VO: 1}),
    "rotary": Case(lambda: Encoder(rotary=True), tokens, {RELU: 1, ORDER: 4, VO: 1}),
    "one-key": Case(lambda: Encoder(num_kv_heads=1), tokens, {RELU: 1, ORDER: 5, QK: 1, VO: 1}),
}
