"""Moments of a training run at which its network is measured: by epoch, by step, by the loss reached."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

# Before the first step: the network as it is built.
START = "start"

FORMS = "'end', 'start', 'epoch N', 'step N' or 'loss X'"


@dataclass(frozen=True)
class Moment:
    """When to measure.

    Parameters
    ----------
    kind
        ``"epoch"``, ``"step"``, or ``"loss"`` for the first look at which the training loss is no larger.
    number
        Which; None for the last epoch.
    """

    kind: Literal["epoch", "step", "loss"]
    number: float | None

    @property
    def name(self) -> str:
        """As study files and tables have it."""
        if self.kind == "epoch" and self.number is None:
            return "end"
        if self.kind == "step" and self.number == 0:
            return START
        return f"{self.kind} {self.number:g}"

    def step(self, steps_per_epoch: int, epochs: int) -> int | None:
        """The step it comes after, where the run's length tells; None for a loss.

        Raises
        ------
        ValueError
            If the run is not so long.
        """
        if self.kind == "loss":
            return None
        number = epochs if self.number is None else int(self.number)
        step = number * steps_per_epoch if self.kind == "epoch" else number
        if step > epochs * steps_per_epoch:
            raise ValueError(
                f"`moments` must lie within the run of {epochs} epochs, {epochs * steps_per_epoch} steps, "
                f"got {self.name!r}."
            )
        return step


def in_order(moments: Iterable[str], losses: Mapping[str, float]) -> list[str]:
    """Moments of one run in the order of its training.

    A moment ``loss X`` comes before the first of the others at which the loss was no larger than X, and
    before the end, wherever the loss went after it.

    Parameters
    ----------
    moments
        Names, of epochs or of steps; of the two together names do not tell the order.
    losses
        Training losses at the moments, with running statistics, as ``loss X`` is looked for.

    Examples
    --------
    >>> in_order(["end", "loss 0.5", "epoch 10", "epoch 2"], {"epoch 2": 0.9, "epoch 10": 0.4, "end": 0.3})
    ['epoch 2', 'loss 0.5', 'epoch 10', 'end']
    >>> in_order(["end", "loss 0.5", "loss 0.3"], {"end": 0.35})
    ['loss 0.5', 'loss 0.3', 'end']
    """
    by_name = {name: parsed(name) for name in moments}

    def place(name: str) -> tuple[bool, float]:
        number = by_name[name].number
        return number is None, number or 0.0

    found = sorted((name for name in by_name if by_name[name].kind != "loss"), key=place)
    for name in sorted(set(by_name) - set(found), key=lambda name: -place(name)[1]):
        bound = place(name)[1]
        below = (
            i
            for i, other in enumerate(found)
            if by_name[other].name == "end" or losses.get(other, math.inf) <= bound
        )
        found.insert(next(below, len(found)), name)
    return found


def parsed(text: str) -> Moment:
    """The moment that a text names.

    Raises
    ------
    ValueError
        If it names none.

    Examples
    --------
    >>> parsed("epoch 2"), parsed("end").name
    (Moment(kind='epoch', number=2.0), 'end')
    """
    if text == "end":
        return Moment("epoch", None)
    if text == START:
        return Moment("step", 0.0)
    match = re.fullmatch(r"(epoch|step) +(\d+)|(loss) +(\d*\.?\d+(?:[eE][+-]?\d+)?)", text)
    if match:
        kind, number = (match[1], match[2]) if match[1] else (match[3], match[4])
        if float(number) > 0 or kind == "step":
            return Moment(kind, float(number))  # type: ignore[arg-type]
    raise ValueError(f"a moment is {FORMS}, got {text!r}")
