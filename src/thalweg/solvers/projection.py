"""A trajectory seen from a plane: where its points lie in it, and how far they lie from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.array_store import key_of
from thalweg.core.measurement import Measurement, hash_tensors
from thalweg.core.rounding import at_most
from thalweg.solvers.checked_vector import checked_vector


@dataclass(frozen=True, kw_only=True, repr=False)
class Projection(Measurement):
    r"""T points of parameter space, each replaced by the nearest one that D directions from a centre reach.

    The losses drawn at the coordinates are those of the nearest points in the plane, not of the trajectory:
    `residual_norms` says how far apart the two are. `value` is the explained variance,
    :math:`1 - \sum_t \lVert r_t - \bar r\rVert^2 / \sum_t \lVert\theta_t - \bar\theta\rVert^2`: the share of
    the points' scatter about their mean that the plane shows. It says nothing of how far off the plane they
    scatter, which `explained_squares` does. NaN where there is no scatter.

    Parameters
    ----------
    coordinates
        ``(T, D)`` float64: steps :math:`c_t` along each direction that minimise
        :math:`\lVert\theta_t - \theta_c - V c_t\rVert`.
    residual_norms
        ``(T,)`` float64: that distance from the plane, in parameter space.
    distances
        ``(T,)`` float64: :math:`\lVert\theta_t - \theta_c\rVert`, from the centre.
    explained_squares
        :math:`1 - \sum_t \lVert r_t\rVert^2 / \sum_t \lVert\theta_t - \theta_c\rVert^2`: share of the squared
        distances from the centre. NaN where all points are the centre.
    extent, largest_residual
        The largest distance from the centre within the plane, and from the plane.
    """

    measure: ClassVar[str] = "projection"
    quantity: ClassVar[str] = "explained variance"

    coordinates: Tensor
    residual_norms: Tensor
    distances: Tensor
    explained_squares: float
    extent: float
    largest_residual: float

    @property
    def explained_variance(self) -> float:
        """The value."""
        return self.value

    @property
    def relative_residual(self) -> float:
        """`largest_residual` in multiples of `extent`."""
        if not self.extent:
            return math.inf if self.largest_residual else 0.0
        return self.largest_residual / self.extent

    @property
    def summary(self) -> str:
        """How much of the trajectory the plane shows, in one line."""
        # Without its arrays it does not know of how many dimensions the slice is.
        seen = (
            "slice"
            if self.coordinates is None
            else ("line", "plane", "volume")[self.coordinates.shape[1] - 1]
        )
        share = "" if math.isnan(self.value) else f"{100 * self.value:.3g} % of its variance in the {seen}, "
        times = at_most(self.relative_residual, 2)
        return f"trajectory: {share}at most {times} times as far off the {seen} as it reaches in it"

    def _circumstances(self) -> list[str]:
        return [f"off the plane by at most {at_most(self.largest_residual)}", *super()._circumstances()]


def project(
    points: Iterable[Tensor], centre: Tensor, vectors: Tensor, *, argument: str = "points"
) -> Projection:
    """Least-squares coordinates of `points` in the plane through `centre` along the columns of `vectors`.

    The columns may be of any length and need not be orthogonal. All arithmetic is in float64 on the CPU, by
    an orthogonal factorisation; points are taken one at a time, so that they may be read lazily.

    Parameters
    ----------
    points
        T vectors ``(P,)``, T >= 1.
    centre
        ``(P,)``.
    vectors
        ``(P, D)``, independent columns, such as `Directions.vectors`.
    argument
        What errors call the points.

    Raises
    ------
    ValueError, TypeError
        For other shapes, numbers that are not finite, dependent columns, or no point at all.
    """
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(
            f"`vectors` must have shape (P, D), one column a direction, D >= 1, got {tuple(vectors.shape)}."
        )
    V = checked_vector(vectors, "vectors", vectors.shape)
    centre = checked_vector(centre, "centre", V.shape[:1])
    lengths = V.norm(dim=0)
    Q, R = torch.linalg.qr(V / torch.where(lengths > 0, lengths, 1))  # (P, D), (D, D)
    least = math.sqrt(torch.finfo(torch.float64).eps)
    if V.shape[0] < V.shape[1] or float(torch.linalg.svdvals(R).min()) <= least:
        raise ValueError(
            "`vectors` must be independent, got columns of which one lies in the span of the others, or is "
            "zero: coordinates along them are not unique."
        )

    inside: list[Tensor] = []
    residuals, distances, hashes = [], [], []
    # The scatter of residuals and of points about their means, by running means: no T x P block is held.
    means, scatter = torch.zeros(2, len(centre), dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for t, point in enumerate(points):
        delta = checked_vector(point, f"{argument}[{t}]", centre.shape) - centre
        hashes.append(hash_tensors(point))
        within = Q.T @ delta
        rest = delta - Q @ within
        again = Q.T @ rest  # what rounding left of the plane in it
        rest, within = rest - Q @ again, within + again
        inside.append(within)
        residuals.append(rest.norm())
        distances.append(delta.norm())
        both = torch.stack([rest, delta])
        step = both - means
        means += step / (t + 1)
        scatter += (step * (both - means)).sum(1)
    if not inside:
        raise ValueError(f"`{argument}` must hold at least one point, got none.")
    found = torch.linalg.solve_triangular(R, torch.stack(inside, dim=1), upper=True)  # (D, T)
    residual_norms, reach = torch.stack(residuals), torch.stack(distances)
    return Projection(
        value=_explained(*scatter.tolist()),
        provenance={
            "function": "project",
            "arguments": {
                "points": key_of(points=hashes),
                "centre": hash_tensors(centre),
                "vectors": hash_tensors(vectors),
            },
        },
        coordinates=(found.T / lengths).contiguous(),
        residual_norms=residual_norms,
        distances=reach,
        explained_squares=_explained(float(residual_norms.square().sum()), float(reach.square().sum())),
        largest_residual=float(residual_norms.max()),
        extent=max(float(within.norm()) for within in inside),
    )


def _explained(left: float, whole: float) -> float:
    return 1 - left / whole if whole > 0 else math.nan
