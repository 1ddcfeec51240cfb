r"""Whether a surface bends at its centre as the Hessian says it does.

.. math:: \frac{\partial^2}{\partial a_i\,\partial a_j} L\Bigl(\theta + \sum_k a_k d_k\Bigr)\Big|_{a = 0}
          = d_i^\top H d_j

The left side by central differences of losses, with what they leave in error; the right by products with the
Hessian. Neither knows of the other: a surface whose axes were scaled after its directions were chosen, or a
Hessian of another function than the one drawn, shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction, check_positive
from thalweg.core.measurement import ErrorBudget, Measurement, hash_tensors
from thalweg.core.progress import Progress, part_of
from thalweg.objective.check_objective import check_objective
from thalweg.objective.evaluation import Point
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers.checked_vector import checked_vector
from thalweg.solvers.directions import Directions

# Differences over these multiples of the step: two extrapolations, whose difference is the error.
MULTIPLES = (1, 2, 4)

# Sum of the absolute weights of a second difference, extrapolated, times the squared step: of what a loss is
# rounded by, how much may be in it.
AXIS_WEIGHT, MIXED_WEIGHT = 17 / 3, 17 / 12

# A loss below this is no scale for the step: its rounding is that of the outputs.
LEAST_LOSS = 0.01


@dataclass(frozen=True, kw_only=True, repr=False)
class QuadraticAgreement(Measurement):
    """How far the surface's curvature at the centre and the Hessian's are apart: `value`, relatively.

    The largest difference between two entries, for directions of length one, over the largest curvature that
    the Hessian has in the plane. ``error.solver`` bounds what the finite steps and rounding make of it; that
    of the steps is an estimate, see `curvature_errors`. D directions; arrays are ``(D, D)`` float64, in loss
    a step squared.

    Parameters
    ----------
    hessian_form
        Of the products, with the L2 term if there is one.
    curvatures
        By central differences of the losses, batch-norm statistics and all other buffers held as they are at
        the centre: the function that the Hessian is of.
    curvature_errors
        Of `curvatures`: the difference of two Richardson extrapolations, and rounding.
    surface_curvatures, surface_curvature_errors
        The same of the surface as it is drawn, where statistics that are recalibrated at every point, or
        buffers that travel to another network, bend it too. Where nothing moves but parameters, the same.
    steps
        ``(D,)``, the smallest step along each direction.
    rtol
        As asked.
    verdict
        ``"agrees"`` if the value lies below `rtol` with its error, ``"differs"`` if it lies above with its
        error, else ``"undecided"``: the losses are too coarse, or the plane too flat, to tell.
    """

    measure: ClassVar[str] = "quadratic_agreement"

    hessian_form: Tensor
    curvatures: Tensor
    curvature_errors: Tensor
    surface_curvatures: Tensor
    surface_curvature_errors: Tensor
    steps: Tensor
    rtol: float
    verdict: str

    @property
    def statistics_effect(self) -> float:
        """What moving buffers add to the surface's curvature, at most, over the Hessian's largest; else 0."""
        gap = (self.surface_curvatures - self.curvatures).abs().max()
        return float(gap / self.hessian_form.abs().max()) if float(gap) else 0.0

    def __repr__(self) -> str:
        head = super().__repr__()
        return f"{head[:-1]}, surface and Hessian: {self.verdict} within {self.rtol:g})"


def agreement(
    objective: Objective,
    directions: Directions | Tensor,
    *,
    step: float | Sequence[float] | None = None,
    rtol: float = 0.05,
    progress: Progress | None = None,
) -> QuadraticAgreement:
    r"""Compare second differences of the loss about the centre with :math:`d_i^\top H d_j`.

    Along each axis, and diagonally for each pair, the second difference over h, 2h and 4h: c(h), c(2h),
    c(4h), each in error by a multiple of h² and more. :math:`[4 c(h) - c(2h)] / 3` is free of that; its error
    is taken to be its distance from the same of the doubled steps, sixteen times what remains if the loss is
    smooth, and what rounding may do. That takes 1 + 6 D + 6 D (D - 1) evaluations of the loss, and D products.

    **Which function.** In ``"recalibrated"`` mode the Hessian holds the statistics of the centre constant,
    and the surface recomputes them at every point; towards a network in ``"running"`` mode they move with the
    parameters. These are two functions with two curvatures. The verdict is on the one that the Hessian is of,
    statistics held; the drawn one's is measured by a second set of points, and `statistics_effect` is the
    difference.

    **Kinks.** The Hessian of a network of ReLUs or max pooling is that of the piece around the centre;
    differences over a finite step cross into other pieces, and see their bends, too. Such a network can
    differ, and no smaller step that rounding allows need show it otherwise: the value then is how much of the
    curvature that is.

    Parameters
    ----------
    objective
        The centre.
    directions
        `Directions`, or vectors ``(P,)`` or ``(P, D)``.
    step
        h, in steps along the direction, for all or each. By default that over which the Hessian lets the loss
        rise by eps^(1/3) of itself, with eps the precision of the objective's dtype, but no longer than
        eps^(1/6) of the length of the parameters.
    rtol
        Relative difference that counts as agreement, in (0, 1).
    progress
        Of the whole, in parts.

    Raises
    ------
    ValueError
        For a step that is not positive, an `rtol` out of range, or vectors of another shape.
    NonFiniteLossError
        If the loss, or a product, is not finite at the centre or a step away.
    DerivativeError
        If no composition of automatic differentiation gives this network's Hessian.
    """
    check_objective("objective", objective)
    check_fraction("rtol", rtol, "0.05 allows the two to differ by 5 %")
    V, offsets = _columns(objective, directions)
    D, held = V.shape[1], objective.frozen()
    lengths = V.cpu().double().norm(dim=0)

    moves = held is not objective or offsets is not None
    num_parts = 3 if moves else 2
    operator = Hessian(held)
    form, form_errors = _hessian_form(operator, V)
    _tell(part_of(progress, 0, num_parts))
    steps = _steps(objective, form, lengths, step)
    curvatures, errors = _differences(held, V, None, steps, part_of(progress, 1, num_parts))
    surface, surface_errors = curvatures, errors
    if moves:
        surface, surface_errors = _differences(objective, V, offsets, steps, part_of(progress, 2, num_parts))

    unit = torch.outer(lengths, lengths)
    scale = float(torch.linalg.matrix_norm(form / unit, 2))
    gaps, bounds = (curvatures - form).abs() / unit, (errors + form_errors) / unit
    # In a plane so flat that errors are as large as its curvature, they are the scale: nothing can be told.
    scale = max(scale, float(bounds.max()))
    if scale == 0:
        scale = 1.0
    value, bound = float(gaps.max()) / scale, float(bounds.max()) / scale
    low, high = float((gaps - bounds).max()) / scale, float((gaps + bounds).max()) / scale
    return QuadraticAgreement(
        value=value,
        error=ErrorBudget(solver=bound),
        provenance={
            "function": "agreement",
            "arguments": {
                "directions": directions.description
                if isinstance(directions, Directions)
                else hash_tensors(directions),
                "step": step if step is None or isinstance(step, int | float) else list(step),
                "rtol": rtol,
            },
            "objective": objective.describe(),
            "operator": operator.check.to_dict(),
        },
        hessian_form=form,
        curvatures=curvatures,
        curvature_errors=errors,
        surface_curvatures=surface,
        surface_curvature_errors=surface_errors,
        steps=steps,
        rtol=float(rtol),
        verdict="agrees" if high <= rtol else "differs" if low > rtol else "undecided",
    )


def _columns(
    objective: Objective, directions: Directions | Tensor
) -> tuple[Tensor, Mapping[str, Tensor] | None]:
    """Directions ``(P, D)`` as they are stepped along, and what of the buffers travels with them."""
    if isinstance(directions, Directions):
        return directions.vectors, directions.offsets
    given = torch.as_tensor(directions)
    given = given[:, None] if given.ndim == 1 else given
    P, D = objective.space.dim, given.shape[-1] if given.ndim else 0
    vectors = checked_vector(given, "directions", (P, D))
    if not D or not bool(vectors.any(0).all()):
        raise ValueError("`directions` must hold at least one column, and none that is zero.")
    return vectors.to(objective.params), None


def _hessian_form(operator: Hessian, V: Tensor) -> tuple[Tensor, Tensor]:
    """``V^T H V`` in float64, symmetric, and what rounding may be wrong by in it."""
    product, exact = (operator @ V).cpu().double(), V.cpu().double()
    form = exact.T @ product
    eps = torch.finfo(V.dtype).eps
    rounding = 4 * eps * torch.outer(exact.norm(dim=0), product.norm(dim=0))
    return (form + form.T) / 2, (form - form.T).abs() + torch.maximum(rounding, rounding.T)


def _steps(
    objective: Objective, form: Tensor, lengths: Tensor, asked: float | Sequence[float] | None
) -> Tensor:
    if asked is not None:
        given = list(asked) if isinstance(asked, Sequence) else [asked] * len(lengths)
        for one in given:
            check_positive("step", one, "leave it out for one that fits the curvature")
        if len(given) != len(lengths):
            raise ValueError(f"`step` must be one number, or {len(lengths)}, one a direction, got {asked!r}.")
        return torch.tensor(given, dtype=torch.float64)
    eps = torch.finfo(objective.dtype).eps
    loss = max(abs(objective.without_decay().value()), LEAST_LOSS)
    longest = max(1.0, float(objective.params.cpu().double().norm())) / lengths
    # Infinite along a direction without curvature.
    doubling = (2 * loss / form.diagonal().abs()).sqrt()
    return eps ** (1 / 6) * torch.minimum(doubling, longest)


def _differences(
    objective: Objective,
    V: Tensor,
    offsets: Mapping[str, Tensor] | None,
    steps: Tensor,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """Second differences of the loss along the columns of `V` ``(P, D)``, and their errors, both ``(D, D)``."""
    D = V.shape[1]
    pairs = list(combinations(range(D), 2))
    corners = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    places: list[dict[int, int]] = [{}]  # direction to multiple of its step
    places += [{j: sign * k} for j in range(D) for k in MULTIPLES for sign in (1, -1)]
    places += [{i: p * k, j: q * k} for i, j in pairs for k in MULTIPLES for p, q in corners]

    def points() -> Iterator[Point]:
        for place in places:
            params, buffers = objective.params, None
            if offsets is not None:
                buffers = dict(objective.buffers)
            for j, multiple in place.items():
                length = multiple * float(steps[j])
                params = params + length * V[:, j]
                for name, offset in (offsets or {}).items():
                    assert buffers is not None
                    buffers[name] = buffers[name] + length * offset[j]
            yield params, buffers

    total = len(places)
    # By eager passes: so small a difference must not be that between two ways to compute.
    found = objective.evaluate_points(
        points(), on_point=(lambda done: progress(done, total)) if progress else None
    )
    losses = found.losses
    noise = torch.finfo(objective.dtype).eps * float(found.example_losses.double().abs().mean(1).max())
    num = len(MULTIPLES)
    axes = losses[1 : 1 + 2 * num * D].view(D, num, 2)
    mixed = losses[1 + 2 * num * D :].view(len(pairs), num, 4)
    multiples = torch.tensor(MULTIPLES, dtype=torch.float64)

    curvatures, errors = torch.zeros(2, D, D, dtype=torch.float64)
    for j in range(D):
        squares = (multiples * steps[j]).square()
        bends = (axes[j, :, 0] - 2 * losses[0] + axes[j, :, 1]) / squares
        curvatures[j, j], errors[j, j] = _extrapolated(bends)
        errors[j, j] += AXIS_WEIGHT * noise / squares[0]
    for row, (i, j) in enumerate(pairs):
        squares = multiples.square() * steps[i] * steps[j]
        signs = torch.tensor([p * q for p, q in corners], dtype=torch.float64)
        bends = mixed[row] @ signs / (4 * squares)
        value, error = _extrapolated(bends)
        error += MIXED_WEIGHT * noise / squares[0]
        curvatures[i, j] = curvatures[j, i] = value
        errors[i, j] = errors[j, i] = error
    # The L2 term is quadratic, and its curvature known.
    exact = V.cpu().double()
    return curvatures + objective.weight_decay * (exact.T @ exact), errors


def _extrapolated(bends: Tensor) -> tuple[Tensor, Tensor]:
    """Richardson's value of differences over h, 2h and 4h, and its distance from that of the last two."""
    finer, coarser = (4 * bends[:-1] - bends[1:]) / 3
    return finer, (finer - coarser).abs()


def _tell(progress: Progress | None) -> None:
    if progress:
        progress(1, 1)
