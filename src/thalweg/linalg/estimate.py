"""A random estimate of one number or of a curve, with where its uncertainty comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.core.measurement import ROUNDING, ErrorBudget, StandardError
from thalweg.core.rounding import at_least, at_most


@dataclass(frozen=True)
class Estimate:
    """Mean over independent probes; ``float(estimate)`` where it is one number.

    Parameters
    ----------
    value
        ``(...)`` float64.
    standard_error
        ``(...)`` from the spread of the probes; NaN from a single one.
    dof
        Its degrees of freedom.
    solver
        ``(...)`` what the iteration may have left, in the unit of the value.
    support
        What the number cannot lie outside of, such as 0 and 1 for a share; intervals end there.
    """

    value: Tensor
    standard_error: Tensor
    dof: int
    solver: Tensor
    support: tuple[float, float] = (-math.inf, math.inf)

    @classmethod
    def of(cls, samples: Tensor, solver: Tensor | None = None) -> Estimate:
        """Mean and standard error of samples ``(R, ...)``, one for each probe."""
        num_probes = len(samples)
        spread = samples.std(0) if num_probes > 1 else torch.full_like(samples[0], math.nan)
        value = samples.mean(0)
        return cls(
            value,
            spread / math.sqrt(num_probes),
            num_probes - 1,
            torch.zeros_like(value) if solver is None else solver,
        )

    @classmethod
    def jackknifed(
        cls, statistic: Callable[[Tensor], Tensor], samples: Tensor, solver: Tensor | None = None
    ) -> Estimate:
        """A smooth function of the mean of samples ``(R, ...)``; its standard error leaves out one at a time.

        References
        ----------
        Efron and Stein (1981), Annals of Statistics 9(3), 586-596.
        """
        num_probes, mean = len(samples), samples.mean(0)
        value = statistic(mean)
        error = torch.full_like(value, math.nan)
        if num_probes > 1:
            left_out = (num_probes * mean - samples) / (num_probes - 1)
            values = torch.stack([statistic(part) for part in left_out])
            error = (num_probes - 1) / math.sqrt(num_probes) * values.std(0)
        return cls(value, error, num_probes - 1, torch.zeros_like(value) if solver is None else solver)

    @classmethod
    def stack(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Several of one kind, with the same degrees of freedom and support, as one ``(K, ...)``."""
        (dof,), (support,) = {e.dof for e in estimates}, {e.support for e in estimates}
        value, error, solver = (
            torch.stack([getattr(e, name) for e in estimates])
            for name in ("value", "standard_error", "solver")
        )
        return cls(value, error, dof, solver, support)

    def __float__(self) -> float:
        return float(self.value)

    @property
    def budget(self) -> ErrorBudget:
        """The error budget of a single number."""
        probe = StandardError(float(self.standard_error), self.dof)
        solver = float(self.solver)
        return ErrorBudget(solver=solver or None, probe=None if probe.value == 0 else probe)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Two-sided interval ``(...)`` at confidence `level`: Student quantiles, the solver's part added."""
        check_fraction("level", level, "0.95 is customary")
        quantile = float(student_quantile(0.5 + level / 2, self.dof)) if self.dof > 0 else math.inf
        half = (quantile * self.standard_error).nan_to_num(nan=math.inf) + self.solver
        # Infinity times nought: exact, whatever the quantile.
        half = torch.where(self.standard_error == 0, self.solver, half)
        return (self.value - half).clamp(*self.support), (self.value + half).clamp(*self.support)

    def __str__(self) -> str:
        """A number with its 95 % interval, curves by their shape."""
        if self.value.ndim:
            return f"{tuple(self.value.shape)}"
        value, (low, high) = float(self), map(float, self.interval())
        half = max(high - value, value - low)
        if math.isfinite(value) and half <= ROUNDING * abs(value):
            return f"{value:.6g} exact"
        if low in self.support or high in self.support:
            return f"{value:.6g}, {at_least(low, 3)} to {at_most(high, 3)} (95 %)"
        return f"{value:.6g} ± {at_most(half, 2)} (95 %)"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"
