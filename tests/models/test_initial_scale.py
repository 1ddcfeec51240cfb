"""The scale of initial weights, of any model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.models.initial_scale import scale_initial_weights
from thalweg.models.registry import build_model


def test_weights_are_scaled_and_vectors_are_not() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(4), shared, nn.ReLU(), shared
    )
    network(torch.zeros(2, 1, 5, 5))
    frozen = nn.Linear(4, 2)
    frozen.weight.requires_grad_(False)
    network.append(frozen)
    network.append(nn.Embedding(3, 2))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    assert scale_initial_weights(network, 2.5) is network
    for name, parameter in network.named_parameters():
        is_weight = parameter.ndim >= 2 and parameter.requires_grad
        # The shared layer once: 2.5, not 6.25.
        assert torch.equal(parameter, (2.5 if is_weight else 1.0) * before[name]), name
    assert sum(p.ndim >= 2 for p in network.parameters()) == 5


def test_one_changes_no_bit_and_relu_networks_grow_with_each_layer() -> None:
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    plain, same = (build_model("small_cnn", 1, width=4) for _ in range(2))
    scale_initial_weights(same, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), same.parameters(), strict=True))
    for network in (plain, same):
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
    # Homogeneous without biases: four layers.
    torch.testing.assert_close(scale_initial_weights(same, 2.0)(images), 16 * plain(images))


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), True])
def test_scales_that_are_none(scale: float) -> None:
    with pytest.raises(ValueError, match="`scale` must be a finite number above 0"):
        scale_initial_weights(nn.Linear(2, 2), scale)
