"""Basin width: how far one can go from a point before the loss has risen by a given amount."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_fraction, check_positive, is_number
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError, hash_tensors
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import stream_seed
from thalweg.core.rounding import at_least, at_most
from thalweg.measures.sharpness.crossings import Crossings, first_crossings
from thalweg.measures.sharpness.rises import Rises
from thalweg.measures.sharpness.scaling import at_rest
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.registry import operator_named
from thalweg.solvers.directions import Ignored, Normalisation, check_choices, random_direction
from thalweg.solvers.multilevel import multilevel_eigenpairs
from thalweg.solvers.normalisation import free_entries

# Residual of the eigenvectors over ||H||: the width along a vector near enough to one is the same.
EIGENVECTOR_RTOL = 1e-2

# Evaluations a ray, from experience, for the progress.
EVALUATIONS_A_RAY = 7


@dataclass(frozen=True, kw_only=True, repr=False)
class BasinWidth(Measurement):
    """Mean distance at which the loss has risen by `loss_rise`: `value`, over random directions, both ways.

    In multiples of each filter's norm under ``"filter"``, in distance in parameter space under ``"raw"``.
    Without random directions it is the mean over the eigenvectors, without those over the directions given.
    ``error.probe`` is the standard error from the directions drawn (a direction's two sides are one sample),
    ``error.solver`` the mean width of the brackets.

    A side that does not rise so far up to `max_distance` has the width infinity; in the mean it counts as
    `max_distance`, so that the value is a lower bound, which `interval` and the ``repr`` then say.

    Parameters
    ----------
    loss_rise, normalisation, ignore, max_distance
        As asked.
    loss
        At the centre, with the L2 term if there is one.
    widths
        ``(D, 2)`` float64: of each random direction, forwards and backwards.
    direction_norms
        ``(D,)`` float64: Euclidean length of a distance of one along it.
    eigenvector_widths, eigenvalues
        ``(k, 2)`` and ``(k,)`` float64: along the top eigenvectors of the Hessian, which have length one, and
        their eigenvalues, largest first.
    given_widths
        ``(K, 2)`` float64: along the directions given, in multiples of each.
    num_censored
        Sides among those of the value that did not rise so far.
    num_evaluations
        Of the loss, each one pass over the data.
    """

    measure: ClassVar[str] = "basin_width"

    loss_rise: float
    normalisation: str
    ignore: str
    max_distance: float
    loss: float
    widths: Tensor
    direction_norms: Tensor
    eigenvector_widths: Tensor
    eigenvalues: Tensor
    given_widths: Tensor
    num_censored: int
    num_evaluations: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval; without an upper end where a side did not rise so far, or too little is known.

        Of random directions it is symmetric on the scale of the inverse width. Widths are skewed, the more
        so the fewer directions have most of the curvature: where one or two have nearly all of it, those of
        3 to 8 random directions cover 89 to 93 % where they say 95, else 94 to 96.
        """
        low, high = super().interval(level)
        if self.error.probe:
            part = self.error.half_width(level) / self.value
            low, high = self.value / (1 + part), self.value / (1 - part) if part < 1 else math.inf
        return low, math.inf if self.num_censored else high

    def __repr__(self) -> str:
        low, high = self.interval(0.95)
        if self.num_censored:
            beyond = f"{self.num_censored} sides beyond {self.max_distance:g}"
            parts = [f"at least {at_least(low)} (95 %)", beyond]
        elif self.error.probe:
            parts = [f"{self.value:.6g}, {at_least(low, 3)} to {at_most(high, 3)} (95 %)"]
        else:
            return super().__repr__()
        return f"{type(self).__name__}({', '.join([*parts, *self._circumstances()])})"


def basin_width(
    objective: Objective,
    *,
    loss_rise: float = 0.1,
    num_directions: int = 8,
    normalisation: Normalisation = "filter",
    ignore: Ignored = "bias_and_norm",
    num_eigenvectors: int = 0,
    directions: Tensor | None = None,
    first_distance: float = 0.1,
    growth: float = 2.0,
    max_distance: float = 100.0,
    rtol: float = 0.02,
    max_memory_bytes: int = 2 << 30,
    seed: int,
    progress: Progress | None = None,
) -> BasinWidth:
    r"""Find the smallest t > 0 with :math:`L(\theta + t d) - L(\theta) > \Delta`, for d and for -d.

    Along a random direction of length one a quadratic has the width :math:`\sqrt{2 \Delta / d^\top H d}` up
    to its gradient, along an eigenvector :math:`\sqrt{2 \Delta / \lambda}`: the flattest number that a
    network has, and the sharpest.

    All sides of all directions are searched together, by a scan that multiplies the distance by `growth`,
    then by bracketing: see `thalweg.measures.sharpness.crossings.first_crossings`. A bump that begins and
    ends between two distances of the scan is not seen, so that on a slice that is not monotone the width can
    be that of a later crossing; a smaller `growth` and `first_distance` look closer. A loss that is not
    finite counts as risen.

    L is ``objective.value()``, L2 term included; in ``"recalibrated"`` mode each point has its own
    statistics, but the eigenvectors are those of the function that holds them constant.

    Parameters
    ----------
    objective
        The point is the centre.
    loss_rise
        :math:`\Delta`, positive, in the unit of the loss.
    num_directions
        D random directions; none if 0. The first D of a seed are the same whatever D, and those of
        `line_slice`.
    normalisation, ignore
        How random directions are scaled and what they leave alone; see
        `thalweg.solvers.directions.random_direction`. What does not move with its filter, the result says.
    num_eigenvectors
        k, of the top of the Hessian. Computed to a residual of 1e-2 from subsets, without a certificate that
        they are the largest: pass the ``eigenvectors`` of `top_eigenvalues` as `directions` if it matters.
    directions
        ``(P,)`` or ``(P, K)``, further directions, taken as long as they are.
    first_distance, growth, max_distance
        Of the scan, for all directions alike.
    rtol
        Width of the bracket over the distance, in (0, 1).
    max_memory_bytes
        Bound on the basis that the eigenvectors are found in; it bounds nothing without any.
    seed
        Of the random directions, and of the eigenvectors' solver.
    progress
        Called with work done and an estimate of the whole, in examples.

    Raises
    ------
    ValueError
        For a number out of range, an unknown name, no direction at all, or directions of another shape.
    ConvergenceError
        If no side that counts for the value rises so far up to `max_distance`, or the eigenvectors are not
        found; the first carries the partial `BasinWidth`, whose value is `max_distance`.
    NonFiniteLossError
        If the loss is not finite at the centre.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets, NeurIPS:
    filter normalisation.
    """
    check_objective("objective", objective)
    check_positive("loss_rise", loss_rise, "0.1, in the unit of the loss, is customary")
    check_positive("first_distance", first_distance, "the scan begins there")
    check_positive("max_distance", max_distance, "the scan ends there")
    if not is_number(growth) or not 1 < growth < math.inf:
        raise ValueError(f"`growth` must be above 1, got {growth!r}; 2 doubles the distance.")
    if first_distance > max_distance:
        raise ValueError(
            f"`first_distance` must be at most max_distance = {max_distance}, got {first_distance}."
        )
    check_fraction("rtol", rtol, "0.02 brackets the distance to 2 %")
    check_choices(normalisation, ignore)
    for name, count in (("num_directions", num_directions), ("num_eigenvectors", num_eigenvectors)):
        check_count(name, count, least=0)
    given = _columns(directions, objective)
    counts = (num_directions, num_eigenvectors, len(given))
    num_rays = 2 * sum(counts)
    if not num_rays:
        raise ValueError("`num_directions` must be at least 1 where no others are asked for, got 0.")
    check_count("max_memory_bytes", max_memory_bytes)
    stream_seed(seed)

    work, expected = Work(progress), 1 + EVALUATIONS_A_RAY * num_rays
    drawn = [
        random_direction(objective, j, normalisation=normalisation, ignore=ignore, seed=seed)
        for j in range(num_directions)
    ]
    solving = work.part(after=expected * objective.num_examples)
    eigenvalues, eigenvectors, check = _top_eigenpairs(
        objective, num_eigenvectors, max_memory_bytes, seed, solving
    )
    rays = [*drawn, *eigenvectors, *given]
    rises = Rises(objective, work.part(unit=objective.num_examples), expected=expected)

    def along(points: list[tuple[int, float]]) -> Tensor:
        # Ray 2 j is direction j, ray 2 j + 1 its opposite.
        deltas = ((-t if ray % 2 else t) * rays[ray // 2] for ray, t in points)
        return rises(deltas, allow_non_finite=True)

    found = first_crossings(
        along,
        num_rays,
        level=loss_rise,
        first=first_distance,
        growth=growth,
        limit=max_distance,
        rtol=rtol,
    )
    rises.finish()
    widths = found.distances.view(-1, 2)
    random, eigen, rest = widths.split(counts)
    # The value is of the first kind that there is.
    sides = slice(0, 2 * next(count for count in counts if count))
    value, error = _mean_width(found, sides, num_directions > 0, max_distance)
    num_censored = int(found.distances[sides].isinf().sum())
    arguments: dict[str, Any] = {
        "loss_rise": loss_rise,
        "num_directions": num_directions,
        "normalisation": normalisation,
        "ignore": ignore,
        "num_eigenvectors": num_eigenvectors,
        "directions": None if directions is None else hash_tensors(*given),
        "first_distance": first_distance,
        "growth": growth,
        "max_distance": max_distance,
        "rtol": rtol,
        "max_memory_bytes": max_memory_bytes,
        "seed": seed,
    }
    result = BasinWidth(
        value=value,
        error=error,
        provenance={
            "function": "basin_width",
            "arguments": arguments,
            "objective": objective.describe(),
            "operator": check,
            # What a random direction leaves in place although nothing told it to: filters of noughts.
            "at_rest": at_rest(drawn[0].cpu()[free_entries(objective.space, ignore)], objective.dtype)
            if drawn
            else {},
        },
        loss_rise=float(loss_rise),
        normalisation=normalisation,
        ignore=ignore,
        max_distance=float(max_distance),
        loss=rises.loss,
        widths=random,
        direction_norms=torch.tensor(
            [float(torch.linalg.vector_norm(d.cpu().double())) for d in drawn], dtype=torch.float64
        ),
        eigenvector_widths=eigen,
        eigenvalues=eigenvalues,
        given_widths=rest,
        num_censored=num_censored,
        num_evaluations=rises.num_evaluations,
    )
    if num_censored == sides.stop:
        raise ConvergenceError(
            f"up to `max_distance` = {max_distance} the loss rises by less than `loss_rise` = {loss_rise} on "
            f"all {num_censored} sides: raise `max_distance` or lower `loss_rise`.",
            result,
        )
    return result


def _mean_width(found: Crossings, sides: slice, is_random: bool, limit: float) -> tuple[float, ErrorBudget]:
    """Mean over these sides, two to a direction, those not reached counting as the limit; and its error."""
    samples = found.distances[sides].clamp(max=limit).view(-1, 2).mean(1)
    probe = None
    if is_random:
        spread = float(samples.std()) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan
        probe = StandardError(spread, len(samples) - 1)
    error = ErrorBudget(solver=float(found.bounds[sides].mean()) or None, probe=probe)
    return float(samples.mean()), error


def _top_eigenpairs(
    objective: Objective, k: int, max_memory_bytes: int, seed: int, progress: Progress
) -> tuple[Tensor, list[Tensor], dict[str, Any] | None]:
    """The k largest eigenvalues, their vectors, and how the operator was checked."""
    if k == 0:
        return torch.zeros(0, dtype=torch.float64), [], None
    operator = operator_named("hessian", objective, seed=seed)
    if k > operator.dim:
        raise ValueError(
            f"`num_eigenvectors` must be at most P = {operator.dim}, the number of parameters, got {k}."
        )
    solved = multilevel_eigenpairs(
        operator,
        k,
        rtol=EIGENVECTOR_RTOL,
        max_memory_bytes=max_memory_bytes,
        seed=seed,
        progress=progress,
    )
    vectors = solved.solution.eigenvectors
    return solved.solution.eigenvalues, list(vectors.to(objective.params).T), operator.check.to_dict()


def _columns(directions: Tensor | None, objective: Objective) -> list[Tensor]:
    """The directions given ``(P, K)``, one by one, in the dtype and on the device of the parameters."""
    if directions is None:
        return []
    given = torch.as_tensor(directions)
    if given.ndim not in (1, 2) or len(given) != objective.space.dim:
        raise ValueError(
            f"`directions` must have shape (P,) or (P, K) with P = {objective.space.dim}, the number of "
            f"trainable parameters, got {tuple(given.shape)}."
        )
    columns = list(given.detach().reshape(len(given), -1).to(objective.params).T)
    if not all(bool(c.isfinite().all()) and bool(c.any()) for c in columns):
        raise ValueError("`directions` must be finite and not zero, got a column that is not.")
    return columns
