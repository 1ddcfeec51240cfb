"""The loss along straight lines through a point, random ones mostly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.core.array_store import Store
from thalweg.core.progress import Progress
from thalweg.measures.surfaces.grid_slice import GridSlice, slice_grid
from thalweg.objective.objective import Objective
from thalweg.solvers.direction_sources import Kind
from thalweg.solvers.normalisation import Ignored, Normalisation


@dataclass(frozen=True, kw_only=True, repr=False)
class LineSlice(GridSlice):
    """Loss and accuracy at ``params + alpha * direction``, for D directions each by itself; see `GridSlice`.

    `losses`, `accuracies` and `penalties` are means over the directions, and the standard errors theirs, from
    having a sample of the examples, the directions being fixed. Where the loss is not finite along one
    direction the mean is NaN, for it would else be over fewer.

    Parameters
    ----------
    alphas
        ``(A,)``, symmetric about an exact zero: in multiples of each filter's norm under ``"filter"``, in
        distance in parameter space under ``"raw"``.
    losses_by_direction, accuracies_by_direction
        ``(D, A)``: the band.
    num_directions
        D.
    """

    measure: ClassVar[str] = "line_slice"

    alphas: Tensor
    losses_by_direction: Tensor
    accuracies_by_direction: Tensor
    num_directions: int

    @property
    def axes(self) -> tuple[Tensor]:
        """`alphas`."""
        return (self.alphas,)

    @property
    def num_averaged(self) -> int:
        """D."""
        return self.num_directions


def line_slice(
    objective: Objective,
    *,
    num_points: int = 41,
    span: float = 1.0,
    num_directions: int = 1,
    directions: Kind | Sequence[Kind] = "random",
    normalisation: Normalisation | Sequence[Normalisation] = "filter",
    ignore: Ignored | Sequence[Ignored] = "bias_and_norm",
    rtol: float | None = None,
    atol: float | None = None,
    population: bool = False,
    tolerance: float | tuple[float, float] | None = None,
    agreement: bool = True,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> LineSlice:
    r"""Evaluate :math:`L(\theta + \alpha d_j)` on a symmetric grid, for D directions, each by itself.

    All points are evaluated on the same examples. In ``"recalibrated"`` mode each point has its own exact
    statistics; in ``"running"`` mode all share the centre's, unless a direction leads to a network. With a
    target, `rtol` or `atol`, they are a common subset, and with a `tolerance` the line is interpolated where
    all directions allow it: see `plane_slice`.

    Parameters
    ----------
    objective
        The point is the centre.
    num_points
        A, odd, so that the centre is on the grid and equals ``objective.value()`` to the bit.
    span
        The grid runs from ``-span`` to ``span``, in the unit the normalisation sets.
    num_directions
        D, with one kind of direction. The first D random directions of a seed are the same whatever D.
    directions
        One kind, or a sequence of them, D; see `find_directions`. They are not made orthogonal.
    normalisation, ignore
        How random directions are scaled and what they leave alone; see `random_direction`.
    rtol, atol
        Largest standard error of each mean over the directions: ``max(atol, rtol * loss)``; with neither, all
        examples are taken.
    population
        Give standard errors for the distribution the examples are a sample of. The independent units are the
        examples, or the batches in ``"batch"`` mode. That recalibrated statistics come from a sample too is
        left out: they are taken as given.
    tolerance
        Largest error of interpolation along each direction, in the unit of the loss; or a pair,
        ``max(first, second * loss)``. ``None`` evaluates every point.
    agreement
        Compare the curvature at the centre with the Hessian's along each direction by itself; see
        `plane_slice`.
    seed
        Of random directions, eigenvectors' solver, and the subset.
    store
        Keeps what is done, so that a killed call goes on from there; see `plane_slice`.
    progress
        Called as ``progress(points done, points in all)``; with eigenvectors or `agreement`, in parts of the
        whole.

    Raises
    ------
    ValueError
        For an even `num_points`, a `span` that is not positive, an unknown name, or ``population=True`` with
        a single example, or a single batch in ``"batch"`` mode.
    NonFiniteLossError
        If the loss is not finite at the centre.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets, NeurIPS.
    """
    (alphas,), grid, found = slice_grid(
        objective,
        num_points=num_points,
        span=span,
        directions=directions,
        num_axes=1,
        num_directions=num_directions,
        normalisation=normalisation,
        ignore=ignore,
        rtol=rtol,
        atol=atol,
        population=population,
        tolerance=tolerance,
        agreement=agreement,
        seed=seed,
        store=store,
        progress=progress,
    )
    found["provenance"] = {"function": "line_slice", **found["provenance"]}
    return LineSlice(
        alphas=alphas,
        losses_by_direction=grid.point_losses,
        accuracies_by_direction=grid.point_accuracies,
        num_directions=len(grid.point_losses),
        **found,
    )
