"""A run of SGD at a constant rate, followed along a few directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.precision import full_precision
from thalweg.measures.dynamics.constant_rate import ConstantRate


@dataclass(frozen=True)
class Walk:
    """Where a run went, relative to where it began.

    Parameters
    ----------
    positions
        ``(steps, k, ...)`` float64: after each step, along the directions.
    slopes
        The same of the gradients that the steps were made of.
    loss_steps, losses
        ``(R,)`` int64 and float64: the loss over all the data after these steps, the first of them 0.
    halves
        ``(2, P, ...)``: mean offset over either half of the steps after the burn-in.
    diverged_at
        The step at which loss or gradient were not finite, or the loss was seen beyond its ceiling; None if
        none was.
    """

    positions: Tensor
    slopes: Tensor
    loss_steps: Tensor
    losses: Tensor
    halves: Tensor
    diverged_at: int | None


def constant_rate_walk(
    start: Tensor,
    directions: Tensor,
    rule: ConstantRate,
    gradient: Callable[[Tensor, Tensor], Tensor],
    loss: Callable[[Tensor], float],
    batches: Iterator[Tensor],
    *,
    burn_in: int,
    num_steps: int,
    loss_every: int,
    ceiling: float = math.inf,
    on_step: Callable[[bool], None] | None = None,
) -> Walk:
    """Make `burn_in` and then `num_steps` steps, from rest.

    Parameters
    ----------
    start
        ``(P, ...)``: where it begins; several runs side by side are further dimensions.
    directions
        ``(P, k)``.
    rule
        How steps are made.
    gradient
        Of the parameters and a batch.
    loss
        Of the parameters.
    batches
        One for each step.
    loss_every
        Steps between evaluations of the loss.
    ceiling
        A loss above it counts as diverged; the last step is looked at in any case.
    on_step
        Called after each, with whether the loss was evaluated.

    Raises
    ------
    NonFiniteLossError
        If the loss is not finite at the start.
    """
    theta, velocity = start.clone(), torch.zeros_like(start)
    halves = torch.zeros(2, *start.shape, dtype=start.dtype, device=start.device)
    positions, slopes, losses, diverged_at = [], [], [loss(start)], None
    last = burn_in + num_steps
    for step in range(1, last + 1):
        evaluated = step % loss_every == 0
        try:
            slope = gradient(theta, next(batches))
            velocity.mul_(rule.momentum).add_(slope)
            theta.sub_(slope + rule.momentum * velocity if rule.nesterov else velocity, alpha=rule.lr)
            if evaluated:
                losses.append(_below(ceiling, loss(theta)))
            elif step == last:
                _below(ceiling, loss(theta))
        except NonFiniteLossError:
            diverged_at = step
            break
        offset = theta - start
        with full_precision():
            positions.append(directions.T @ offset)
            slopes.append(directions.T @ slope)
        if step > burn_in:
            # Running means, so that single precision loses nothing in long sums.
            half, count = divmod(step - burn_in - 1, -(-num_steps // 2))
            halves[half] += (offset - halves[half]) / (count + 1)
        if on_step:
            on_step(evaluated)
    shape = (0, directions.shape[1], *start.shape[1:])
    return Walk(
        positions=_stacked(positions, shape),
        slopes=_stacked(slopes, shape),
        loss_steps=loss_every * torch.arange(len(losses)),
        losses=torch.tensor(losses, dtype=torch.float64),
        halves=halves,
        diverged_at=diverged_at,
    )


def _stacked(rows: list[Tensor], empty: tuple[int, ...]) -> Tensor:
    return torch.stack(rows).cpu().double() if rows else torch.zeros(empty, dtype=torch.float64)


def _below(ceiling: float, loss: float) -> float:
    if not loss <= ceiling:
        raise NonFiniteLossError(f"the loss is {loss:.6g}, above {ceiling:.6g}")
    return loss
