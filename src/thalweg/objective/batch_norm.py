"""Batch norm, declared: which function of the parameters is measured under each of the three modes.

``running``
    The stored statistics, constant.
``recalibrated``
    The exact mean and (population) variance over the calibration data, recomputed at every point that is
    evaluated. Layer by layer in the order of execution: the statistics of a layer are those of its inputs
    when every earlier layer already uses its own exact ones, so that they are what one batch of all the
    calibration data would give, whatever the micro-batch. Derivatives hold them constant.
``batch``
    Each batch's own statistics, differentiated through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.core.precision import full_precision
from thalweg.objective.reduction import Rows

BatchNormMode = Literal["running", "recalibrated", "batch"]
MODES: tuple[BatchNormMode, ...] = ("running", "recalibrated", "batch")

STATISTICS = ("running_mean", "running_var")


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch-norm layers by name (instance norm is not one)."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}


def is_statistic(name: str, layers: dict[str, _BatchNorm]) -> bool:
    """Whether the buffer `name` belongs to a batch-norm layer: statistics or their counter."""
    return name.rpartition(".")[0] in layers


def prepare_batch_norm(model: nn.Module, mode: BatchNormMode) -> dict[str, _BatchNorm]:
    """Put a private copy into `mode`; returns its batch-norm layers. Only these change mode.

    In ``batch`` mode a layer is told that it tracks nothing: torch then uses each batch's statistics and
    writes none in place, which is what transforms such as ``vmap`` need.
    """
    layers = batch_norm_layers(model)
    for name, layer in layers.items():
        layer.train(mode == "batch")
        if mode == "batch":
            layer.track_running_stats = False
        elif layer.running_mean is None or layer.running_var is None:
            if mode == "running":
                raise ValueError(
                    f"`batch_norm='running'` needs stored statistics, but layer {name!r} keeps none "
                    "(track_running_stats=False); use 'recalibrated' or 'batch'."
                )
            reference = next(model.parameters())
            layer.running_mean = reference.new_zeros(layer.num_features)
            layer.running_var = reference.new_ones(layer.num_features)
            layer.track_running_stats = True
    return layers


def execution_order(layers: dict[str, _BatchNorm], forward: Callable[[], None]) -> list[str]:
    """Names of the layers one forward pass reaches, in order.

    Raises
    ------
    ValueError
        If a layer is used twice: its exact statistics would depend on themselves.
    """
    order: list[str] = []

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, _inputs: order.append(name)

    handles = [layer.register_forward_pre_hook(noting(name)) for name, layer in layers.items()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    twice = sorted({name for name in order if order.count(name) > 1})
    if twice:
        raise ValueError(
            "`batch_norm='recalibrated'` needs each batch-norm layer used once a pass, but "
            f"{', '.join(twice)} is used more often and its statistics would depend on themselves; use "
            "'running' or 'batch'."
        )
    return order


def recalibrate_batch_norm(
    layers: Mapping[str, _BatchNorm],
    buffers: Sequence[Mapping[str, Tensor]],
    over_data: Callable[[Callable[[Iterable[Any]], Any]], Any],
    forward: Callable[[Any, int, dict[str, Tensor]], object],
) -> list[dict[str, Tensor]]:
    """Buffers of several points with the exact statistics of each point in place.

    Parameters
    ----------
    layers
        Batch-norm layers by name, in the order of execution.
    buffers
        Each point's buffers by name.
    over_data
        Hands a function the calibration data, batch by batch, and gives what it returns, `Rows` as tensors.
    forward
        ``forward(batch, i, buffers)`` runs point `i` with these buffers; one pass per layer over the data,
        each ending at that layer.
    """
    results = [dict(b) for b in buffers]
    with torch.no_grad():
        for name, layer in layers.items():

            def fold(batches: Iterable[Any], layer: _BatchNorm = layer) -> list[tuple[Rows, ...]]:
                moments: list[Moments | None] = [None] * len(results)
                for batch in batches:
                    for i, point in enumerate(results):
                        new = _moments_of_inputs(layer, lambda b=batch, i=i, p=point: forward(b, i, p))
                        old = moments[i]
                        moments[i] = new if old is None else old.merge(new)
                return [moment.as_rows() for moment in moments if moment is not None]

            for point, rows in zip(results, over_data(fold), strict=True):
                moment = Moments.of_all(*rows)
                point[f"{name}.running_mean"] = moment.mean.to(point[f"{name}.running_mean"])
                point[f"{name}.running_var"] = moment.var.to(point[f"{name}.running_var"])
    return results


class _ReachedLayer(BaseException):
    """Ends a forward pass once the layer whose inputs were wanted has seen them.

    Control flow, not an error: a model that catches `Exception` must not catch this.
    """


def _moments_of_inputs(layer: _BatchNorm, forward: Callable[[], object]) -> Moments:
    seen: list[Moments] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        seen.append(Moments.of(inputs[0] if inputs else named["input"]))
        raise _ReachedLayer

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with suppress(_ReachedLayer):
            forward()
    finally:
        handle.remove()
    if not seen:
        raise ValueError(
            "`batch_norm='recalibrated'` needs every batch to reach the same batch-norm layers, but one "
            "skips a layer that others use; use 'running' or 'batch'."
        )
    return seen[0]


@dataclass
class Moments:
    """Count, mean ``(C,)`` and population variance ``(C,)`` per channel, in float64 where there is one."""

    count: int
    mean: Tensor
    var: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Moments of activations ``(B, C, ...)`` over all but the channel dimension."""
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        # Half precision overflows in sums of squares; single precision is exact enough within an example.
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        rows = x.movedim(1, -1).reshape(len(x) if x.ndim > 2 else 1, -1, x.shape[1])  # (B, positions, C)
        # About the first example's means, so that squares do not cancel against a large mean. Sums as matrix
        # products: on channels-last activations ten times faster than `var_mean`, as accurate, and unlike
        # the batch norm kernel's own sums not wrong by 1e-4.
        centre = rows[0].mean(0)
        rows = rows - centre
        averages = rows.new_full((len(rows), 1, rows.shape[1]), 1 / rows.shape[1])
        with full_precision():
            means = torch.bmm(averages, rows)[:, 0].to(wide)
            squares = torch.bmm(averages, rows.square())[:, 0].to(wide)
        mean = means.mean(0)
        var = (squares - means.square()).clamp_min(0).mean(0) + (means - mean).square().mean(0)
        return cls(x.numel() // x.shape[1], centre.to(wide) + mean, var)

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub and LeVeque 1979), without cancellation."""
        count = self.count + other.count
        delta, share = other.mean - self.mean, other.count / count
        mean = self.mean + share * delta
        var = self.var + share * (other.var - self.var) + share * (1 - share) * delta.square()
        return Moments(count, mean, var)

    def as_rows(self) -> tuple[Rows, Rows, Rows]:
        """One row of each, for `of_all`."""
        return Rows(torch.tensor([self.count])), Rows(self.mean[None]), Rows(self.var[None])

    @classmethod
    def of_all(cls, counts: Tensor, means: Tensor, variances: Tensor) -> Moments:
        """Moments of m samples together, from their counts ``(m,)``, means and variances ``(m, C)``."""
        first, *others = (cls(*part) for part in zip(counts.tolist(), means, variances, strict=True))
        for other in others:
            first = first.merge(other)
        return first
