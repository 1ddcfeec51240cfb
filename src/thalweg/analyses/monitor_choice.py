"""Which measures a monitor takes, of how much of the probe, and against which thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch.optim import SGD, Optimizer

from thalweg.analyses.monitor_readings import PRECONDITIONED, WATCHED
from thalweg.core.arguments import check_count, check_one_of
from thalweg.core.rng import generator
from thalweg.measures.sharpness.optimizer_match import held_parameters
from thalweg.measures.sharpness.optimizer_step import RULES
from thalweg.objective.examples import Examples
from thalweg.objective.objective import Objective
from thalweg.objective.sampling import draw_examples

# Of the probe at the least, where it is cut: fewer say little of the whole.
LEAST_EXAMPLES = 256

# Part of what is earned between measuring steps that loss and gradient of the probe may take.
GRADIENT_PART = 1 / 4


def probe_of(
    examples: Examples,
    num_examples: int | None,
    *,
    batch_size: int,
    every: int,
    max_overhead: float,
    seed: int,
) -> Examples:
    """The examples to be measured: as many as asked for, else as many as the overhead has room for.

    That is such that loss and gradient take a quarter of what is earned between two measuring steps, but at
    least 256 examples and two batches, in whole batches, and all where there is no limit; drawn once.
    """
    if num_examples is None:
        room = GRADIENT_PART * max_overhead * every * batch_size
        least = max(LEAST_EXAMPLES, 2 * batch_size)
        whole = math.inf if math.isinf(room) else math.ceil(max(room, least) / batch_size) * batch_size
        num_examples = int(min(whole, examples.num_examples))
    check_count("num_examples", num_examples)
    if num_examples > examples.num_examples:
        raise ValueError(
            f"`num_examples` must be at most the {examples.num_examples} examples of `data`, got "
            f"{num_examples}."
        )
    if num_examples == examples.num_examples:
        return examples
    return examples.take(draw_examples(examples.num_examples, num_examples, generator(seed, "probe")))


def measures_of(
    asked: Sequence[str] | None, objective: Objective, optimizer: Optimizer
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The measures asked for in the order of `WATCHED`, of all those that apply; which do not, and why."""
    if isinstance(asked, str):
        raise TypeError(f"`measures` must be a list of names, got {asked!r}; write [{asked!r}].")
    names, left_out = list(WATCHED) if asked is None else list(asked), {}
    for name in names:
        check_one_of("measures", name, WATCHED, some=True)
    for name, reason in _inapplicable(objective, optimizer).items():
        if name not in names:
            continue
        if asked is not None:
            raise ValueError(f"`measures` must not have {name!r} here: {reason}.")
        left_out[name] = reason
    chosen = tuple(name for name in WATCHED if name in names and name not in left_out)
    if PRECONDITIONED in chosen:
        held_parameters(objective, optimizer)
    return chosen, left_out


def _inapplicable(objective: Objective, optimizer: Optimizer) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if type(optimizer) not in RULES:
        known = ", ".join(rule.__name__ for rule in RULES)
        reasons[PRECONDITIONED] = (
            f"the update of {type(optimizer).__name__} and its stability are not known; known are {known}"
        )
    in_batches = objective.batch_norm == "batch" and objective.has_batch_norm
    if in_batches and objective.num_examples <= objective.batch_size:
        reasons["gradient_noise"] = (
            f"under batch statistics it is the noise of whole batches, and the probe of "
            f"{objective.num_examples} examples is one batch of {objective.batch_size}; take a larger "
            "probe, a smaller `batch_size`, or batch_norm='running'"
        )
    return reasons


def largest_lr(optimizer: Optimizer) -> float | None:
    """Of the groups'; None of an optimizer that has no such thing."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    return max((float(rate) for rate in rates if rate is not None), default=None)


def batch_threshold(optimizer: Optimizer) -> float | None:
    """2 / lr, at which the batch sharpness settles under plain SGD; of no other optimizer is that known."""
    if type(optimizer) is not SGD:
        return None
    groups = optimizer.param_groups
    rates = {float(g["lr"]) for g in groups}
    others = ("momentum", "weight_decay", "maximize")
    if len(rates) > 1 or any(g[key] for g in groups for key in others):
        return None
    (lr,) = rates
    return 2 / lr if lr > 0 else None
