"""The eigenpairs that were asked for, followed through a block Krylov process."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from thalweg.core.precision import full_precision
from thalweg.linalg.block_krylov import BlockKrylov
from thalweg.linalg.certificate import RandomStartCertificate
from thalweg.linalg.eigen_solution import EigenSolution, SpectralBound

# Pairs that a bounded basis cannot keep never converge, and a spectrum narrower than the tolerance never
# stops being invariant: these hold up the stop no longer than this many products during which the wanted
# pairs stay put.
PATIENCE = 10

# And where one pair is wanted at an end, whose copies do not matter, all that converged held so long. Counted
# over planted spectra, more find no more: the first eigenvalue is missed as often after two as after ten.
CONFIRMATION = 2

# A guard is well apart from the last pair returned where it lies so many of its residuals beyond.
GUARD_REACH = 30.0

Which = Literal["top", "bottom", "both"]


class WantedPairs:
    """The wanted pairs of a process: which they are, whether they are settled, what is kept at a restart."""

    def __init__(
        self, process: BlockKrylov, k: int, which: Which, confidence: float, num_guards: int = 0
    ) -> None:
        self.process, self.confidence = process, confidence
        self._returned = 0 if which == "bottom" else k, 0 if which == "top" else k
        self.num_top, self.num_bottom = (n and n + num_guards for n in self._returned)
        self.values = self.residuals = torch.zeros(0, dtype=torch.float64)
        self.vectors = torch.zeros(0, 0, dtype=torch.float64)
        self._last_values, self._num_steady = self.values, 0
        self._certificate = RandomStartCertificate(
            process.num_warm,
            process.directions,
            process.operator.dim,
            confidence,
            random_shares=process.random_shares,
            num_ends=(self.num_top > 0) + (self.num_bottom > 0),
        )

    def update(self) -> None:
        """Take the Ritz pairs of the process as it stands."""
        process = self.process
        self.values, self.vectors, self.residuals = process.ritz()
        # A restart, or a block cut short, loses the random vectors' recurrences; what they have excluded
        # stays so.
        if process.num_restarts == 0 and process.whole_blocks:
            self._certificate.extend(process.H, process.noise)

    @property
    def num_wanted(self) -> int:
        """At both ends, with those that only guard the others."""
        return self.num_top + self.num_bottom

    @property
    def wanted(self) -> Tensor:
        """Indices of the wanted pairs among the descending Ritz values, in the order of the result."""
        return self._ends(self.num_top, self.num_bottom)

    def _ends(self, num_top: int, num_bottom: int) -> Tensor:
        n = len(self.values)
        num_top = min(num_top, n)
        num_bottom = min(num_bottom, n - num_top)
        return torch.cat([torch.arange(num_top), torch.arange(n - 1, n - 1 - num_bottom, -1)])

    def settled(self, tolerance: float) -> bool:
        """Rules (2) and (3) of `lanczos_eigenpairs`; to be asked once after each product."""
        before, now = self._last_values, self.values[self.wanted]
        self._last_values = now
        if len(now) < self.num_wanted or bool(self._unsettled(tolerance).any()):
            self._num_steady = 0
            return False
        steady = len(before) == len(now) and bool(((now - before).abs() <= tolerance).all())
        self._num_steady = self._num_steady + 1 if steady else 0
        # A basis with no pair left to converge is about to exhaust its start, and copies of an eigenvalue may
        # be hidden from that start: either it is exhausted, and fresh vectors follow, or this goes on within
        # tolerance. A copy of the only pair wanted at an end would change nothing.
        all_converged = bool((self.residuals <= tolerance).all())
        if self.process.num_restarts or all_converged:
            is_alone = max(self.num_top, self.num_bottom) == 1
            if self._num_steady >= (CONFIRMATION if all_converged and is_alone else PATIENCE):
                return True
            if all_converged:
                return False
        return not bool(self._contenders(tolerance).any())

    def _unsettled(self, tolerance: float) -> Tensor:
        """Which pairs ``(n,)`` of the wanted have not converged; guards well apart need not."""
        values, residuals = self.values, self.residuals
        num_top, num_bottom = self._returned
        near = torch.zeros_like(values, dtype=torch.bool)
        near[self.wanted] = True
        reach = GUARD_REACH * residuals
        if num_top:
            near[num_top : self.num_top] &= (values + reach > values[num_top - 1])[num_top : self.num_top]
        if num_bottom:
            guards = slice(len(values) - self.num_bottom, len(values) - num_bottom)
            near[guards] &= (values - reach < values[-num_bottom])[guards]
        return near & (residuals > tolerance)

    def _contenders(self, tolerance: float) -> Tensor:
        """Which pairs ``(n,)`` are not wanted yet, but may be: an eigenvalue within the residual would."""
        values, residuals = self.values, self.residuals
        reach = torch.full_like(values, -torch.inf)
        if self.num_top:
            reach = values + residuals - values[self.num_top - 1]
        if self.num_bottom:
            last = values[-self.num_bottom]
            # Below what the matrix's form allows there is nothing to reach.
            room = float(last) - self.process.operator.least_eigenvalue
            reach = torch.maximum(reach, (last - values + residuals).clamp(max=room))
        contends = (residuals > tolerance) & (reach > tolerance)
        contends[self.wanted] = False
        return contends

    def open_pairs(self, tolerance: float) -> Tensor:
        """Indices of the wanted pairs that have not converged, and of those that may yet be wanted."""
        if len(self.values) < self.num_wanted:
            return torch.arange(len(self.values))
        return (self._contenders(tolerance) | self._unsettled(tolerance)).nonzero()[:, 0]

    def bounds(self) -> tuple[SpectralBound | None, SpectralBound | None]:
        """Bounds on the largest and the smallest eigenvalue, each ``None`` if that end was not asked for."""
        highest, lowest = float(self.values[0]), float(self.values[-1])
        top, bottom = self._certificate.bounds(self.process, highest, lowest)
        return top if self.num_top else None, bottom if self.num_bottom else None

    def gap(self) -> float:
        """Widest of the bounds that were asked for."""
        return max(bound.upper - bound.lower for bound in self.bounds() if bound)

    def make_room(self, extra: int) -> None:
        """Restart if `extra` more vectors would not fit: keep the wanted pairs and half of the other room."""
        process, basis = self.process, self.process.basis
        extra = min(extra, basis.dim - basis.size)
        if basis.size + extra <= basis.capacity:
            return
        wanted = self.num_wanted
        most = basis.capacity - extra - process.num_pending
        # At least one more at each end, or a missed direction would start from nothing in every cycle.
        spare = max((most - wanted) // 2, (self.num_top > 0) + (self.num_bottom > 0))
        num_top = self.num_top + (spare if not self.num_bottom else (spare + 1) // 2 if self.num_top else 0)
        kept = self._ends(num_top, wanted + spare - num_top)
        process.restart(self.vectors[:, kept])

    def solution(self, converged: bool) -> EigenSolution:
        """The wanted pairs as they stand."""
        process, wanted = self.process, self._ends(*self._returned)
        with full_precision():
            rows = process.basis.combine(self.vectors[:, wanted])
        rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        top, bottom = self.bounds()
        return EigenSolution(
            eigenvalues=self.values[wanted],
            eigenvectors=rows.T.contiguous(),
            residuals=self.residuals[wanted],
            num_matvecs=process.num_matvecs,
            num_steps=process.num_steps,
            num_restarts=process.num_restarts,
            norm_estimate=process.norm,
            converged=converged,
            top=top,
            bottom=bottom,
        )

    def complaint(self, partial: EigenSolution, rtol: float, max_matvecs: int) -> str:
        """Why the budget did not do, and what would help."""
        wanted, found = sum(self._returned), len(partial.eigenvalues)
        reached = float(partial.residuals.max()) / (partial.norm_estimate or 1.0)
        if found == wanted and reached <= rtol:
            return (
                f"{_products(max_matvecs)} spent with {wanted} eigenpairs converged to `rtol`, but before "
                f"it was certain enough that none is missing: the bounds are {self.gap():.3g} wide"
                + (", or pairs beyond them had not converged" if self.num_wanted > wanted else "")
                + ". Raise `max_matvecs`, or `certify_rtol` (None takes the bounds as they come)."
            )
        pairs = "the eigenpair" if wanted == 1 else f"{wanted} eigenpairs"
        text = f"{_products(max_matvecs)} spent before {pairs} converged: "
        if found < wanted:
            text += f"the basis holds only {found}"
        else:
            text += f"the largest relative residual is {reached:.2g}, `rtol` asks for {rtol:.2g}"
        if self.process.noise > 0.1 * rtol * partial.norm_estimate:
            return (
                f"{text}. Products are symmetric only to {self.process.noise / partial.norm_estimate:.1g} of "
                "the norm: compute them more accurately (float64) or raise `rtol`."
            )
        if self.process.num_restarts:
            text += f" after {self.process.num_restarts} restarts"
        return f"{text}. Raise `max_matvecs`, `rtol` or the memory for the basis."


def _products(count: int) -> str:
    return "1 product was" if count == 1 else f"{count} products were"
