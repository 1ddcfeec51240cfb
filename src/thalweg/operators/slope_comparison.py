"""Products compared with the slope of a gradient, and for symmetry: at one point, in one precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.rng import generator, normal
from thalweg.objective.objective import Objective

# Relative tolerances. In float64 right derivatives agree to 1e-8 and better, and wrong ones (a dropped term
# of layer norm, say) differ by 1e-2; in lower precision only gross errors can be told from rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-2}
COARSE_TOLERANCE = 0.3

# Steps of the central difference, relative to max(1, ||theta||), in the order of use.
STEPS = {torch.float64: (1e-7, 1e-8, 1e-9, 1e-6), torch.float32: (1e-4, 1e-3, 3e-4, 1e-5, 3e-5, 1e-2)}
COARSE_STEPS = (1e-1, 3e-2)

# No verdict on what was being tried: else the choice would depend on what memory was free.
OUT_OF_MEMORY = (torch.cuda.OutOfMemoryError, MemoryError)

# A product is nought to rounding if over a step this long it would change the gradient by no more than
# rounding does, up to this factor.
LONG_STEP = 1e-2
ROUNDING_FACTOR = 100


@dataclass(frozen=True)
class Claim:
    """What is to be proved of every composition alike.

    Parameters
    ----------
    product
        ``(objective, composition, V (P, K)) -> (P, K)``, the matrix A times V, unchecked.
    gradient
        ``(objective, displacement (P,)) -> (P,)``, whose slope at nought is A, by plain reverse mode.
    convex
        A has no negative eigenvalue.
    squares
        ``(objective, displacement d (P,)) -> float``, which is d.Ad to second order, by forward passes alone:
        a mean of squared differences. None where A is no such mean.
    rounding
        ``(objective, dtype) -> float``: how long a product with a unit vector may be by rounding alone, where
        such a mean is of what is left when nearly equal things are taken off each other. Else None.
    reference
        The composition that others must agree with, where slopes alone tell little.
    """

    product: Callable[[Objective, str, Tensor], Tensor]
    gradient: Callable[[Objective, Tensor], Tensor]
    convex: bool = False
    squares: Callable[[Objective, Tensor], float] | None = None
    rounding: Callable[[Objective, torch.dtype], float] | None = None
    reference: str = ""

    def gradient_at(self, o: Objective) -> Tensor:
        """The gradient ``(P,)`` at the objective's own point."""
        return self.gradient(o, torch.zeros_like(o.params))


@dataclass(frozen=True)
class SlopeComparison:
    """Relative deviations of one composition's products, and what of them exceeds the tolerance.

    Parameters
    ----------
    slope_error
        From the central difference of the gradient: the worst over the directions of the least over the
        steps.
    symmetry_error
        Of u.Av from v.Au.
    failures
        What is wrong, in words; empty if nothing is.
    finite, nought
        Whether the products are.
    """

    slope_error: float
    symmetry_error: float
    failures: tuple[str, ...]
    finite: bool = True
    nought: bool = False


def tolerance_of(dtype: torch.dtype) -> float:
    """Relative deviation that is allowed where `dtype` is what one can count on."""
    return TOLERANCE.get(dtype, COARSE_TOLERANCE)


def compare_with_slope(o: Objective, name: str, claim: Claim, dtype: torch.dtype) -> SlopeComparison:
    """Judge one composition at one point by what `dtype` can tell."""
    tolerance = tolerance_of(dtype)
    V = probes(o, 2)
    AV = claim.product(o, name, V)
    # One column alone may take another route through the batching rules than a block.
    alone = torch.cat([claim.product(o, name, V[:, i : i + 1]) for i in range(V.shape[1])], dim=1)
    if not bool(torch.isfinite(AV).all() and torch.isfinite(alone).all()):
        return SlopeComparison(float("nan"), float("nan"), ("the product is not finite",), finite=False)
    v, Av = V[:, 0], AV[:, 0]
    # Along A v a matrix with few large eigenvalues shows them, and u.Av is as large as it can be, so that a
    # missing term cannot hide in a small number. Where A v is nought, any direction will do.
    u = V[:, 1] if float(Av.norm()) == 0 else Av / Av.norm()
    Au = claim.product(o, name, u[:, None])[:, 0]
    block_error = relative(AV, alone)
    slope_error = max(_slope_error(o, d, Ad, claim, dtype) for d, Ad in ((v, Av), (u, Au)))
    symmetry_error = abs(float(u.double() @ Av.double() - v.double() @ Au.double())) / (
        float(Av.norm()) or 1.0
    )
    failures = []
    if not block_error <= tolerance:
        failures.append(f"gives other columns in a block than alone, by {block_error:.0e}")
    if not slope_error <= tolerance:
        failures.append(f"differs from the slope of the gradient by {slope_error:.0e}")
    if not symmetry_error <= tolerance:
        failures.append(f"is asymmetric by {symmetry_error:.0e}")
    if claim.convex and any(float(d @ Ad) < -tolerance * float(Ad.norm()) for d, Ad in ((v, Av), (u, Au))):
        failures.append("has negative curvature although the loss is convex in the outputs")
    if claim.squares is not None:
        squares_error = max(_squares_error(o, d, Ad, claim.squares, dtype) for d, Ad in ((v, Av), (u, Au)))
        if not squares_error <= tolerance:
            failures.append(f"differs from the mean of squared slopes by {squares_error:.0e}")
    return SlopeComparison(slope_error, symmetry_error, tuple(failures), nought=not float(AV.norm()) > 0)


def vanishes(o: Objective, name: str, claim: Claim, dtype: torch.dtype) -> bool:
    """Whether the matrix is nought to rounding, in its products and in how the gradient changes.

    For a point off the kinks only: across one, a gradient changes alike at any step too.
    """
    V = probes(o, 2)
    AV = claim.product(o, name, V)
    if claim.rounding is not None and _cancels(o, V, AV, claim, dtype):
        return True
    base = claim.gradient_at(o)

    def change(relative_step: float) -> float:
        displacement = relative_step * scale(o) * V[:, 0]
        return sum(float((claim.gradient(o, s * displacement) - base).norm()) for s in (1, -1))

    # Curvature changes the gradient in proportion to the step, rounding alike at any step.
    rounding = change(min(STEPS.get(dtype, COARSE_STEPS))) + torch.finfo(dtype).eps * float(base.norm())
    bound = ROUNDING_FACTOR * rounding
    return float(AV.norm()) * LONG_STEP * scale(o) <= bound and change(LONG_STEP) <= bound


def _cancels(o: Objective, V: Tensor, AV: Tensor, claim: Claim, dtype: torch.dtype) -> bool:
    """Whether products and squared slopes are what cancellation leaves.

    A gradient whose parts cancel does not tell: its rounding grows with the step.
    """
    assert claim.rounding is not None
    assert claim.squares is not None
    bound, h = claim.rounding(o, dtype), LONG_STEP * scale(o)
    of_losses = ROUNDING_FACTOR * torch.finfo(dtype).eps * abs(o.value())
    squares = max(claim.squares(o, h * v) for v in V.T)
    return float(AV.norm(dim=0).max()) <= bound and squares <= h**2 * bound + of_losses**2


def probes(o: Objective, count: int) -> Tensor:
    """Random unit columns ``(P, count)``."""
    V = normal(generator(0, "self-check"), o.space.dim, count, like=o.params)
    return V / V.norm(dim=0)


def scale(o: Objective) -> float:
    """What lengths in parameter space are relative to."""
    return max(1.0, float(o.params.norm()))


def relative(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    """Norm of the difference over the larger norm, or over `floor` where both are small."""
    size = max(float(a.norm()), float(b.norm()), floor)
    return float((a - b).norm()) / size if size > 0 else 0.0


def _slope_error(o: Objective, d: Tensor, Ad: Tensor, claim: Claim, dtype: torch.dtype) -> float:
    """Least relative deviation from the slope along d over the steps, up to the first that will do."""
    least = float("inf")
    for relative_step in STEPS.get(dtype, COARSE_STEPS):
        h = relative_step * scale(o)
        slope = (claim.gradient(o, h * d) - claim.gradient(o, -h * d)) / (2 * h)
        least = min(least, relative(Ad, slope))
        if least <= tolerance_of(dtype):
            break
    return least


def _squares_error(
    o: Objective, d: Tensor, Ad: Tensor, squares: Callable[[Objective, Tensor], float], dtype: torch.dtype
) -> float:
    """Least deviation of d.Ad from the mean of squared slopes along d, relative to ||Ad||, over the steps."""
    found, size, least = float(d.double() @ Ad.double()), float(Ad.norm()), float("inf")
    for relative_step in STEPS.get(dtype, COARSE_STEPS):
        h = relative_step * scale(o)
        true = squares(o, h * d) / h**2
        least = min(least, abs(found - true) / (max(size, true) or 1.0))
        if least <= tolerance_of(dtype):
            break
    return least
