"""What a trace estimator returns, and the sums over probes that it is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.measurement import StandardError
from thalweg.linalg.sum_operator import column_products


@dataclass(frozen=True)
class TraceEstimate:
    """tr(A), and what the same products say of the diagonal, its parts and the Frobenius norm.

    Parameters
    ----------
    value
        The estimate.
    error
        Its standard error and degrees of freedom; ``None`` if it is exact.
    samples
        ``(K,)`` float64, one estimate a probe; `value` is their mean.
    forms
        ``(F, K)``: the same for each summand of a `SumOperator`, else ``(1, K)``, equal to `samples`.
    weights
        ``(F,)``: those of the summands, ``samples = weights @ forms``.
    method
        ``"hutchinson"``, ``"hutch++"``, ``"xtrace"``, ``"exact"``, or ``"sampled"``.
    num_matvecs
        Columns multiplied, the pilot's included.
    parts, part_errors
        ``(L,)`` sums of the diagonal over each group of entries, and their standard errors.
    square, square_error
        ||A||_F^2 and its standard error.
    diagonal
        ``(P,)`` in the operator's dtype.
    diagonal_error
        Root mean square over the P entries of their standard errors.
    converged
        Whether the standard error reached its target.
    """

    value: float
    error: StandardError | None
    samples: Tensor
    forms: Tensor
    weights: Tensor
    method: str
    num_matvecs: int
    parts: Tensor
    part_errors: Tensor
    square: float
    square_error: float
    diagonal: Tensor
    diagonal_error: float
    converged: bool


class DiagonalTally:
    """Sums over probes, each of which gives an estimate of the diagonal of A.

    Parameters
    ----------
    groups
        ``(P,)`` int64: the part that each entry of the diagonal belongs to, from 0 to `num_groups` - 1.
    num_groups
        L.
    """

    def __init__(self, groups: Tensor, num_groups: int) -> None:
        self.groups, self.num_groups = groups, num_groups
        self._total: Tensor | None = None
        self._forms: list[Tensor] = []
        self._parts: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._lengths: list[Tensor] = []

    def add(self, diagonals: Tensor, squares: Tensor, forms: Tensor) -> None:
        """Add K probes: diagonals ``(P, K)``, estimates ``(K,)`` of ||A||_F^2, traces ``(F, K)``."""
        if self._total is None:
            self._total = torch.zeros(2, len(diagonals), dtype=diagonals.dtype, device=diagonals.device)
            self._centre = diagonals.mean(1)
        # About a centre near the mean, or the variances would drown in rounding.
        deviations = diagonals - self._centre[:, None]
        self._total[0] += deviations.sum(1)
        self._total[1] += deviations.square().sum(1)
        self._lengths.append(column_products(deviations, deviations))
        self._forms.append(forms)
        self._parts.append(self.by_group(diagonals))
        self._squares.append(squares)

    def by_group(self, diagonals: Tensor) -> Tensor:
        """Sums ``(L, K)`` over the entries of each group, float64 on the CPU."""
        sums = torch.zeros(self.num_groups, diagonals.shape[1], dtype=torch.float64)
        return sums.index_add_(0, self.groups.cpu(), diagonals.double().cpu())

    @property
    def forms(self) -> Tensor:
        """``(F, K)``: what the probes so far say of each summand's trace."""
        return torch.cat(self._forms, dim=1)

    @property
    def num_probes(self) -> int:
        """K, so far."""
        return sum(len(squares) for squares in self._squares)

    def variances(self) -> tuple[Tensor, Tensor]:
        """Mean ``(P,)`` of the diagonals so far, and their sample variances."""
        assert self._total is not None
        shift = self._total[0] / self.num_probes
        spread = (self._total[1] / self.num_probes - shift.square()).clamp(min=0)
        return self._centre + shift, spread * (self.num_probes / (self.num_probes - 1))

    def sign_variance(self) -> tuple[float, float]:
        r"""Variance of one sample :math:`v^\top B v`, v of independent signs, and its degrees of freedom.

        It is :math:`2 \sum_{i \ne j} b_{ij}^2`, twice the sum over i of the variances of
        :math:`v_i (B v)_i`: P sample variances instead of one, so that it is known far better than from the
        spread of the samples, and does not go down with them where they are skewed. Its degrees of freedom
        are Satterthwaite's, from the spread of :math:`\|v \circ B v\|^2` between probes; no B has fewer than
        one of rank one, as many as there are probes.
        """
        lengths = torch.cat(self._lengths)
        return 2 * float(self.variances()[1].double().sum()), satterthwaite(lengths)

    def estimate(
        self,
        error: StandardError,
        *,
        samples: Tensor,
        weights: Tensor,
        method: str,
        num_matvecs: int,
        converged: bool,
        correlation: float = 1.0,
    ) -> TraceEstimate:
        """Means over the probes; `correlation` multiplies every standard error but `error`."""
        root = correlation / math.sqrt(self.num_probes)
        parts, squares = torch.cat(self._parts, dim=1), torch.cat(self._squares)
        diagonal, variances = self.variances()
        return TraceEstimate(
            value=float(samples.mean()),
            error=error,
            samples=samples,
            forms=self.forms,
            weights=weights,
            method=method,
            num_matvecs=num_matvecs,
            parts=parts.mean(1),
            part_errors=root * parts.std(1),
            square=float(squares.mean()),
            square_error=root * float(squares.std()),
            diagonal=diagonal,
            diagonal_error=root * math.sqrt(float(variances.double().mean())),
            converged=converged,
        )


def satterthwaite(variances: Tensor) -> float:
    """Degrees of freedom of the mean of K estimates ``(K,)`` of a variance, at least K - 1."""
    count, mean, spread = len(variances), float(variances.mean()), float(variances.var())
    # Beyond a million Student's quantile is the normal one.
    return max(count - 1.0, min(2 * count * mean**2 / spread, 1e6) if spread > 0 else 1e6)


def exact_estimate(
    diagonal: Tensor,
    square: float,
    forms: Tensor,
    weights: Tensor,
    tally: DiagonalTally,
    num_matvecs: int,
) -> TraceEstimate:
    """The estimate that is none: every entry of the diagonal was computed."""
    parts = tally.by_group(diagonal[:, None])[:, 0]
    samples = weights @ forms
    return TraceEstimate(
        value=float(samples),
        error=None,
        samples=samples,
        forms=forms,
        weights=weights,
        method="exact",
        num_matvecs=num_matvecs,
        parts=parts,
        part_errors=torch.zeros_like(parts),
        square=square,
        square_error=0.0,
        diagonal=diagonal,
        diagonal_error=0.0,
        converged=True,
    )
