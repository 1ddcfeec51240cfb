"""What a run of SGD at a constant rate shows of its temperature, beside what was predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.core.measurement import Measurement, StandardError
from thalweg.core.rounding import at_least, at_most
from thalweg.measures.dynamics.settled import DIVERGED, STATIONARY


@dataclass(frozen=True, kw_only=True, repr=False)
class SGDTemperature(Measurement):
    r"""Mean of :math:`T_i = h_i \mathrm{Var}(x_i)` over k directions, in the unit of the loss, of one run.

    ``error.probe`` is its standard error by the chance of the batches, the run's correlation minded,
    ``error.solver`` what the eigenvalues may be off by. The interval is symmetric on a logarithmic scale. The
    value and all that was measured are NaN where the run diverged, and no temperature where `outcome` is not
    ``"stationary"``.

    Parameters
    ----------
    outcome
        ``"stationary"``; ``"not stationary"``: along some direction position or spread drift, by more than in
        `drift_level` of the runs that are stationary (a few times that, where samples are few);
        ``"too short"``: less than `min_effective_size` independent samples along some; ``"diverged"``.
    diverged_at
        The step at which it did, ``None`` if it did not.
    lr, momentum, nesterov, batch_size, sampling, burn_in, num_steps
        As the run was made.
    eigenvalues, eigenvectors, residuals
        ``(k,)`` float64, ``(P, k)`` and ``(k,)``: h_i and the directions, of the Hessian where the run began.
    noise_variances, noise_trace
        ``(k,)`` float64 and a number: of a step's gradient there, along these and in all directions together.
    run_noise_variances, run_noise_errors
        ``(k,)`` float64: the same along the directions during the run, and its standard errors; where it is
        larger than at the start, so is the temperature.
    temperatures, temperature_errors, temperature_dofs
        ``(k,)`` float64: measured, standard errors, their degrees of freedom.
    effective_sizes
        ``(k,)`` float64: independent samples that each is worth.
    predicted
        ``(k,)`` float64: exact for a quadratic with this noise everywhere; infinite along directions for
        which the rate is too large.
    continuous
        ``(k,)`` float64: lr c_i / (2 B (1 - momentum)), the limit of short steps, noise of examples drawn
        with replacement.
    position_drift, spread_drift
        ``(k,)`` float64: p-values of one mean position and one variance throughout the run.
    excess_loss, excess_loss_error, excess_loss_dof, excess_effective_size, excess_drift
        Mean loss over the run less the loss at its mean position, and the same of it as of temperatures.
    excess_outcome
        Of the loss, which sees all directions, what `outcome` is of the k.
    excess_low, excess_high
        Predicted: exact along the k directions, and least and most in all others, as if they had one
        curvature, of whatever size up to the last of the k. Flat ones take longer to heat up than a run is
        long; then it is less. Of negative ones there is no law.
    loss_start, loss_center
        At the beginning, and at the mean position, without the excess that the latter's own chance adds.
    loss_steps, losses, positions
        ``(R,)`` int64, ``(R,)`` and ``(R, k)`` float64: loss over all the data after these steps, burn-in
        included, and where the run was then along the directions.
    """

    measure: ClassVar[str] = "sgd_temperature"
    quantity: ClassVar[str] = "temperature"
    per_part: ClassVar[tuple[str, ...]] = (
        "eigenvalues",
        "temperatures",
        "temperature_errors",
        "effective_sizes",
        "predicted",
        "continuous",
    )

    outcome: str
    diverged_at: int | None
    lr: float
    momentum: float
    nesterov: bool
    batch_size: int
    sampling: str
    burn_in: int
    num_steps: int
    eigenvalues: Tensor
    eigenvectors: Tensor | None
    residuals: Tensor
    noise_variances: Tensor
    noise_trace: float
    run_noise_variances: Tensor
    run_noise_errors: Tensor
    temperatures: Tensor
    temperature_errors: Tensor
    temperature_dofs: Tensor
    effective_sizes: Tensor
    predicted: Tensor
    continuous: Tensor
    position_drift: Tensor
    spread_drift: Tensor
    excess_loss: float
    excess_loss_error: float
    excess_loss_dof: float
    excess_effective_size: float
    excess_drift: float
    excess_outcome: str
    excess_low: float
    excess_high: float
    loss_start: float
    loss_center: float
    loss_steps: Tensor
    losses: Tensor
    positions: Tensor

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval for the mean temperature, of the run as it is; NaN where it diverged."""
        check_fraction("level", level, "0.95 is customary")
        if not self.value > 0:
            return self.value, self.value
        ratio = math.exp(min(self.error.half_width(level) / self.value, 700.0))
        return self.value / ratio, self.value * ratio

    def temperature_intervals(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """``(k,)`` lower and upper ends for the temperatures, each at that level by itself."""
        check_fraction("level", level, "0.95 is customary")
        quantiles = student_quantile(0.5 + level / 2, self.temperature_dofs.numpy())
        halves = torch.from_numpy(np.asarray(quantiles)) * self.temperature_errors
        halves = halves + self.residuals / self.eigenvalues * self.temperatures
        ratios = torch.where(halves == 0, 0.0, halves / self.temperatures).exp()
        return self.temperatures / ratios, self.temperatures * ratios

    def excess_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval for the excess loss."""
        check_fraction("level", level, "0.95 is customary")
        half = StandardError(self.excess_loss_error, self.excess_loss_dof).half_width(level)
        return self.excess_loss - half, self.excess_loss + half

    @property
    def is_stationary(self) -> bool:
        """Whether the value is a temperature."""
        return self.outcome == STATIONARY

    @property
    def predicted_value(self) -> float:
        """Mean of the predicted temperatures: what `value` is to be compared with."""
        return float(self.predicted.mean())

    @property
    def ratios(self) -> Tensor:
        """``(k,)``: measured temperatures over predicted ones; not finite where none is predicted."""
        return self.temperatures / self.predicted

    @property
    def noise_growth(self) -> Tensor:
        """``(k,)``: variance of a step's gradient during the run over that at its start."""
        return self.run_noise_variances / self.noise_variances

    @property
    def variances(self) -> Tensor:
        """``(k,)``: of the positions along the directions."""
        return self.temperatures / self.eigenvalues

    @property
    def notes(self) -> list[str]:
        """What a picture must say besides."""
        kind = "Nesterov momentum" if self.nesterov else "momentum"
        drawn = {"replacement": "with replacement", "epochs": "shuffled"}.get(
            self.sampling, "without replacement"
        )
        return [f"lr {self.lr:g}, {kind} {self.momentum:g}, batches of {self.batch_size} drawn {drawn}"]

    def __repr__(self) -> str:
        if self.outcome == DIVERGED:
            parts = [f"diverged at step {self.diverged_at:,}"]
        else:
            low, high = self.interval(0.95)
            parts = [f"{self.quantity} {self.value:.4g}, {at_least(low, 3)} to {at_most(high, 3)} (95 %)"]
            parts.append(self.outcome)
        parts.append(f"predicted {self.predicted_value:.4g}")
        return f"{type(self).__name__}({', '.join([*parts, *self._circumstances()])})"
