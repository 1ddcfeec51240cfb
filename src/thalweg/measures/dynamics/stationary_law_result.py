"""What chains on a loss with several wells show of its stationary law, beside what was predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction, check_one_of
from thalweg.core.distributions import student_quantile
from thalweg.core.measurement import Measurement
from thalweg.core.rounding import at_least, at_most
from thalweg.measures.dynamics.settled import DIVERGED, STATIONARY


@dataclass(frozen=True, kw_only=True, repr=False)
class StationaryLaw(Measurement):
    r"""Occupancy of the widest well, that of the smallest det H, by C independent chains.

    ``error.probe`` is its standard error by the spread of the chains, with C - 1 degrees of freedom.

    Parameters
    ----------
    outcome
        ``"stationary"``; ``"not stationary"``: an occupancy has a trend, or hangs on where chains began;
        ``"too short"``: some well's is worth less than `min_effective_size` independent draws;
        ``"diverged"``: a chain went to infinity, and nothing is known.
    noise
        ``"isotropic"`` or ``"sgd"``.
    temperature, lr, batch_size, num_chains, burn_in, num_steps
        T; the length of a step in the unit of time; B, of SGD alone; C; and steps of each chain.
    minima, heights, determinants
        ``(M, P)``, ``(M,)``, ``(M,)`` float64: the points, the loss and det H there.
    well_temperatures
        ``(M,)``: T of isotropic noise; of SGD's, :math:`\eta\, \mathrm{tr}\,C / (2 B P)` at each minimum.
    occupancies, occupancy_errors
        ``(M,)``.
    predictions
        Names of the K laws; see `thalweg.measures.dynamics.well_predictions`.
    predicted, p_values
        ``(K, M)`` and ``(K,)``: what each says of the occupancies, and how often chance makes a gap as
        large. NaN where a law says nothing, or the chains all agree, on a well that none has found say.
    escape_times, escape_errors, num_escapes
        ``(M,)``: mean time from the core of each well into another's, standard errors, how many were seen.
        Of SGD too it is in units of time, lr a step.
    time_predictions, predicted_times, time_p_values
        Names of two laws, ``(2, M)`` and ``(2, M)``: both of isotropic noise at T.
    drifts, memories, effective_sizes
        ``(M,)``: p-values of occupancies without a trend, and of such as do not hang on the well a chain
        began in; and independent draws they are worth.
    block_occupancies
        ``(blocks, M)``: over the run, burn-in left out.
    grid_points, grid_losses
        ``(G, P)`` and ``(G,)``, the loss where quadrature was made.
    regions
        ``(G,)`` int64: the well each point belongs to.
    """

    measure: ClassVar[str] = "stationary_law"
    quantity: ClassVar[str] = "occupancy of the widest well"
    per_part: ClassVar[tuple[str, ...]] = (
        "heights",
        "determinants",
        "well_temperatures",
        "occupancies",
        "occupancy_errors",
        "escape_times",
        "escape_errors",
    )

    outcome: str
    noise: str
    temperature: float
    lr: float
    batch_size: int | None
    num_chains: int
    burn_in: int
    num_steps: int
    minima: Tensor
    heights: Tensor
    determinants: Tensor
    well_temperatures: Tensor
    occupancies: Tensor
    occupancy_errors: Tensor
    predictions: tuple[str, ...]
    predicted: Tensor
    p_values: Tensor
    escape_times: Tensor
    escape_errors: Tensor
    num_escapes: Tensor
    time_predictions: tuple[str, ...]
    predicted_times: Tensor
    time_p_values: Tensor
    drifts: Tensor
    memories: Tensor
    effective_sizes: Tensor
    block_occupancies: Tensor
    grid_points: Tensor
    grid_losses: Tensor
    regions: Tensor

    @property
    def widest(self) -> int:
        """The well of the smallest determinant."""
        return int(self.determinants.argmin())

    @property
    def is_stationary(self) -> bool:
        """Whether the occupancies are those of a law."""
        return self.outcome == STATIONARY

    def prediction(self, name: str) -> Tensor:
        """``(M,)``: the occupancies, or the escape times, that a law predicts."""
        check_one_of("name", name, (*self.predictions, *self.time_predictions))
        if name in self.predictions:
            return self.predicted[self.predictions.index(name)]
        return self.predicted_times[self.time_predictions.index(name)]

    def p_value(self, name: str) -> Tensor:
        """Of one law: a number for occupancies, ``(M,)`` for escape times."""
        check_one_of("name", name, (*self.predictions, *self.time_predictions))
        if name in self.predictions:
            return self.p_values[self.predictions.index(name)]
        return self.time_p_values[self.time_predictions.index(name)]

    def departure(self, name: str, level: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
        """Measured over predicted, ``(M,)``, with the ends of its interval: one where the law holds.

        Each well at that level by itself.
        """
        predicted, is_share = self.prediction(name), name in self.predictions
        low, high = self.occupancy_intervals(level) if is_share else self.escape_intervals(level)
        measured = self.occupancies if is_share else self.escape_times
        return measured / predicted, low / predicted, high / predicted

    def occupancy_intervals(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """``(M,)`` lower and upper ends, within 0 and 1, each well at that level by itself."""
        half = self._quantile(level) * self.occupancy_errors
        return (self.occupancies - half).clamp(min=0), (self.occupancies + half).clamp(max=1)

    def escape_intervals(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """``(M,)`` lower and upper ends of the times, the same on a logarithmic scale."""
        spread = (self._quantile(level) * self.escape_errors / self.escape_times).exp()
        return self.escape_times / spread, self.escape_times * spread

    def _quantile(self, level: float) -> float:
        check_fraction("level", level, "0.95 is customary")
        return float(student_quantile(0.5 + level / 2, self.num_chains - 1))

    @property
    def notes(self) -> list[str]:
        """What a picture must say besides."""
        batch = f", batches of {self.batch_size}" if self.batch_size else ""
        kind = {"isotropic": "isotropic noise", "sgd": "SGD's noise"}[self.noise]
        return [f"{kind}, T = {self.temperature:.3g}, lr {self.lr:.3g}{batch}, {self.num_chains:,} chains"]

    def __repr__(self) -> str:
        if self.outcome == DIVERGED:
            return f"{type(self).__name__}(diverged, {self.noise} noise)"
        low, high = (min(max(end, 0.0), 1.0) for end in self.interval(0.95))
        parts = [
            f"{self.quantity} {self.value:.4g}, {at_least(low, 4)} to {at_most(high, 4)} (95 %)",
            *(["SGD's noise"] if self.noise == "sgd" else []),
            self.outcome,
        ]
        says = [
            f"{name} {float(self.predicted[k, self.widest]):.4g} (p = {float(self.p_values[k]):.2g})"
            for k, name in enumerate(self.predictions)
            if not torch.isnan(self.p_values[k])
        ]
        return f"{type(self).__name__}({', '.join([*parts, *says, *self._circumstances()])})"
