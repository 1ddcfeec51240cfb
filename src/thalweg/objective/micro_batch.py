"""A slice of an objective's data: what `Objective.reduce` hands to its function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.objective.losses import Batch, cast_floating

if TYPE_CHECKING:
    from thalweg.objective.examples import Examples
    from thalweg.objective.objective import Objective

# Keeps activations in a CPU's cache. A fixed number, so that two runs of one configuration add up in the same
# order.
MICRO_BATCH = 128

# An accelerator gains by no cache, and waits for the program between small passes. A forward pass writes no
# more than so many bytes there, which a second derivative takes a few times over; more examples gain little.
PASS_BYTES = 2 << 30
MOST_EXAMPLES = 4096


def resolve_micro_batch(asked: int | str, partition: int | None) -> int:
    """Examples a pass: what was asked, or a CPU's; the batch where the loss depends on the partition."""
    if asked != "auto":
        check_count("micro_batch", asked)
    if partition is not None:
        return partition
    return MICRO_BATCH if asked == "auto" else int(asked)


def accelerator_micro_batch(bytes_of_example: float) -> int:
    """Examples a pass on an accelerator, by what a forward pass writes for one: a power of two.

    >>> [accelerator_micro_batch(size) for size in (1e3, 1e6, 1e8, 1e10)]
    [4096, 2048, 16, 1]
    """
    fitting = min(MOST_EXAMPLES, int(PASS_BYTES / max(1.0, bytes_of_example)))
    return 1 << max(0, fitting.bit_length() - 1)


@dataclass(frozen=True)
class MicroBatch:
    """One slice of the data as a function of the parameters.

    Parameters
    ----------
    objective
        Where it comes from; its point is the default.
    batch
        The tensors, on the objective's device.
    start, stop
        Which examples these are.
    weights
        ``(B,)``: what the losses are multiplied by; ``None`` for one.
    constants
        What an operator has computed of them beforehand and holds fixed while it differentiates.
    """

    objective: Objective
    batch: Batch
    start: int
    stop: int
    weights: Tensor | None = None
    constants: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.stop - self.start

    @property
    def is_whole(self) -> bool:
        """Whether it is as large as the first one; the last may not be."""
        return self.size == min(self.objective.micro_batch, self.objective.num_examples)

    def losses(self, params: dict[str, Tensor] | None = None) -> Tensor:
        """Per-example losses ``(B,)`` at named parameters (default: the objective's own), without L2.

        Times their weights, where the objective has any.
        """
        return self.weighted(self.objective._forward(self.batch, params)[0])

    def weighted(self, per_example: Tensor) -> Tensor:
        """Numbers ``(B,)`` of the examples times the examples' weights."""
        return per_example if self.weights is None else per_example * self.weights

    def outputs(self, params: dict[str, Tensor] | None = None) -> Any:
        """What the model puts out at named parameters; None where the loss takes the model itself."""
        return self.objective._forward(self.batch, params)[1]

    def losses_of(self, outputs: Any) -> Tensor:
        """Per-example losses ``(B,)`` of outputs, these taken as given; see `LossModule.losses_of`."""
        return self.weighted(self.objective.loss.losses_of(outputs, self.batch))

    def loss_sum(self, params: dict[str, Tensor] | None = None) -> Tensor:
        """Sum of the per-example losses, a scalar that can be differentiated."""
        return self.losses(params).sum()


def cut(objective: Objective, examples: Examples, start: int, size: int) -> MicroBatch:
    """At most `size` of `examples` from `start` on, on the objective's device and in its dtype."""
    stop = min(start + size, examples.num_examples)
    batch = cast_floating(examples.slice(start, stop), objective.dtype, objective.device)
    weights = examples.weights
    if weights is not None:
        weights = weights[start:stop].to(objective.dtype).to(objective.device)
    return MicroBatch(objective, batch, start, stop, weights)
