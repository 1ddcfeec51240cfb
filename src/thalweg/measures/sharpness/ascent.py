"""Climbing the loss inside a ball around the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.progress import Progress
from thalweg.core.rng import generator
from thalweg.measures.sharpness.ball import Ball
from thalweg.objective.objective import Objective
from thalweg.objective.value_and_gradient import value_and_gradient


@dataclass(frozen=True)
class Visit:
    """A point visited: its perturbation ``(P,)``, the loss there, and the gradient ``(P,)`` if it was taken.

    The loss is that of `Objective.value`, L2 term included.
    """

    delta: Tensor
    loss: float
    gradient: Tensor | None = None

    @classmethod
    def centre(cls, objective: Objective) -> Visit:
        """Loss and gradient at the centre of the ball."""
        # The objective itself, not a copy of it: its recalibrated statistics may be known already.
        return cls(torch.zeros_like(objective.params), *value_and_gradient(objective))

    @classmethod
    def of(cls, objective: Objective, delta: Tensor) -> Visit:
        """Loss and gradient at ``objective.params + delta``."""
        return cls(delta, *value_and_gradient(objective.at(objective.params + delta)))

    @property
    def slope(self) -> Tensor:
        """The gradient, which must have been taken."""
        assert self.gradient is not None
        return self.gradient


@dataclass(frozen=True)
class Climbs:
    """What an ascent found: the centre, the highest point of each restart, and the highest of all.

    `is_level` says that no direction led up from the centre to first order, so that the first restart began
    at random like the others.
    """

    centre: Visit
    found: tuple[Visit, ...]
    best: Visit
    is_level: bool

    @property
    def first_start(self) -> str:
        """Where the first restart began, for the provenance."""
        return "random, the gradient being exactly zero" if self.is_level else "gradient"

    @property
    def rises(self) -> Tensor:
        """``(R,)`` float64: the largest rise of each restart."""
        return torch.tensor([visit.loss - self.centre.loss for visit in self.found], dtype=torch.float64)


def climb(
    objective: Objective,
    ball: Ball,
    *,
    num_steps: int,
    num_restarts: int,
    stream: str,
    seed: int,
    progress: Progress | None,
) -> Climbs:
    """Climb `num_restarts` times: from the gradient at the centre, then from random points of the sphere.

    Restart number r draws from ``generator(seed, stream, r)``: the first are the same whatever their number.
    """
    centre = Visit.centre(objective)
    is_level = ball.dual_norm(centre.slope) == 0
    total, done = num_restarts * (num_steps + 1) + int(is_level), 0

    def on_step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    on_step()
    found: list[Visit] = []
    for restart in range(num_restarts):
        if restart == 0 and not is_level:
            found.append(ascend(objective, centre, ball, num_steps, on_step))
            continue
        delta = ball.random_on_sphere(generator(seed, stream, restart), like=objective.params)
        start = Visit.of(objective, delta)
        on_step()
        reached = ascend(objective, start, ball, num_steps, on_step)
        found.append(max(start, reached, key=lambda visit: visit.loss))
    if progress and done < total:  # an ascent ends early where the gradient vanishes
        progress(total, total)
    best = max([centre, *found], key=lambda visit: visit.loss)
    return Climbs(centre, tuple(found), best, is_level)


def ascend(
    objective: Objective,
    start: Visit,
    ball: Ball,
    num_steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> Visit:
    r"""Climb from `start` inside the ball; the highest point reached, `start` itself not counting.

    Conditional gradient (Frank and Wolfe 1956). A step goes to the point of the ball that is highest on the
    tangent plane where it starts: :math:`r\, g / \lVert g\rVert` in the plain Euclidean ball,
    :math:`r\, \mathrm{sign}(g)` in the plain box. Such steps never fall where the loss is convex, need no
    step size, and on a quadratic in the Euclidean ball are a power iteration, which few small steps are no
    match for. A step that did not rise is shortened along its segment to where the parabola through both
    losses and the slope peaks, as often as it takes. Segments between points of a ball stay in it, whatever
    its norm.

    Parameters
    ----------
    objective
        Its point is the centre of the ball.
    start
        With its gradient.
    ball
        Around that centre.
    num_steps
        Loss evaluations; each but the last takes the gradient too.
    on_step
        Called after each.

    Returns
    -------
    Visit
        `start` only if its gradient is zero wherever the ball can move, so that no direction leads up.
    """
    best: Visit | None = None
    here, delta = start, ball.highest_on_tangent(start.slope)
    for step in range(num_steps):
        if delta is None:
            break
        if step < num_steps - 1:
            there = Visit.of(objective, delta)
        else:
            there = Visit(delta, objective.at(objective.params + delta).value())
        on_step()
        if best is None or there.loss > best.loss:
            best = there
        if there.loss > here.loss:
            if step < num_steps - 1:
                here, delta = there, ball.highest_on_tangent(there.slope)
        else:
            delta = here.delta + _peak(here, there) * (delta - here.delta)
    return start if best is None else best


def _peak(here: Visit, there: Visit) -> float:
    """Where from `here` (0) to `there` (1), no higher, a parabola of the slope at `here` peaks: (0, 1/2]."""
    slope = max(0.0, float((here.slope * (there.delta - here.delta)).cpu().double().sum()))
    fall = here.loss - there.loss
    # The slope is zero only where `here` is stationary on the sphere, and up to rounding.
    return slope / (2 * (slope + fall)) if slope > 0 else 0.5
