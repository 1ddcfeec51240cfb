"""Climbing the loss inside a ball around the parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.objective.evaluation import l2_term
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective


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
        return cls(torch.zeros_like(objective.params), *_loss_and_gradient(objective))

    @classmethod
    def of(cls, objective: Objective, delta: Tensor) -> Visit:
        """Loss and gradient at ``objective.params + delta``."""
        return cls(delta, *_loss_and_gradient(objective.at(objective.params + delta)))

    @property
    def gradient_norm(self) -> float:
        """Euclidean norm of the gradient, which must have been taken."""
        assert self.gradient is not None
        return euclidean_norm(self.gradient)


def ascend(
    objective: Objective,
    start: Visit,
    radius: float,
    num_steps: int,
    on_step: Callable[[], None] = lambda: None,
) -> Visit:
    r"""Climb from `start` inside the ball; the highest point reached, `start` itself not counting.

    Conditional gradient (Frank and Wolfe 1956). A step goes to :math:`r\, g / \lVert g\rVert`, g being the
    gradient where it starts: of all points of the ball the highest on the tangent plane. Such steps never
    fall where the loss is convex, need no step size, and on a quadratic are a power iteration, which few
    small steps are no match for. A step that did not rise is shortened along its segment to where the
    parabola through both losses and the slope peaks, as often as it takes.

    Parameters
    ----------
    objective
        Its point is the centre of the ball.
    start
        With its gradient.
    radius
        r.
    num_steps
        Loss evaluations; each but the last takes the gradient too.
    on_step
        Called after each.

    Returns
    -------
    Visit
        `start` only if its gradient is exactly zero, so that no direction leads up.
    """
    best: Visit | None = None
    here, delta = start, _highest_on_tangent(start, radius)
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
                here, delta = there, _highest_on_tangent(there, radius)
        else:
            delta = here.delta + _peak(here, there) * (delta - here.delta)
    return start if best is None else best


def check_radius(radius: float) -> None:
    """Raise unless `radius` is a positive finite number."""
    if not 0 < radius < math.inf:
        raise ValueError(f"`radius` must be positive and finite, got {radius}; 0.05 is customary.")


def euclidean_norm(vector: Tensor) -> float:
    """Norm of ``(P,)``, in float64 where the device has it: the squares of small gradients underflow."""
    wide = torch.float32 if vector.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(vector, dtype=wide))


def _highest_on_tangent(visit: Visit, radius: float) -> Tensor | None:
    """The point of the ball that is highest on the tangent plane; None where the plane is level."""
    assert visit.gradient is not None
    norm = visit.gradient_norm
    return visit.gradient * (radius / norm) if norm > 0 else None


def _peak(here: Visit, there: Visit) -> float:
    """Where from `here` (0) to `there` (1), no higher, a parabola of the slope at `here` peaks: (0, 1/2]."""
    assert here.gradient is not None
    slope = max(0.0, float((here.gradient * (there.delta - here.delta)).cpu().double().sum()))
    fall = here.loss - there.loss
    # The slope is zero only where `here` is stationary on the sphere, and up to rounding.
    return slope / (2 * (slope + fall)) if slope > 0 else 0.5


def _loss_and_gradient(point: Objective) -> tuple[float, Tensor]:
    """Both in one pass over the data, which costs a forward pass less than one after the other."""
    named = point.named_params

    def summed(params: dict[str, Tensor], micro: MicroBatch) -> tuple[Tensor, Tensor]:
        losses = micro.losses(params)
        return losses.sum(), losses.detach()

    def sums(micro: MicroBatch) -> tuple[Tensor, Tensor]:
        gradient, losses = torch.func.grad(summed, has_aux=True)(named, micro)
        # Float64 as in the objective's own value: a rise is a small difference of two losses.
        return point.space.flatten(gradient), losses.cpu().double().sum()

    gradient_sum, loss_sum = point.reduce(sums)
    gradient = gradient_sum / point.num_examples + point.weight_decay * point.params
    if not (bool(loss_sum.isfinite()) and bool(gradient.isfinite().all())):
        point.value()  # names the batch, where the loss itself is at fault
        raise NonFiniteLossError(
            "the gradient is not finite although the loss is; see the layers' derivatives."
        )
    return float(loss_sum) / point.num_examples + l2_term(point.params, point.weight_decay), gradient
