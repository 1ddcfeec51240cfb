"""Extreme eigenpairs of a symmetric operator: thick-restart block Lanczos with full reorthogonalisation.

The block starts from warm vectors, if any, and always from random ones too, beside them or added to them. A
small residual proves that *an* eigenvalue is near; that it is the largest rests on the random vectors,
through `certificate`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction, is_number
from thalweg.core.errors import ConvergenceError
from thalweg.linalg.block_krylov import BlockKrylov
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.wanted_pairs import WantedPairs, Which

# Of several pairs the last may be the one after: where three eigenvalues stand far above the rest, 8 of 150
# starts took the sixth for the fifth. With one more pair solved for at each end 2 did, with three none.
NUM_GUARDS = 3


def lanczos_eigenpairs(
    operator: LinearOperator,
    k: int = 1,
    *,
    rng: torch.Generator,
    which: Which = "top",
    rtol: float = 1e-3,
    start: Tensor | None = None,
    num_random: int = 1,
    min_steps: int = 3,
    certify_rtol: float | None = None,
    confidence: float = 0.99,
    max_matvecs: int = 2000,
    max_basis: int | None = None,
    max_memory_bytes: int = 2 << 30,
) -> EigenSolution:
    """Compute k extreme eigenpairs.

    It stops at the first block product after which (1) at least `min_steps` were made, (2) every wanted pair
    has a residual of at most `rtol` times the largest absolute Ritz value, so that `rtol` bounds its
    distance to an eigenvalue relative to ||A||, (3) no other pair's residual interval reaches past the last
    wanted value, and (4) the certificate is as tight as `certify_rtol` asks. An invariant subspace also ends
    it, once fresh random vectors have confirmed it. After a restart (3) holds up the stop for `PATIENCE`
    products only. Where every pair of the basis has converged, as with a spectrum narrower than `rtol` but
    for a few outliers, the wanted values must stay put for `CONFIRMATION` products, and if k > 1, since
    copies of an eigenvalue may be hidden from the start, for `PATIENCE`. At the lower end (3) and (4) reach
    no further than `operator.least_eigenvalue`, which is certain.

    If k > 1, pairs are wanted beyond those returned, `NUM_GUARDS` at each end as far as the basis holds them,
    for the last ones of a Krylov space are easily passed over; well apart they need not converge.

    Once (1) and (4) hold, a product takes only the columns that the residuals of (2) and (3) lie in.

    Which eigenvalue a pair belongs to rests on the random vectors. For the first, `top` and `bottom` of the
    result say how surely. For later ones mind that a Krylov space takes eigenvalues closer together than the
    residuals, or equal, for one, unless the block has as many columns: lower `rtol` or raise `num_random`.

    Parameters
    ----------
    operator
        A, symmetric, float32 or float64.
    k
        Pairs at each end asked for.
    rng
        CPU generator of the random vectors.
    which
        "top" (largest first), "bottom" (smallest first) or "both".
    rtol
        Bound on each residual over ||A||, in [64 eps, 1) of the operator's dtype.
    start
        ``(P, W)`` warm vectors, such as eigenvectors of a smaller problem; need not be orthonormal or
        independent. They must not depend on the numbers that `rng` will give.
    num_random
        Random vectors with columns of their own in the first block. A second one costs a column in each
        product and is worth about one more product to the probabilistic bound. 0 adds a random vector to each
        warm one instead, in its column: the next product all but wipes out what is random of the sum, for a
        random vector lies where the spectrum is small. That saves a column in each product and costs one
        product; but rounding then limits the bound, so it is for those who take the bound as it comes.
    min_steps
        Least number of block products; each gives the random vectors another chance to show a missed
        direction.
    certify_rtol
        Go on until the probabilistic bound is within this, relative to ||A||, of the extreme Ritz value.
        ``None`` reports the bound as it is.
    confidence
        Of the probabilistic bound.
    max_matvecs
        Most columns to multiply.
    max_basis
        Most basis vectors to hold, beyond what `max_memory_bytes` says.
    max_memory_bytes
        Bound on basis, products and returned vectors together.

    Raises
    ------
    ConvergenceError
        `max_matvecs` is spent; carries the partial `EigenSolution`.
    NonFiniteLossError
        A product is not finite.
    ValueError
        An argument is out of range, or the memory does not hold the smallest basis that works.

    References
    ----------
    Wu and Simon (2000), SIAM J. Matrix Anal. Appl. 22(2): thick restart. Golub and Underwood (1977): block
    Lanczos.
    """
    num_wanted = 2 * k if which == "both" else k
    check_tolerances(operator.dtype, rtol, certify_rtol, confidence)
    _check_arguments(operator, k, num_wanted, which, num_random, min_steps)
    warm = _warm_rows(operator, start)
    block = min(max(1, len(warm) + num_random), operator.dim)
    if max_matvecs < block:
        raise ValueError(f"`max_matvecs` must allow the first block of {block} columns, got {max_matvecs}.")
    num_ends = 1 + (which == "both")
    capacity, room = _capacity(operator, num_wanted, num_ends, block, max_basis, max_memory_bytes)
    num_guards = min(NUM_GUARDS, room // num_ends) if k > 1 else 0
    process = BlockKrylov(operator, warm, num_random, capacity, rng, negligible=1e-3 * rtol)
    pairs = WantedPairs(process, k, which, confidence, num_guards)
    fresh = max(1, num_random)
    first_step = 0  # of the present search
    last_values = None  # wanted values of the last search that ended in an invariant subspace

    count = process.num_pending
    while True:
        if process.num_matvecs + count > max_matvecs:
            partial = pairs.solution(converged=False)
            raise ConvergenceError(pairs.complaint(partial, rtol, max_matvecs), partial)
        process.step(count)
        pairs.update()
        tolerance = rtol * process.norm
        if process.complete:
            return pairs.solution(converged=True)
        enough = process.num_steps - first_step >= min_steps
        if process.exhausted:
            # All that the start could see is here. Further copies, and what it missed, show to fresh vectors.
            values = pairs.values[pairs.wanted]
            if last_values is not None and bool(((values - last_values).abs() <= tolerance).all()):
                return pairs.solution(converged=True)
            last_values = values if len(values) == pairs.num_wanted else None
            pairs.make_room(2 * fresh)
            process.add_random(fresh)
            if process.exhausted:  # what is left of the space is smaller than rounding
                return pairs.solution(converged=True)
            first_step = process.num_steps
            count = process.num_pending
            continue
        settled = pairs.settled(tolerance)
        certain = enough and (certify_rtol is None or pairs.gap() <= certify_rtol * process.norm)
        if settled and certain:
            return pairs.solution(converged=True)
        count = process.num_pending
        if certain:
            # The random vectors have done their work. What is left is to converge pairs, and their residuals
            # lie in as many columns of the next block as there are such pairs.
            pending = pairs.open_pairs(tolerance)
            if 0 < len(pending) < count:
                count = len(pending)
                process.turn_pending(pairs.vectors[:, pending])
        pairs.make_room(count)


def _check_arguments(
    operator: LinearOperator,
    k: int,
    num_wanted: int,
    which: str,
    num_random: int,
    min_steps: int,
) -> None:
    if which not in ("top", "bottom", "both"):
        raise ValueError(f'`which` must be "top", "bottom" or "both", got {which!r}.')
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    if num_wanted > operator.dim:
        ends = " at both ends" if num_wanted > k else ""
        raise ValueError(
            f"`k` = {k}{ends} asks for {num_wanted} eigenpairs of a matrix that has {operator.dim}."
        )
    if num_random < 0:
        raise ValueError(f"`num_random` must be at least 0, got {num_random}.")
    if min_steps < 1:
        raise ValueError(f"`min_steps` must be at least 1, got {min_steps}.")


def check_tolerances(dtype: torch.dtype, rtol: float, certify_rtol: float | None, confidence: float) -> None:
    """Refuse tolerances that cannot be met; for callers, too, who have work to do before they solve."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"`operator` must be float32 or float64, got {dtype}: too coarse to orthogonalise.")
    least = 64 * torch.finfo(dtype).eps
    if not is_number(rtol) or not least <= rtol < 1:
        raise ValueError(
            f"`rtol` must lie in [{least:.2g}, 1) for {dtype}, got {rtol!r}; below, rounding decides."
        )
    if certify_rtol is not None and not (is_number(certify_rtol) and 0 < certify_rtol < math.inf):
        raise ValueError(
            "`certify_rtol` must be a finite number above nought, or None for no demand, "
            f"got {certify_rtol!r}."
        )
    check_fraction("confidence", confidence, "0.99 is customary")


def _warm_rows(operator: LinearOperator, start: Tensor | None) -> Tensor:
    if start is None:
        return torch.zeros(0, operator.dim, dtype=operator.dtype, device=operator.device)
    if start.ndim != 2 or start.shape[0] != operator.dim:
        raise ValueError(
            f"`start` must have shape ({operator.dim}, W), warm vectors as columns, got {tuple(start.shape)}."
        )
    if not bool(torch.isfinite(start).all()):
        raise ValueError("`start` must be finite, got NaN or infinity; leave it out for a cold start.")
    if not bool(start.any()):
        raise ValueError("`start` must not be nought, got noughts alone; leave it out for a cold start.")
    return start.detach().T.to(operator.device, operator.dtype).contiguous()


def _capacity(
    operator: LinearOperator,
    num_wanted: int,
    num_ends: int,
    block: int,
    max_basis: int | None,
    max_memory_bytes: int,
) -> tuple[int, int]:
    """Basis vectors that fit beside a product, its copy and the returned vectors; how many are to spare."""
    beside = 2 * block + num_wanted
    fit = max_memory_bytes // operator.bytes_per_vector - beside
    least = min(operator.dim, num_wanted + num_ends + 2 * block)
    if fit < least:
        raise ValueError(
            f"`max_memory_bytes` must hold the smallest basis, got {max_memory_bytes:,}: {least} vectors of "
            f"{operator.dim:,} entries and {beside} beside them need "
            f"{(least + beside) * operator.bytes_per_vector:,} bytes."
        )
    if max_basis is not None and max_basis < least:
        raise ValueError(
            f"`max_basis` must be at least {least} for {num_wanted} eigenpairs and a block of {block}, "
            f"got {max_basis}."
        )
    capacity = min(operator.dim, fit, max_basis or fit)
    return capacity, capacity - least
