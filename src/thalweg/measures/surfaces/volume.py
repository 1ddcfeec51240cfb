"""The loss in three directions through a point: for what looks at its topology rather than at a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from thalweg.core.array_store import Store
from thalweg.core.progress import Progress
from thalweg.measures.surfaces.grid_slice import GridSlice, slice_grid
from thalweg.objective.objective import Objective
from thalweg.solvers.direction_sources import Kind
from thalweg.solvers.normalisation import Ignored, Normalisation


@dataclass(frozen=True, kw_only=True, repr=False)
class VolumeSlice(GridSlice):
    """Loss and accuracy at ``params + alpha d_0 + beta d_1 + gamma d_2``; see `GridSlice`.

    Parameters
    ----------
    alphas, betas, gammas
        ``(A,)``, ``(B,)`` and ``(C,)``, each symmetric about an exact zero; the grid is ``(A, B, C)``.
    """

    measure: ClassVar[str] = "volume_slice"

    alphas: Tensor
    betas: Tensor
    gammas: Tensor

    @property
    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """`alphas`, `betas` and `gammas`."""
        return self.alphas, self.betas, self.gammas


def volume_slice(
    objective: Objective,
    *,
    num_points: tuple[int, int, int] | int = (9, 9, 9),
    span: tuple[float, float, float] | float | Literal["trajectory"] = (1.0, 1.0, 1.0),
    directions: Kind | Literal["trajectory"] | Sequence[Kind | Literal["trajectory"]] = "random",
    normalisation: Normalisation | Sequence[Normalisation] = "filter",
    ignore: Ignored | Sequence[Ignored] = "bias_and_norm",
    rtol: float | None = None,
    atol: float | None = None,
    population: bool = False,
    tolerance: float | tuple[float, float] | None = None,
    trajectory: Iterable[Tensor | Objective] | None = None,
    agreement: bool = True,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> VolumeSlice:
    r"""Evaluate :math:`L(\theta + \alpha d_0 + \beta d_1 + \gamma d_2)` on a symmetric grid.

    All is as for `plane_slice`, with three directions; the parameters mean the same, and so do the errors.
    Adaptive refinement takes at least 9 points along each axis where the grid has more.
    """
    (alphas, betas, gammas), _, found = slice_grid(
        objective,
        num_points=num_points,
        span=span,
        directions=directions,
        num_axes=3,
        normalisation=normalisation,
        ignore=ignore,
        rtol=rtol,
        atol=atol,
        population=population,
        tolerance=tolerance,
        trajectory=trajectory,
        agreement=agreement,
        seed=seed,
        store=store,
        progress=progress,
    )
    found["provenance"] = {"function": "volume_slice", **found["provenance"]}
    return VolumeSlice(alphas=alphas, betas=betas, gammas=gammas, **found)
