"""Linear layers whose filters' lengths say nothing of their own, because batch norm follows.

Multiply a filter by a positive number. With batch statistics the loss does not change (epsilon apart). With
constant ones it changes as by the norm's own factor of that channel, so that one of the two is redundant.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from thalweg.core.rng import generator
from thalweg.objective.compilation import first_micro_batch
from thalweg.objective.isolation import isolated
from thalweg.objective.objective import Objective
from thalweg.operators.folding import Pair, adjacent_pairs, foldable_pairs

# In place of epsilon where it is left out: no variance is as small, and none is divided by nought.
NO_EPSILON = 1e-280


def normalised_pairs(objective: Objective) -> tuple[Pair, ...]:
    """Names of linear layers and of the batch norms right behind them, proved on one micro-batch.

    Only pairs whose parameters no other layer shares: a length that is used twice is not redundant.
    Recalibrated statistics are held.
    """
    objective = objective.frozen()
    uses = Counter(id(p) for _, p in objective.loss.model.named_parameters(remove_duplicate=False))

    def is_alone(name: str) -> bool:
        module = objective.loss.model.get_submodule(name)
        return all(uses[id(p)] == 1 for p in module.parameters(recurse=False))

    pairs = _scale_free_pairs(objective) if objective.batch_norm == "batch" else foldable_pairs(objective)
    return tuple(pair for pair in pairs if all(map(is_alone, pair)))


def _scale_free_pairs(objective: Objective) -> tuple[Pair, ...]:
    """Adjacent layers, under batch statistics, whose filters can be rescaled without changing a loss."""
    names = set(objective.space.names)
    with isolated(objective.device), torch.no_grad():
        model, micro = objective.loss.model, first_micro_batch(objective)
        pairs = adjacent_pairs(model, micro.losses, training=True)
        pairs = tuple(pair for pair in pairs if f"{pair[0]}.weight" in names)
        try:
            precise = objective.to_dtype(torch.float64)  # with a copy of the model, which is ours to change
            for _, norm in pairs:
                _set_epsilon(precise.loss.model.get_submodule(norm))
            return tuple(pair for pair in pairs if _is_scale_free(precise, pair[0]))
        except Exception:
            return ()  # a model may refuse float64


def _set_epsilon(norm: nn.Module) -> None:
    norm.eps = NO_EPSILON  # type: ignore[assignment]


def _is_scale_free(objective: Objective, linear: str) -> bool:
    named = {k: p.clone() for k, p in objective.named_params.items()}
    weight = named[f"{linear}.weight"]
    # Powers of two, which round nothing.
    powers = torch.randint(-1, 3, (len(weight),), generator=generator(0, "scale-free")).to(weight)
    weight *= torch.exp2(powers).view(-1, *[1] * (weight.ndim - 1))
    plain = first_micro_batch(objective).losses()
    scaled = first_micro_batch(objective.at(objective.space.flatten(named))).losses()
    # No loss at all proves nothing, nor does NaN, which compares as unequal.
    return float(plain.abs().max()) > 0 and bool(((plain - scaled).abs() <= 1e-9 * plain.abs().max()).all())
