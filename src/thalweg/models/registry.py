"""Models by name, ``"small_cnn_bn"``, ``"small_cnn"`` or ``"module:callable"``, each from its own stream."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from thalweg.core.imports import import_callable, naming
from thalweg.core.registry import Registry
from thalweg.core.rng import preserved_global_rng, stream_seed
from thalweg.models.small_cnn import SmallCNN

Builder = Callable[..., nn.Module]

_MODELS: Registry[Builder] = Registry(
    {
        "small_cnn_bn": functools.partial(SmallCNN, batch_norm=True),
        "small_cnn": functools.partial(SmallCNN, batch_norm=False),
    }
)


def register_model(name: str, builder: Builder) -> None:
    """Make a model known by `name`; `builder`, called without arguments or with those that are asked for,
    returns an ``nn.Module``.

    Raises
    ------
    ValueError
        If the name is empty, taken, or has a colon in it.
    """
    _MODELS.add(name, builder)


def model_names() -> tuple[str, ...]:
    """Names of the registered models."""
    return _MODELS.names


def build_model(name: str, seed: int, **arguments: Any) -> nn.Module:
    """Build a model, initialised from the stream ``"init"`` of `seed`; no global generator moves.

    Parameters
    ----------
    name
        A registered name, or ``"module:callable"``, which is imported and called: a function or an
        ``nn.Module`` class.
    seed
        The same seed gives the same bits. Training with the same seed draws its data order from another
        stream.
    arguments
        What it is called with; nothing by default.

    Raises
    ------
    ValueError
        If the name is unknown, cannot be imported, or what it names raises something.
    TypeError
        If what was built is not an ``nn.Module``.

    Examples
    --------
    >>> sum(p.numel() for p in build_model("small_cnn_bn", seed=1).parameters())
    421834
    """
    builder = _MODELS[name] if name in _MODELS else import_callable(name, "model", model_names())
    return seeded_model(lambda: builder(**arguments), seed, "model", name)


def seeded_model(builder: Builder, seed: int, argument: str, label: str) -> nn.Module:
    """What `builder` builds from the stream ``"init"`` of `seed`; no global generator moves.

    Parameters
    ----------
    builder
        Called without arguments.
    seed
        The same seed gives the same bits.
    argument, label
        The argument it came from and what it is called, for messages.

    Raises
    ------
    ValueError
        If it raises something.
    TypeError
        If what was built is not an ``nn.Module``.
    """
    init = stream_seed(seed, "init")
    with preserved_global_rng():
        # Layers draw from torch's global generator; own builders may use the other two as well.
        torch.manual_seed(init)
        np.random.seed(init % 2**32)  # noqa: NPY002 - it is the global generator that must be set
        random.seed(init)
        with naming(argument, label):
            model = builder()
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`{argument}` must build a torch.nn.Module, but {label!r} returned {type(model).__name__}."
        )
    return model
