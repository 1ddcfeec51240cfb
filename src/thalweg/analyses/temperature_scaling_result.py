"""How the temperature of SGD grew with lr / B over a grid of runs, and where there was no such law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.core.measurement import Measurement
from thalweg.measures.dynamics.temperature_result import SGDTemperature


@dataclass(frozen=True, kw_only=True, repr=False)
class TemperatureScaling(Measurement):
    r"""`value` is the exponent b of :math:`T \propto (\eta / B)^b` over the stationary runs of a grid.

    ``error.probe`` is its standard error by the chance of the batches; where the runs do not lie on a power
    law within their errors (`fits`), that of their scatter about it, and b a mere slope.

    Parameters
    ----------
    lrs, batch_sizes
        ``(L,)`` float64 and ``(M,)`` int64: the grid.
    outcomes
        L times M texts: of each run, as in `SGDTemperature`.
    temperatures, temperature_errors, predicted, continuous
        ``(L, M)`` float64: means over the directions, as of one run; NaN where it diverged.
    departures, departure_errors
        ``(L, M)`` float64: log of the measured temperature over that of short steps, `continuous`, and its
        standard error.
    breaks
        ``(L, M)`` bool: where the law of short steps does not hold: the run diverged or is not stationary, or
        the departure surely exceeds `tolerance`, at 95 % for all runs together.
    tolerance
        As asked.
    log_factor, p_value, fits, num_fitted
        log T at lr / B = 1; how often runs on a power law scatter by more, and whether that is at least one
        in a hundred; runs that were fitted.
    exponents, exponent_errors, exponent_dofs
        ``(2,)`` float64: of lr and of 1 / B, fitted apart: two equal ones are what makes a law of lr / B.
        NaN where the stationary runs do not tell them apart. As of the value, standard errors are by the
        chance of the batches or by the scatter.
    runs
        All of them, one rate after the other, without eigenvectors.
    """

    measure: ClassVar[str] = "temperature_scaling"
    quantity: ClassVar[str] = "exponent of lr / B"

    lrs: Tensor
    batch_sizes: Tensor
    outcomes: tuple[tuple[str, ...], ...]
    temperatures: Tensor
    temperature_errors: Tensor
    predicted: Tensor
    continuous: Tensor
    departures: Tensor
    departure_errors: Tensor
    breaks: Tensor
    tolerance: float
    log_factor: float
    p_value: float
    fits: bool
    num_fitted: int
    exponents: Tensor
    exponent_errors: Tensor
    exponent_dofs: Tensor
    runs: tuple[SGDTemperature, ...]

    @property
    def ratios(self) -> Tensor:
        """``(L, M)``: lr / B."""
        return self.lrs[:, None] / self.batch_sizes

    def exponent_intervals(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """``(2,)`` lower and upper ends for the exponents of lr and 1 / B, each at that level by itself."""
        check_fraction("level", level, "0.95 is customary")
        quantiles = torch.from_numpy(student_quantile(0.5 + level / 2, self.exponent_dofs.numpy()))
        halves = quantiles * self.exponent_errors
        return self.exponents - halves, self.exponents + halves

    @property
    def holds_up_to(self) -> float:
        """Largest lr / B of the grid up to which nothing was seen to break the law; nought if none."""
        ratios, broken = self.ratios.flatten(), self.breaks.flatten()
        first = float(ratios[broken].min()) if bool(broken.any()) else math.inf
        below = ratios[ratios < first]
        return float(below.max()) if len(below) else 0.0

    def _circumstances(self) -> list[str]:
        runs = f"{self.num_fitted} of {len(self.runs)} runs"
        broken = int(self.breaks.sum())
        return [
            *([] if self.fits else ["no power law within the errors"]),
            runs,
            *([f"T = lr c / (2 B (1 - momentum)) breaks in {broken}"] if broken else []),
            *super()._circumstances(),
        ]
