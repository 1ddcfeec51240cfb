"""The paper's network: two convolutions and two dense layers, with or without batch norm."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_SIZE = 28
HIDDEN_UNITS = 128


class SmallCNN(nn.Module):
    """Convolutions of `width` and 2 `width` channels, each pooled by 2, then 128 hidden units.

    What the paper leaves open: 3 x 3 kernels with padding 1, batch norm after each convolution and before its
    ReLU, biases everywhere. With the defaults P = 421,834 with batch norm and 421,642 without.

    Parameters
    ----------
    batch_norm
        Whether each convolution is followed by batch norm.
    width
        Channels of the first convolution.
    num_classes
        Outputs, C.

    References
    ----------
    Kambale (2025), "Loss Landscape Geometry & Optimization Dynamics in Neural Networks", section 3.2.
    """

    def __init__(self, batch_norm: bool, width: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, kernel_size=3, padding=1)
        self.norm1 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, 2 * width, kernel_size=3, padding=1)
        self.norm2 = nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity()
        self.dense1 = nn.Linear(2 * width * (IMAGE_SIZE // 4) ** 2, HIDDEN_UNITS)
        self.dense2 = nn.Linear(HIDDEN_UNITS, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)`` of images ``(B, 1, 28, 28)``."""
        # ReLU after the pooling instead of before: the same bits, since the two commute (and where a whole
        # window is negative, no gradient passes either way), on a quarter of the entries.
        x = F.relu(F.max_pool2d(self.norm1(self.conv1(images)), 2))
        x = F.relu(F.max_pool2d(self.norm2(self.conv2(x)), 2))
        return self.dense2(F.relu(self.dense1(x.flatten(1))))
