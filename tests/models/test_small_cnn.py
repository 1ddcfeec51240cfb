"""The paper's network."""

import pytest
import torch
import torch.nn.functional as F

from thalweg.models.registry import build_model
from thalweg.models.small_cnn import SmallCNN


def as_the_paper_says(net, x):
    """Convolution, batch norm, ReLU, pooling, in that order."""
    x = F.max_pool2d(F.relu(net.norm1(net.conv1(x))), 2)
    x = F.max_pool2d(F.relu(net.norm2(net.conv2(x))), 2)
    return net.dense2(F.relu(net.dense1(x.flatten(1))))


@pytest.mark.parametrize(("batch_norm", "num_params"), [(True, 421_834), (False, 421_642)])
def test_size(batch_norm, num_params):
    net = SmallCNN(batch_norm)
    # By hand: 3x3 convolutions, dense layers, biases, and scale and shift of each normalised channel.
    assert 32 * 10 + 64 * (32 * 9 + 1) + 128 * (64 * 49 + 1) + 10 * 129 == 421_642
    assert sum(p.numel() for p in net.parameters()) == num_params
    assert net(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_width_and_classes():
    net = SmallCNN(batch_norm=True, width=3, num_classes=4)
    assert net.conv2.weight.shape == (6, 3, 3, 3)
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 4)


@pytest.mark.parametrize("name", ["small_cnn_bn", "small_cnn"])
@pytest.mark.parametrize("training", [True, False])
def test_pooling_before_relu_changes_no_bit(name, training):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 28, 28, generator=rng)
    # Constant patches make ties within pooling windows, where the two orders could have differed.
    x[:, :, :12] = 0.5
    results = []
    for forward in (lambda net, x: net(x), as_the_paper_says):
        net = build_model(name, seed=0).train(training)
        loss = forward(net, x).square().sum()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in net.parameters()), *net.buffers()])
    for ours, papers in zip(*results, strict=True):
        assert torch.equal(ours, papers)
