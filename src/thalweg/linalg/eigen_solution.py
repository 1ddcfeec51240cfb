"""What an eigensolver returns: pairs, residuals, and where the extreme eigenvalues lie."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SpectralBound:
    """Where an extreme eigenvalue lies: one side by the Ritz value, the other with probability `confidence`.

    For the largest, `lower` is certain and `upper` probabilistic; for the smallest, the other way round.
    "Certain" is up to the rounding that was seen, which has been allowed for.
    """

    lower: float
    upper: float
    confidence: float


@dataclass(frozen=True)
class EigenSolution:
    """Eigenpairs at one or both ends of a spectrum.

    Parameters
    ----------
    eigenvalues
        ``(k,)`` float64 Ritz values: descending for the top, ascending for the bottom; for both ends ``(2
        k,)``, the top ones first. Fewer only in the partial result of a `ConvergenceError`.
    eigenvectors
        ``(P, k)`` unit columns in the operator's dtype.
    residuals
        ``(k,)`` float64 bounds on ||A x - theta x||, hence on the distance to the nearest eigenvalue;
        rounding of the operator's dtype and the asymmetry of its products are counted, so they are no
        underestimates.
    num_matvecs, num_steps, num_restarts
        Columns multiplied, the block products that took, and how often the basis was full.
    norm_estimate
        Largest absolute Ritz value: a lower bound on ||A||.
    converged
        Whether the stopping rule was met.
    top, bottom
        Bounds on the largest and on the smallest eigenvalue; ``None`` at an end that was not asked for.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    num_matvecs: int
    num_steps: int
    num_restarts: int
    norm_estimate: float
    converged: bool
    top: SpectralBound | None
    bottom: SpectralBound | None

    @property
    def bound(self) -> SpectralBound:
        """The bound on ``eigenvalues[0]``."""
        bound = self.top or self.bottom
        assert bound is not None
        return bound

    @property
    def lower_bound(self) -> float:
        """Lower end of `bound`."""
        return self.bound.lower

    @property
    def upper_bound(self) -> float:
        """Upper end of `bound`."""
        return self.bound.upper

    @property
    def confidence(self) -> float:
        """Probability with which `bound` holds."""
        return self.bound.confidence
