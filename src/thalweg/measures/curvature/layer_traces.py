"""The trace layer by layer: what results that have it share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.measurement import Measurement
from thalweg.core.param_space import ParamSpace
from thalweg.linalg.estimate import Estimate
from thalweg.objective.objective import Objective


@dataclass(frozen=True, kw_only=True, repr=False)
class LayerTraces(Measurement, ABC):
    """A trace with its parts.

    Parameters
    ----------
    layers
        Names of the ``L`` modules that own parameters, in flat order; or the blocks asked for, as they were.
    layer_traces, layer_trace_errors
        ``(L,)`` float64: the trace of each layer's diagonal block, which sum to `value`, and their standard
        errors over the samples, with one degree of freedom less than there are: over the probes, or, where a
        sample is a probe on examples of its own, over both. They share the samples, so that they are not
        independent. Samples of a layer are skewed where few directions have most of its curvature: intervals
        from a dozen of `hessian_trace` then cover 92 to 95 % where they say 95.
    """

    per_part: ClassVar[tuple[str, ...]] = (
        "layers",
        "layer_traces",
        "layer_trace_errors",
        "layer_trace_estimate",
    )

    layers: tuple[str, ...]
    layer_traces: Tensor
    layer_trace_errors: Tensor

    @property
    def layer_trace_estimate(self) -> Estimate:
        """``(L,)``: the layers' traces, with their intervals over the samples at any level."""
        return Estimate(
            self.layer_traces,
            self.layer_trace_errors,
            self._count_samples() - 1,
            torch.zeros_like(self.layer_traces),
        )

    @abstractmethod
    def _count_samples(self) -> int:
        """Samples that the layers' standard errors were estimated on."""


def layer_indices(space: ParamSpace) -> dict[str, Tensor]:
    """Entries of the flat vector by the layer that owns them; a parameter of the root module is its own."""
    parts: dict[str, list[Tensor]] = {}
    for slot in space:
        parts.setdefault(slot.layer or slot.name, []).append(torch.arange(slot.start, slot.stop))
    return {name: torch.cat(found) for name, found in parts.items()}


def blocks_of(objective: Objective, patterns: Sequence[str] | None) -> tuple[Objective, dict[str, Tensor]]:
    """The objective of the parameters in blocks alone, and each block's entries of its flat vector.

    Of `patterns` each is a block, none overlapping; ``None`` takes the layers.
    """
    if isinstance(patterns, str):
        raise TypeError(
            f"`blocks` must be a sequence of patterns, each one block, got the text {patterns!r}."
        )
    if patterns is None:
        return objective, layer_indices(objective.space)
    if not patterns:
        raise ValueError("`blocks` must hold at least one pattern, got none; leave it out for the layers.")
    names = {pattern: set(objective.space.select(pattern, "blocks").names) for pattern in patterns}
    owners: dict[str, str] = {}
    for pattern, members in names.items():
        for name in members:
            if name in owners:
                raise ValueError(
                    f"`blocks` must not overlap, but {owners[name]!r} and {pattern!r} both match {name!r}."
                )
            owners[name] = pattern
    is_all = len(owners) == len(objective.space)
    target = objective if is_all else objective.restrict(list(patterns))
    return target, {
        pattern: torch.cat([torch.arange(s.start, s.stop) for s in target.space if s.name in members])
        for pattern, members in names.items()
    }
