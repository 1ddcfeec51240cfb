"""Which examples a subset takes."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.rng import generator


def draw_subset(num_examples: int, batch_size: int | None, n: int, seed: int) -> Tensor:
    """Indices of about `n` examples: of whole batches, where the loss depends on the partition."""
    check_count("n", n)
    if n > num_examples:
        raise ValueError(f"`n` must be at most the {num_examples} examples there are, got {n}.")
    rng = generator(seed, "subset")
    if batch_size is None:
        return draw_examples(num_examples, n, rng)
    return draw_batches(num_examples, batch_size, n, rng)


def draw_examples(num_examples: int, n: int, rng: torch.Generator) -> Tensor:
    """Indices ``(n,)`` drawn without replacement, in ascending order."""
    return torch.randperm(num_examples, generator=rng)[:n].sort().values


def draw_batches(num_examples: int, batch_size: int, n: int, rng: torch.Generator) -> Tensor:
    """Indices of whole batches of the partition, as many as come closest to `n` examples (at least one).

    A short last batch of r examples is taken with probability ((c - 1) B + r) / N rather than that of the
    others, c being the number of batches drawn: so the chance of a choice is proportional to the examples
    in it, and the mean over them is unbiased (Midzuno 1952).
    """
    num_full, short = divmod(num_examples, batch_size)
    count = num_full + 1 if n > num_full * batch_size + short / 2 else max(1, round(n / batch_size))
    with_short = short > 0 and float(torch.rand((), generator=rng, dtype=torch.float64)) * num_examples < (
        (count - 1) * batch_size + short
    )
    full = torch.randperm(num_full, generator=rng)[: count - with_short].sort().values
    # The short batch stays last, so that the subset falls into the same batches.
    starts = [*(full * batch_size).tolist(), *([num_full * batch_size] if with_short else [])]
    return torch.cat([torch.arange(s, min(s + batch_size, num_examples)) for s in starts])


def random_order(num_examples: int, unit_size: int, rng: torch.Generator) -> Tensor:
    """All units in an order whose every beginning is a sample of them; a unit is an example or a batch.

    The first is drawn with a chance proportional to its examples, the others as they come: the mean over
    the examples of the first so many is then unbiased, however short the last batch (Midzuno 1952).
    """
    num_units = -(-num_examples // unit_size)
    order = torch.randperm(num_units, generator=rng)
    first = int(torch.randint(num_examples, (), generator=rng)) // unit_size
    return torch.cat([torch.tensor([first]), order[order != first]])


def examples_of(units: Tensor, unit_size: int, num_examples: int) -> Tensor:
    """Indices of the examples of these units, ascending, so that a short last batch stays last."""
    index = (units.sort().values[:, None] * unit_size + torch.arange(unit_size)).flatten()
    return index[index < num_examples]
