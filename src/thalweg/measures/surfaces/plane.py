"""The loss on a plane through a point: a surface one can look at."""

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
class PlaneSlice(GridSlice):
    """Loss and accuracy at ``params + alpha * direction_0 + beta * direction_1``; see `GridSlice`.

    Parameters
    ----------
    alphas, betas
        ``(A,)`` and ``(B,)``, each symmetric about an exact zero; the grid is ``(A, B)``.
    """

    measure: ClassVar[str] = "plane_slice"

    alphas: Tensor
    betas: Tensor

    @property
    def axes(self) -> tuple[Tensor, Tensor]:
        """`alphas` and `betas`."""
        return self.alphas, self.betas


def plane_slice(
    objective: Objective,
    *,
    num_points: tuple[int, int] | int = (25, 25),
    span: tuple[float, float] | float | Literal["trajectory"] = (1.0, 1.0),
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
) -> PlaneSlice:
    r"""Evaluate :math:`L(\theta + \alpha d_0 + \beta d_1)` on a symmetric grid.

    **Sampling.** With a target, `rtol` or `atol`, points are compared with the centre on one common random
    subset S of the examples:

    .. math:: \hat L(p) = L(0) + \frac1n \sum_{i \in S} \bigl(\ell_i(p) - \ell_i(0)\bigr)

    with L(0) on all of them. How many are taken is decided by a pilot of other examples on the coarsest
    points of the grid; if a standard error still exceeds the target once all points are evaluated, more
    examples are added to all. In ``"batch"`` mode whole batches are drawn, and are the independent units. In
    ``"recalibrated"`` mode each point keeps the exact statistics over *all* calibration data: it is the same
    function, only its mean is sampled. (That costs passes over the calibration data at every point; a
    smaller ``calibration_data`` of the objective makes it cheaper, and is another function.)

    **Adaptive refinement.** With a `tolerance`, the grid is evaluated coarsely and halved where cubic
    interpolation is seen to be off by more: see `thalweg.solvers.adaptive_grid`. What lies between the
    points of a test can be missed: the errors stated are estimates. A quadratic takes 81 points, however
    fine the grid.

    **The plane is not the path.** A `trajectory` is projected onto the plane, and the result says what share
    of its variance that shows and how far off the plane each point lies: the losses drawn under it are those
    of its projections.

    **Agreement.** The second differences of the loss at the centre, along and across the directions, are
    compared with the Hessian's quadratic form, each on the examples of S: see
    `thalweg.solvers.quadratic_agreement`. Where there is no such form, the result says why.

    Parameters
    ----------
    objective
        The point is the centre.
    num_points
        (A, B), each odd, so that the centre is on the grid and equals ``objective.value()`` to the bit.
    span
        The grid runs from ``-span`` to ``span`` along each direction, in the unit its normalisation sets;
        ``"trajectory"`` is as far as that reaches, and a tenth more.
    directions
        Two kinds, or one for both; see `find_directions`. Made orthogonal. ``"trajectory"`` is the one given,
        by its principal components.
    normalisation, ignore
        How random directions are scaled and what they leave alone; see `random_direction`.
    rtol, atol
        Largest standard error of each loss: ``max(atol, rtol * loss)``; with neither, all examples are taken
        and the losses are exact.
    population
        Give standard errors for the distribution the examples are a sample of. That recalibrated statistics
        come from a sample too is left out.
    tolerance
        Largest error of interpolation in the unit of the loss; or a pair, ``max(first, second * loss)``.
        ``None`` evaluates every point.
    trajectory
        Points to project: vectors (P,), or objectives, whose parameters count, in order; taken one at a time.
    agreement
        Compare the curvature at the centre with the Hessian's. It costs some 25 evaluations and two Hessian
        products, and of networks with kinks some more of few examples.
    seed
        Of random directions, eigenvectors' solver, and the subset.
    store
        Keeps what is done, chunk by chunk, an `ArrayStore` say: a killed call, made again, goes on from there
        and gives the same bits. Keys are hashes of all that decides the numbers.
    progress
        Called as ``progress(points done, points in all)``; with eigenvectors or `agreement`, in parts of the
        whole.

    Raises
    ------
    ValueError, TypeError
        For an even number of points, a span that is not positive, a target that is no number, an unknown
        name, or directions or points of a trajectory that are none.
    NonFiniteLossError
        If the loss is not finite at the centre. Elsewhere it is NaN in the result.
    ConvergenceError
        If eigenvectors are asked for and not found.

    Notes
    -----
    Memory: example losses of 64 points, or of fewer where there are more than 32,768 examples, are held at a
    time; of the others means and moments, and the losses of 64 folds where the surface is not exact: some
    2 kB a point, else 0.3 kB.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets, NeurIPS.
    """
    (alphas, betas), _, found = slice_grid(
        objective,
        num_points=num_points,
        span=span,
        directions=directions,
        num_axes=2,
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
    found["provenance"] = {"function": "plane_slice", **found["provenance"]}
    return PlaneSlice(alphas=alphas, betas=betas, **found)
