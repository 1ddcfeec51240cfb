r"""What the named losses say of the targets: p(y | f), a distribution whose negative logarithm they are.

``cross_entropy``
    Classes with probabilities softmax(f), independent over the positions of an example.
``mse``
    A Gaussian about f of variance D / 2 in each of an example's D outputs: the one whose negative logarithm
    is the *mean* square, up to a constant.

An example's loss is its negative log-likelihood over `num_positions`, which is more than one for dense
outputs under cross-entropy only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.core.rng import generator
from thalweg.objective.losses import IGNORED, cross_entropy, mse
from thalweg.objective.objective import Objective
from thalweg.operators.jacobians import Named

# Rows of random numbers that come from one generator.
DRAWN_TOGETHER = 64


class Likelihood(ABC):
    """p(y | f) for outputs f ``(B, ...)``; the targets say only what counts, and what shape labels have."""

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``(B,)``: the named loss."""

    @abstractmethod
    def information(self, outputs: Tensor, targets: Tensor) -> Named:
        """What `form` needs to know of the Fisher information M of the outputs, in units of the loss."""

    @abstractmethod
    def form(self, information: Named, outputs: Tensor) -> Tensor:
        """f.Mf / 2, summed over the examples."""

    @abstractmethod
    def slopes(self, information: Named, ahead: Tensor, behind: Tensor) -> Tensor:
        """``(B, R)`` whose squares add up to d.Md for d half the difference, to second order."""

    @abstractmethod
    def draw(self, outputs: Tensor, targets: Tensor, seed: int, start: int) -> Tensor:
        """Labels in the place of the targets of examples `start` and following."""

    @abstractmethod
    def num_positions(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """``(B,)``: independent labels that an example's loss is the mean over."""


class Categorical(Likelihood):
    """Of cross-entropy."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets)

    def information(self, outputs: Tensor, targets: Tensor) -> Named:
        counted = _counted(outputs, targets)
        positions = self.num_positions(targets, outputs).view(-1, *[1] * (counted.ndim - 1))
        return {"p": outputs.softmax(1), "weights": (counted / positions).unsqueeze(1)}

    def form(self, information: Named, outputs: Tensor) -> Tensor:
        p = information["p"]
        centred = outputs - (p * outputs).sum(1, keepdim=True)
        return (information["weights"] * p * centred.square()).sum() / 2

    def slopes(self, information: Named, ahead: Tensor, behind: Tensor) -> Tensor:
        change = (ahead.log_softmax(1) - behind.log_softmax(1)) / 2
        return ((information["weights"] * information["p"]).sqrt() * change).flatten(1)

    def draw(self, outputs: Tensor, targets: Tensor, seed: int, start: int) -> Tensor:
        cumulated = outputs.cpu().double().softmax(1).cumsum(1)
        u = _rows(torch.rand, seed, start, len(outputs), *outputs.shape[2:])
        labels = (cumulated <= u.unsqueeze(1)).sum(1).clamp(max=outputs.shape[1] - 1).to(outputs.device)
        return labels.where(_counted(outputs, targets), IGNORED)

    def num_positions(self, targets: Tensor, outputs: Tensor) -> Tensor:
        return _counted(outputs, targets).reshape(len(outputs), -1).sum(1).clamp(min=1).to(outputs.dtype)


class Gaussian(Likelihood):
    """Of the mean square."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return mse(outputs, targets)

    def information(self, outputs: Tensor, targets: Tensor) -> Named:
        return {}

    def form(self, information: Named, outputs: Tensor) -> Tensor:
        return outputs.square().sum() * len(outputs) / outputs.numel()

    def slopes(self, information: Named, ahead: Tensor, behind: Tensor) -> Tensor:
        # The expected square of the slope of (f - y)^2 / D along d, for y of variance D / 2, is 2 d.d / D.
        return (2 * mse(ahead / 2, behind / 2)).sqrt()[:, None]

    def draw(self, outputs: Tensor, targets: Tensor, seed: int, start: int) -> Tensor:
        noise = _rows(torch.randn, seed, start, len(outputs), *outputs.shape[1:])
        deviation = (outputs.numel() / len(outputs) / 2) ** 0.5
        return outputs + deviation * noise.to(outputs.dtype).to(outputs.device)

    def num_positions(self, targets: Tensor, outputs: Tensor) -> Tensor:
        return outputs.new_ones(len(outputs))


LIKELIHOODS: dict[str, Likelihood] = {"cross_entropy": Categorical(), "mse": Gaussian()}


def likelihood_of(objective: Objective) -> Likelihood:
    """What the objective's loss says of the targets.

    Raises
    ------
    ValueError
        If the loss is a callable, of which this is not known.
    """
    loss = objective.loss
    if loss.code is not None or loss.name not in LIKELIHOODS:
        raise ValueError(
            "`kind` 'exact' and 'monte_carlo' need a loss that is known to be a negative log-likelihood "
            f"({', '.join(map(repr, LIKELIHOODS))}), got the callable {loss.name}; name the loss, or use "
            "kind='empirical', which takes the labels as they are."
        )
    return LIKELIHOODS[loss.name]


def _counted(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which positions ``(B, ...)`` count: all, unless the targets are classes and one is marked."""
    if targets.ndim < outputs.ndim:
        return targets != IGNORED
    return torch.ones_like(outputs.select(1, 0), dtype=torch.bool)


def _rows(draw: Callable[..., Any], seed: int, start: int, count: int, *shape: int) -> Tensor:
    """Random rows ``(count, ...)`` in float64 on the CPU; row i is the same in whatever slice it comes."""
    first, last = start // DRAWN_TOGETHER, -(-(start + count) // DRAWN_TOGETHER)
    blocks = [
        draw(DRAWN_TOGETHER, *shape, generator=generator(seed, "labels", block), dtype=torch.float64)
        for block in range(first, last)
    ]
    skipped = start - first * DRAWN_TOGETHER
    return torch.cat(blocks)[skipped : skipped + count]
