"""Evaluating an objective at one point or at many: mean loss, accuracy, and the loss of every example."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.objective.compilation import COMPILED, EAGER, away, compiled, first_micro_batch, is_compiled
from thalweg.objective.isolation import isolated
from thalweg.objective.passes import over_data, recalibrated
from thalweg.objective.reduction import Rows, summed

if TYPE_CHECKING:
    from thalweg.objective.micro_batch import MicroBatch
    from thalweg.objective.objective import Objective

Point = tuple[Tensor, Mapping[str, Tensor] | None]

# Points evaluated together share each micro-batch; this bounds the memory of their parameters.
POINT_GROUP_BYTES = 2**30


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy at one point. `loss` leaves the L2 term out; `penalty` is that term."""

    loss: float
    accuracy: float | None
    num_examples: int
    penalty: float = 0.0


@dataclass(frozen=True)
class PointEvaluations:
    """The loss at T points on the same N examples: what paired standard errors need.

    `losses` (T,) without the L2 term and `accuracies` (T,) (NaN without classes) are float64;
    `example_losses` and `example_correct` are (T, N); `passes` says whether they were compiled.
    """

    losses: Tensor
    accuracies: Tensor
    example_losses: Tensor
    example_correct: Tensor
    passes: str = EAGER


class PointEvaluator:
    """`Objective.evaluate_points` for points that come in several calls: the pass is compiled once for all.

    Parameters
    ----------
    objective
        Gives the examples, and the network that is compiled for micro-batches of their usual size.
    num_points
        How many there will be in all, which decides whether compiling pays.

    Attributes
    ----------
    passes
        Whether they are compiled, in words.
    """

    def __init__(self, objective: Objective, num_points: float) -> None:
        self._objective = objective
        self._forward, self._size, self.passes = None, 0, EAGER
        if not is_compiled(objective, num_points):
            return
        with isolated(objective.device), torch.no_grad():
            micro, tensors = first_micro_batch(objective), objective.named_tensors
            folds = objective.has_batch_norm and objective.batch_norm != "batch"
            forward, self.passes = compiled(
                objective._network.__call__,
                micro.batch,
                tensors,
                elsewhere=(micro.batch, away(tensors, objective.buffers)) if folds else None,
            )
        if self.passes == COMPILED:
            self._forward, self._size = forward, micro.size

    def on(self, objective: Objective) -> PointEvaluator:
        """The same for other examples of the same function."""
        other = copy.copy(self)
        other._objective = objective
        return other

    def __call__(
        self,
        points: Iterable[Point],
        on_point: Callable[[int], None] | None = None,
        allow_non_finite: bool = False,
    ) -> PointEvaluations:
        """See `Objective.evaluate_points`."""
        objective = self._objective
        with isolated(objective.device):
            losses: list[Tensor] = []
            correct: list[Tensor] = []
            iterator, done = iter(points), 0
            group = max(1, POINT_GROUP_BYTES // (objective.space.dim * objective.params.element_size()))
            while chunk := list(islice(iterator, group)):
                placed = _placed(objective, chunk)

                def rows(micro: MicroBatch, placed: list[Objective] = placed) -> tuple[Rows, ...]:
                    parts = [self._losses_and_correct(o, micro, allow_non_finite) for o in placed]
                    return tuple(Rows(torch.stack(column, 1)) for column in zip(*parts, strict=True))

                with torch.no_grad():
                    found = over_data(
                        objective,
                        lambda passing, rows=rows: summed(map(rows, passing)),
                        on_examples=_telling(on_point, done, len(chunk), objective.num_examples),
                        given=[t for o in placed for t in (o.params, *o.buffers.values())],
                    )
                for row, table in zip(found, (losses, correct), strict=True):
                    table.append(row.T.contiguous().cpu())
                done += len(chunk)
        if not losses:
            raise ValueError("`points` must hold at least one point, got none.")
        every, right = torch.cat(losses), torch.cat(correct)
        return PointEvaluations(every.double().mean(1), right.double().mean(1), every, right, self.passes)

    def _losses_and_correct(
        self, objective: Objective, micro: MicroBatch, allow_non_finite: bool
    ) -> tuple[Tensor, Tensor]:
        if self._forward is None or micro.size != self._size:
            losses, outputs = objective._forward(micro.batch)
        else:
            losses, outputs = self._forward(micro.batch, objective.named_tensors)
        if not allow_non_finite and not bool(torch.isfinite(losses).all()):
            bad = micro.start + int((~torch.isfinite(losses)).nonzero()[0])
            raise NonFiniteLossError(
                f"the loss is not finite: example {bad}, in the batch of examples {micro.start} to "
                f"{micro.stop - 1}, has loss {float(losses[bad - micro.start])}.{_not_finite(objective)}"
            )
        module, losses = objective._network.module, micro.weighted(losses)
        if module.classifies and outputs is not None:
            return losses, micro.weighted(module.correct(outputs, micro.batch))
        return losses, torch.full_like(losses, math.nan)


def _telling(
    on_point: Callable[[int], None] | None, done: int, num_points: int, num_examples: int
) -> Callable[[int], None] | None:
    """What counts examples and tells the points done, `done` of them before."""
    if on_point is None:
        return None
    passed = 0

    def add(count: int) -> None:
        nonlocal passed
        passed += count
        on_point(done + num_points * passed // num_examples)

    return add


def l2_term(objective: Objective, params: Tensor) -> float:
    """``weight_decay / 2 * ||params||^2`` there, what `Objective.restrict` made constant included.

    Summed in float64 on the CPU: not every device knows float64.
    """
    if not objective.weight_decay:
        return 0.0
    held = [p for k, p in objective._constants.items() if k in objective._network.space.names]
    return 0.5 * objective.weight_decay * sum(float(p.cpu().double().square().sum()) for p in [params, *held])


def independent_unit(objective: Objective, population: bool) -> int:
    """Consecutive examples that stand or fall together: one, or a batch where the batches share statistics.

    Raises
    ------
    ValueError
        If a standard error for the `population` is asked of a single unit, which shows no spread.
    """
    size = objective.batch_size if objective._partitioned else 1
    if population and objective.num_examples <= size:
        raise ValueError(
            "`population=True` needs at least two independent units, and an example, or a batch in 'batch' "
            f"mode, is one: got {objective.num_examples} examples in units of {size}; pass more data, or a "
            "smaller batch_size."
        )
    return size


def _placed(objective: Objective, points: list[Point]) -> list[Objective]:
    """The objective at several points; recalibrated together, so that the data are read once a layer."""
    # A single point is often the objective's own, whose recalibrated buffers may be known already.
    if len(points) == 1 and points[0][0] is objective.params and points[0][1] is objective.buffers:
        _ = objective.effective_buffers  # before the pass, in which no other one may begin
        return [objective]
    placed = [objective.at(params, buffers) for params, buffers in points]
    if objective._recalibrates:
        for other, buffers in zip(placed, recalibrated(placed), strict=True):
            other.__dict__["effective_buffers"] = buffers
    return placed


def _not_finite(objective: Objective) -> str:
    """Which tensors of the network are to blame, if any."""
    names = [k for k, t in objective.named_tensors.items() if not bool(torch.isfinite(t).all())]
    return f" In the network {', '.join(names)} is not finite." if names else ""
