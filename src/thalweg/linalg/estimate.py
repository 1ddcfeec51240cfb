"""A random estimate of one number or of a curve, with where its uncertainty comes from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from thalweg.core.measurement import ErrorBudget, StandardError


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
    """

    value: Tensor
    standard_error: Tensor
    dof: int
    solver: Tensor

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
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie in (0, 1), got {level}; 0.95 is customary.")
        quantile = float(stats.t.ppf(0.5 + level / 2, self.dof)) if self.dof > 0 else math.inf
        half = (quantile * self.standard_error).nan_to_num(nan=math.inf) + self.solver
        # Infinity times nought: exact, whatever the quantile.
        half = torch.where(self.standard_error == 0, self.solver, half)
        return self.value - half, self.value + half

    def __repr__(self) -> str:
        if self.value.ndim:
            return f"Estimate({tuple(self.value.shape)})"
        low, high = self.interval()
        half = float(high - low) / 2
        return f"Estimate({float(self):.6g} {f'± {half:.2g} (95 %)' if half else 'exact'})"
