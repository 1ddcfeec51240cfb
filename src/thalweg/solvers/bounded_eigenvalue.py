"""Results whose value is an extreme eigenvalue: bounds on it, and the words for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from thalweg.core.measurement import ROUNDING, ErrorBudget, Measurement
from thalweg.core.rounding import at_least, at_most
from thalweg.linalg.eigen_solution import EigenSolution


@dataclass(frozen=True, kw_only=True, repr=False)
class BoundedEigenvalue(Measurement):
    """An extreme eigenvalue: `value` is within ``error.solver`` of *an* eigenvalue.

    Parameters
    ----------
    lower_bound, upper_bound
        Of the extreme eigenvalue itself. The Ritz value is a certain bound on one side; on the other the
        bound holds with probability `confidence`, by what random vectors would have shown.
    confidence
        Of that bound.
    """

    lower_bound: float
    upper_bound: float
    confidence: float

    @property
    def is_bottom(self) -> bool:
        """Whether `value` is the smallest eigenvalue rather than the largest."""
        return False

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the extreme eigenvalue lies: between the bounds up to a `level` of `confidence`.

        Beyond that, nothing bounds it on the far side.
        """
        super().interval(level)  # for its check of `level`
        if level <= self.confidence:
            return self.lower_bound, self.upper_bound
        return (-math.inf, self.upper_bound) if self.is_bottom else (self.lower_bound, math.inf)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._parts())})"

    def _parts(self) -> list[str]:
        """What the one line says."""
        bound = not_below(self.lower_bound, self.confidence)
        if not self.is_bottom:
            bound = not_above(self.upper_bound, self.confidence)
        return [ritz_pair(self.value, self.error.solver or 0.0), bound, *self._circumstances()]


def largest_of(solution: EigenSolution) -> dict[str, Any]:
    """The fields of a `BoundedEigenvalue` that a solution for the largest eigenvalue fills."""
    return {
        "value": float(solution.eigenvalues[0]),
        "error": ErrorBudget(solver=float(solution.residuals[0])),
        "lower_bound": solution.lower_bound,
        "upper_bound": solution.upper_bound,
        "confidence": solution.confidence,
    }


def ritz_pair(value: float, residual: float) -> str:
    """A value with its residual."""
    return f"{value:.6g} {f'± {at_most(residual, 2)}' if residual > ROUNDING * abs(value) else 'exact'}"


def not_below(bound: float, confidence: float) -> str:
    """In words, rounded down."""
    return f"at least {at_least(bound)} ({100 * confidence:.4g} %)"


def not_above(bound: float, confidence: float) -> str:
    """In words, rounded up."""
    return f"at most {at_most(bound)} ({100 * confidence:.4g} %)"
