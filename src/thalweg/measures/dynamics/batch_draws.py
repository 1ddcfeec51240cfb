"""Which examples a step of SGD sees, and what that makes of the noise of its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_one_of
from thalweg.objective.objective import Objective
from thalweg.objective.sampling import examples_of

Sampling = Literal["replacement", "without_replacement", "epochs"]


def checked_batch_size(objective: Objective, in_batches: bool, asked: int | None) -> int:
    """B; a batch of a short partition is all the examples.

    Raises
    ------
    ValueError
        If there are not so many examples, or whole batches are the units and have another size.
    """
    if asked is None:
        return min(objective.batch_size, objective.num_examples)
    check_count("batch_size", asked)
    if in_batches and asked != objective.batch_size:
        raise ValueError(
            f"`batch_size` must be the objective's own, {objective.batch_size}, with batch_norm='batch', "
            "where noise is that of whole batches and belongs to their size, "
            f"got {asked}; build the objective with batch_size={asked}."
        )
    if asked > objective.num_examples:
        raise ValueError(
            f"`batch_size` must be at most the {objective.num_examples} examples that batches are drawn "
            f"from, got {asked}."
        )
    return int(asked)


@dataclass(frozen=True)
class BatchDraws:
    r"""Draws of b of U units, which are examples or whole batches of the partition, for each step.

    Their mean gradient is that of all in expectation, and its covariance that of one unit's times

    .. math:: \frac1b \text{ with replacement}, \qquad \frac{U - b}{b\, (U - 1)} \text{ without.}

    Parameters
    ----------
    num_examples
        N.
    batch_size
        Examples in a step.
    in_batches
        Whether the units are whole batches, of which a step takes one.
    sampling
        ``"replacement"``: a unit in proportion to its examples; ``"without_replacement"``: none twice in a
        step, each step from all; ``"epochs"``: the next ones of a shuffled pass over the data, as loaders
        make them, less what is left over at its end.

    Raises
    ------
    ValueError
        If `sampling` is none of these, or would take units of several sizes each once.
    """

    num_examples: int
    batch_size: int
    in_batches: bool = False
    sampling: Sampling = "replacement"

    def __post_init__(self) -> None:
        check_one_of("sampling", self.sampling, get_args(Sampling))
        if self.sampling != "replacement" and self._short:
            raise ValueError(
                f"`sampling` must be 'replacement' where the last batch of the partition has {self._short} "
                f"examples and the others {self.batch_size}, got {self.sampling!r}: it would count for more "
                "than its examples; drop them."
            )

    @classmethod
    def of(cls, objective: Objective, batch_size: int | None, sampling: Sampling) -> BatchDraws:
        """From the examples of an objective, or from its batches under batch statistics."""
        in_batches = objective.batch_norm == "batch" and objective.has_batch_norm
        size = checked_batch_size(objective, in_batches, batch_size)
        return cls(objective.num_examples, size, in_batches, sampling)

    @property
    def num_units(self) -> int:
        """U."""
        return -(-self.num_examples // self.batch_size) if self.in_batches else self.num_examples

    @property
    def num_drawn(self) -> int:
        """b."""
        return 1 if self.in_batches else self.batch_size

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return self.num_units // self.num_drawn

    @property
    def variance_factor(self) -> float:
        """What the covariance of a unit's gradient is to be multiplied by for a step's."""
        U, b = self.num_units, self.num_drawn
        if self.sampling == "replacement":
            return 1 / b
        return (U - b) / (b * (U - 1)) if b < U else 0.0  # all that there is has no noise

    @property
    def correlation(self) -> float:
        """Of the noises of two steps of one epoch, along any direction: -b / (U - b); else nought."""
        U, b = self.num_units, self.num_drawn
        return -b / (U - b) if self.sampling == "epochs" and b < U else 0.0

    def __call__(self, rng: torch.Generator) -> Iterator[Tensor]:
        """Indices of the examples of each step, without an end."""
        for units in self._units(rng):
            yield examples_of(units, self.batch_size if self.in_batches else 1, self.num_examples)

    def _units(self, rng: torch.Generator) -> Iterator[Tensor]:
        U, b = self.num_units, self.num_drawn
        while True:
            if self.sampling == "epochs":
                yield from torch.randperm(U, generator=rng)[: self.num_steps * b].split(b)
            elif self.sampling == "without_replacement":
                yield torch.randperm(U, generator=rng)[:b]
            elif self.in_batches:  # the batch that an example drawn at random is in
                yield torch.randint(self.num_examples, (1,), generator=rng) // self.batch_size
            else:
                yield torch.randint(U, (b,), generator=rng)

    @property
    def _short(self) -> int:
        """Examples in a last batch that is shorter than the others; nought if none is."""
        return self.num_examples % self.batch_size if self.in_batches else 0
