r"""The ball that a perturbation stays in.

.. math:: \lVert T^{-1} \delta\rVert_p \le r, \qquad T = \mathrm{diag}(t_1, \dots, t_P), \quad t_i \ge 0

A coordinate with :math:`t_i = 0` does not move, and does not count towards the norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_one_of, check_positive
from thalweg.core.rng import normal
from thalweg.measures.sharpness.scaling import Scaling, check_scaling, relative_scale
from thalweg.objective.objective import Objective

Norm = Literal["l2", "linf"]


@dataclass(frozen=True)
class Ball:
    """Perturbations ``(P,)`` of at most `radius` in a norm, each coordinate in its own unit.

    Parameters
    ----------
    norm
        ``"l2"``, Euclidean, or ``"linf"``, the largest entry.
    radius
        r.
    scale
        ``(P,)``, t, at least nought; None is the plain ball, t = 1.
    """

    norm: Norm
    radius: float
    scale: Tensor | None = None

    @classmethod
    def around(cls, objective: Objective, norm: Norm, radius: float, scaling: Scaling) -> Ball:
        """The ball around an objective's point, scaled by its parameters; see `scale_vector`.

        Raises
        ------
        ValueError
            For an unknown name, a radius that is not positive and finite, or nothing left to move.
        """
        check_positive("radius", radius, "0.05 is customary")
        check_one_of("norm", norm, get_args(Norm))
        return cls(norm, radius, scale_vector(objective, scaling))

    def dual_norm(self, gradient: Tensor) -> float:
        """First-order rise for each unit of radius: ||T g||, Euclidean in ``"l2"``, summed in ``"linf"``."""
        scaled = gradient if self.scale is None else self._scaled(gradient)
        return euclidean_norm(scaled) if self.norm == "l2" else float(scaled.cpu().double().abs().sum())

    def highest_on_tangent(self, gradient: Tensor) -> Tensor | None:
        """The point of the ball that is highest on the tangent plane; None where the plane is level.

        ``"l2"``: r T² g / ||T g||. ``"linf"``: r T sign(g), where an entry of g that is exactly zero leaves
        its coordinate at rest.
        """
        norm = self.dual_norm(gradient)
        if not norm > 0:
            return None
        if self.norm == "linf":
            return self._placed(gradient.sign(), gradient)
        if self.scale is None:
            return gradient * (self.radius / norm)
        # Divided before it is multiplied: the square of a small scale underflows.
        return self._placed(self._scaled(gradient) / norm, gradient)

    def random_on_sphere(self, rng: torch.Generator, like: Tensor) -> Tensor:
        """A random point of the boundary: ``"l2"``, uniform; ``"linf"``, one of the corners.

        Corners, since the highest point of a box is one of them where the loss is convex, and a point drawn
        from its faces has nearly all of its entries well inside.
        """
        direction = normal(rng, len(like), like=like)
        if self.norm == "linf":
            return self._placed(direction.sign(), like)
        if self.scale is None:
            return direction * (self.radius / euclidean_norm(direction))
        moving = torch.where(self.scale > 0, direction.cpu().double(), 0.0)
        return self._placed(moving / euclidean_norm(moving), like)

    def _scaled(self, gradient: Tensor) -> Tensor:
        """T g in float64 on the CPU: a small scale times a small gradient underflows in less."""
        assert self.scale is not None
        return self.scale * gradient.cpu().double()

    def _placed(self, unit: Tensor, like: Tensor) -> Tensor:
        """r T u, in the dtype and on the device of `like`."""
        scaled = unit if self.scale is None else self.scale * unit.cpu().double()
        return (self.radius * scaled).to(like)


def scale_vector(objective: Objective, scaling: Scaling) -> Tensor | None:
    """`relative_scale` of the objective's point ``(P,)``; None where all are one.

    Raises
    ------
    ValueError
        For an unknown name, or where all parameters are zero.
    """
    check_scaling(scaling)
    if scaling == "none":
        return None
    scale = relative_scale(objective.space, objective.params, scaling)
    if not bool((scale > 0).any()):
        raise ValueError(
            f"`scaling={scaling!r}` leaves nothing to move: every parameter is zero; use scaling='none'."
        )
    return scale


def euclidean_norm(vector: Tensor) -> float:
    """Norm of ``(P,)``, in float64 where the device has it: the squares of small gradients underflow."""
    wide = torch.float32 if vector.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(vector, dtype=wide))
