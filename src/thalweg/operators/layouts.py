"""How the activations of images lie in memory: derivatives are laid out as what they are derivatives of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def is_channels_last(t: Tensor) -> bool:
    """Whether images ``(B, C, H, W)`` lie pixel by pixel, and not in the usual way as well."""
    return t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()


def empty_beside(t: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory for a tensor of that shape, laid out as `t`."""
    layout = torch.channels_last if is_channels_last(t) else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=t.dtype, device=t.device, memory_format=layout)
