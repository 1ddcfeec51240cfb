"""What a monitor saw along a training run, as one result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.analyses.monitor_readings import Numbers
from thalweg.core.measurement import Measurement


@dataclass(frozen=True, kw_only=True, repr=False)
class MonitoredRun(Measurement):
    """K readings of a training run; `value` is the last loss of the probe, exact.

    Parameters
    ----------
    steps
        ``(K,)`` int64, of the optimizer.
    readings
        By name ``(K,)`` float64, NaN where it was not measured; `Monitor.step` says what the names mean.
    failures
        Of measures, each with its ``step``, ``measure`` and ``message``.
    """

    measure: ClassVar[str] = "monitor"
    quantity: ClassVar[str] = "last loss"

    steps: Tensor
    readings: Mapping[str, Tensor]
    failures: Sequence[Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        history: Sequence[Numbers],
        keys: Sequence[str],
        failures: Sequence[Mapping[str, Any]],
        provenance: Mapping[str, Any],
    ) -> MonitoredRun:
        """From what `Monitor.step` returned."""

        def column(key: str) -> Tensor:
            values = [n.get(key) for n in history]
            return torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)

        readings = {key: column(key) for key in keys if key not in ("step", "seconds", "overhead")}
        return cls(
            value=float(readings["loss"][-1]) if history else math.nan,
            provenance=provenance,
            steps=column("step").long(),
            readings=readings,
            failures=list(failures),
        )

    def measured(self, key: str) -> tuple[Tensor, Tensor]:
        """Steps and values ``(M,)`` of one number, where it was measured."""
        values = self.readings[key]
        there = ~values.isnan()
        return self.steps[there], values[there]

    @property
    def catapults(self) -> list[int]:
        """Steps at which one was seen to end."""
        flags = self.readings.get("catapult")
        return [] if flags is None else self.steps[flags == 1].tolist()

    @property
    def diverged_at(self) -> int | None:
        """The first step with a loss or gradient that was not finite."""
        steps = self.steps[self.readings["diverged"] == 1].tolist()
        return steps[0] if steps else None
