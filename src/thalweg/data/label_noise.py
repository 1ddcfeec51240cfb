"""Labels that are wrong on purpose: what separates networks that memorise from those that generalise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.core.arguments import is_number
from thalweg.core.rng import generator


def with_label_noise(data: Any, share: float, *, seed: int) -> Any:
    """Give a share of the examples another class, drawn evenly from the other classes there are.

    Parameters
    ----------
    data
        Inputs and targets ``(N,)``, whole numbers from 0 to C - 1, C being one more than the largest. They
        stay as they are.
    share
        In [0, 1); so many of N, rounded, change their class. Which do so at a smaller share also do at a
        larger one.
    seed
        Of which examples and which classes.

    Returns
    -------
    data
        Inputs and new targets; `data` itself for a share of 0.

    Raises
    ------
    ValueError
        If the targets are no classes, or the share lies elsewhere.

    References
    ----------
    Zhang, Bengio, Hardt, Recht and Vinyals (2017), Understanding deep learning requires rethinking
    generalization, ICLR.
    """
    if not is_number(share) or not 0 <= share < 1:
        raise ValueError(f"`share` must lie in [0, 1), got {share!r}; 0.1 is a tenth of the labels.")
    if share == 0:
        return data
    targets = data[1] if isinstance(data, tuple | list) and len(data) == 2 else None
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise ValueError(
            "`data` must be a pair (inputs, targets) with whole numbers (N,) as targets to have label noise, "
            f"got {type(data).__name__}; noise your own data in the callable that returns them."
        )
    num_classes = int(targets.max()) + 1
    if num_classes < 2:
        raise ValueError("`data` must hold at least two classes to have label noise, got one.")
    rng = generator(seed, "label noise")
    chosen = torch.randperm(len(targets), generator=rng)
    shifts = torch.randint(1, num_classes, (len(targets),), generator=rng)
    chosen = chosen[: round(share * len(targets))]
    noisy = targets.clone()
    noisy[chosen] = (targets[chosen] + shifts[chosen].to(targets)) % num_classes
    return data[0], noisy
