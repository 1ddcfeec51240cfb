"""One pass over an objective's data: all its micro-batches, or this rank's together with all other ranks'."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thalweg.objective.batch_norm import recalibrate_batch_norm
from thalweg.objective.checksum import checksum
from thalweg.objective.examples import Examples
from thalweg.objective.isolation import isolated
from thalweg.objective.micro_batch import MicroBatch, cut
from thalweg.objective.reduction import summed, without_marks

if TYPE_CHECKING:
    from thalweg.objective.objective import Objective


def over_data(
    objective: Objective,
    fold: Callable[[Iterator[MicroBatch]], Any],
    examples: Examples | None = None,
    size: int | None = None,
    on_examples: Callable[[int], None] | None = None,
    given: Sequence[Tensor] = (),
) -> Any:
    """What `fold` makes of the micro-batches, in their order, with `Rows` as plain tensors.

    Parameters
    ----------
    fold
        Consumes an iterator over at least one micro-batch, and returns tensors, each a sum, or `Rows`.
    examples, size
        Default: the objective's own.
    on_examples, given
        As in `Objective.reduce`.
    """
    examples, size = examples or objective._examples, size or objective.micro_batch
    starts, ranks = range(0, examples.num_examples, size), objective._ranks
    share, counts = (starts, True) if ranks is None else ranks.share(starts)

    def own() -> Iterator[MicroBatch]:
        passed, told, whole = 0, 0, min(share[-1] + size, examples.num_examples) - share[0]
        for start in share:
            micro = cut(objective, examples, start, size)
            yield micro
            passed += micro.size
            if on_examples:  # of all ranks' examples as many as of its own, in parts
                done = examples.num_examples * passed // whole
                on_examples(done - told)
                told = done

    if ranks is None:
        return without_marks(fold(own()))
    point = objective.params, *objective._constants.values(), *objective.buffers.values()
    taken = zlib.crc32(repr((examples.origin, examples.num_examples, size)).encode())
    identity = checksum(*point), taken, checksum(*given)
    return without_marks(ranks.joined(lambda: fold(own()), counts, identity))


def reduced(
    objective: Objective,
    fn: Callable[[MicroBatch], Any],
    at_most: int | None,
    on_examples: Callable[[int], None] | None,
    given: Sequence[Tensor],
) -> Any:
    """The body of `Objective.reduce`."""
    with isolated(objective.device):
        # Known before `fn` starts a transform, inside which they would be that transform's tensors.
        _ = objective.effective_buffers
        whole = objective.micro_batch
        size = min(at_most or whole, whole) if objective.passes_open else None
        return over_data(objective, lambda passing: summed(map(fn, passing)), None, size, on_examples, given)


def recalibrated(objectives: Sequence[Objective]) -> list[dict[str, Tensor]]:
    """Buffers of points of one function, each with exact statistics over the calibration data in place."""
    one = objectives[0]
    layers = {name: one._network.norm_layers[name] for name in one._network.norm_order}
    with isolated(one.device):
        return recalibrate_batch_norm(
            layers,
            [o.buffers for o in objectives],
            lambda fold: over_data(one, fold, one._calibration, given=[o.params for o in objectives]),
            lambda micro, i, buffers: objectives[i]._forward(micro.batch, None, buffers),
        )
