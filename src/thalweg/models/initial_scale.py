"""The scale of a network's initial weights: an axis of studies that any model has."""

from __future__ import annotations

import math

import torch
from torch import nn


def scale_initial_weights(model: nn.Module, scale: float) -> nn.Module:
    """Multiply the weights of `model` by `scale`, in place, and return it.

    Weights are the trainable parameters of two dimensions or more: kernels of convolutions, matrices of
    linear layers, embeddings; whatever the layer's class, and tied ones once. Vectors stay: biases, and the
    gains and shifts of normalising layers. Where a normalising layer follows, its output does not change, and
    what the scale changes is how large a step of given length is beside the weights; elsewhere signals and
    gradients grow or shrink with each layer.

    Parameters
    ----------
    model
        As it was initialised.
    scale
        Above nought; 1 changes no bit.

    Raises
    ------
    ValueError
        If `scale` is not a finite number above 0.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    >>> _ = scale_initial_weights(layer, 0.5)
    >>> bool((layer.weight == 0.5 * before).all()), bool((layer.bias == bias).all())
    (True, True)
    """
    if isinstance(scale, bool) or not 0 < scale < math.inf:
        raise ValueError(f"`scale` must be a finite number above 0, got {scale}; 1 leaves the weights.")
    if scale != 1:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad and parameter.ndim >= 2:
                    parameter.mul_(scale)
    return model
