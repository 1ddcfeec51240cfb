r"""Gradients of an objective's independent units, one by one: of its examples, or of whole batches.

.. math:: e_u = g_u - g, \qquad g_u = \nabla_\theta \frac{1}{n_u} \sum_{i \in u} \ell_i, \quad
   g = \frac1N \sum_u n_u\, g_u

Under batch statistics an example's loss depends on its batch, so that a unit is a batch of the partition, of
:math:`n_u` examples; elsewhere it is one example. An L2 term adds the same to every g_u and does not enter.

Gradients of examples come of one `vmap` of reverse mode, with our own rule for the weights of convolutions
(`thalweg.operators.convolution`), in chunks that the memory holds; of a network that it cannot run, of plain
reverse mode, one example after the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils import _pytree as pytree

from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.core.rng import generator, normal
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.objective.reduction import Rows, summed
from thalweg.operators.derivative_rules import OwnDerivativeRules
from thalweg.operators.gradient_covariance import rounding_of
from thalweg.operators.jacobians import Named, column, gradient
from thalweg.operators.kernels import differentiable_kernels
from thalweg.operators.layer_taps import tapped_lengths
from thalweg.operators.self_check import check_examples
from thalweg.operators.slope_comparison import OUT_OF_MEMORY, relative, tolerance_of
from thalweg.operators.sum_of_squares import refuse_weights

# Units whose gradients are held at once, at the most: fewer cost more in calls, more gain nothing.
CHUNK = {"cpu": 64}
CHUNK_ACCELERATOR = 256

# Copies of a chunk that are held together: gradients, their deviations, and one on the way.
COPIES = 3

# Examples whose gradients are compared with plain reverse mode, one by one, before any is believed.
NUM_COMPARED = 4

TOGETHER, ONE_BY_ONE, BATCHES = "vmap_grad", "one_by_one", "batches"


class UnitGradients:
    """The deviations e_u of an objective's units, chunk by chunk; see the module.

    Before the first use gradients of single examples are compared with plain reverse mode, and their sum with
    the gradient of the sum.

    Parameters
    ----------
    objective
        The function and the point. In ``"recalibrated"`` mode the statistics are held constant.
    max_memory_bytes
        Bound on what a chunk of gradients takes, three vectors of length P each; one is always held.
    on_examples
        Called with the number of examples done, for progress.

    Attributes
    ----------
    sizes
        ``(U,)`` float64: examples in each unit.
    mean
        ``(P,)``: g.
    composition
        ``"vmap_grad"``, ``"one_by_one"`` or ``"batches"``.
    taps
        Whether lengths come without the gradients (`thalweg.operators.layer_taps`).

    Raises
    ------
    DerivativeError
        If single examples' gradients do not add up to that of all.
    NonFiniteLossError
        If the loss or its gradient is not finite.
    ValueError
        For weighted examples, or fewer than two units.
    """

    def __init__(
        self,
        objective: Objective,
        max_memory_bytes: int = 2 << 30,
        on_examples: Callable[[int], None] | None = None,
    ) -> None:
        refuse_weights(objective, "The covariance of gradients")
        self.objective, self.on_examples = objective.frozen(), on_examples
        self.in_batches = objective.batch_norm == "batch" and objective.has_batch_norm
        N, B = objective.num_examples, objective.batch_size if self.in_batches else 1
        self.sizes = torch.tensor([min(B, N - start) for start in range(0, N, B)], dtype=torch.float64)
        if len(self.sizes) < 2:
            what = f"batches, and batches of {B} make one of the {N} examples"
            raise ValueError(
                f"The covariance of gradients needs at least two {what if self.in_batches else 'examples'}; "
                "one has no spread."
            )
        most = CHUNK.get(objective.device.type, CHUNK_ACCELERATOR)
        bytes_each = COPIES * objective.space.dim * torch.finfo(objective.dtype).bits // 8
        self.chunk = max(1, min(most, max_memory_bytes // bytes_each))
        self.mean = self._gradient_of_all(self.objective) / N
        self._named_mean = self.objective.space.unflatten(self.mean)
        self.composition = BATCHES if self.in_batches else self._proved()
        self.taps = not self.in_batches and self._taps_proved()

    @property
    def num_units(self) -> int:
        """U."""
        return len(self.sizes)

    def each(self, fn: Callable[[Named, Tensor], Any], given: Sequence[Tensor] = ()) -> Any:
        """Sum ``fn(deviations, sizes)`` over chunks of m units, in their order.

        Parameters
        ----------
        fn
            Takes e_u by name, each ``(m, *shape)``, and :math:`n_u` ``(m,)``, both in the objective's dtype;
            returns what `Objective.reduce` sums.
        given
            What it multiplies them by.
        """

        def of_micro_batch(micro: MicroBatch) -> Any:
            return summed(fn(*deviations) for deviations in self._deviations(micro))

        with differentiable_kernels():
            return self.objective.reduce(of_micro_batch, on_examples=self.on_examples, given=given)

    def squares(self, along: Tensor) -> tuple[Tensor, Tensor]:
        """``(U,)`` float64: the squared length of every e_u, and its product with `along` ``(P,)``.

        A length that rounding alone makes is nought.
        """
        if self.taps:
            found = self._tapped_squares(along)
            if found is not None:
                return found
        rounding = rounding_of(self.mean)

        def both(deviations: Named, _sizes: Tensor) -> tuple[Rows, Rows]:
            parts = [torch.linalg.vector_norm(flat(e), dim=1).square() for e in deviations.values()]
            squares = torch.stack(parts).sum(0)
            squares = torch.where(squares <= rounding, 0.0, squares).cpu().double()
            return Rows(squares), Rows(self.dot(deviations, along[:, None])[:, 0].cpu().double())

        return self.each(both, [along])

    def _tapped_squares(self, along: Tensor) -> tuple[Tensor, Tensor] | None:
        """The same from squares of whole gradients, unless these are too long for it to show."""
        vectors = [self._named_mean, self.objective.space.unflatten(along)]

        def both(micro: MicroBatch) -> tuple[Rows, Rows]:
            found = tapped_lengths(micro, vectors)
            assert found is not None, "it was proved"
            return Rows(found[0].cpu().double()), Rows(found[1].cpu().double())

        with differentiable_kernels():
            whole, products = self.objective.reduce(both, on_examples=self.on_examples, given=[along])
        of_mean, of_along = products.unbind(1)
        mean = self.mean.cpu().double()
        squares = whole - 2 * of_mean + mean @ mean
        if not float(squares.sum()) > math.sqrt(torch.finfo(self.mean.dtype).eps) * float(whole.sum()):
            return None
        return squares.clamp(min=0), of_along - mean @ along.cpu().double()

    def slopes(self, W: Tensor, num_multiplied: int = 0) -> tuple[Tensor, Tensor]:
        """Slopes ``(U, K)`` float64 of every e_u along W ``(P, K)``, and C times the first so many columns.

        C is the covariance of the units, the mean of n_u e_u e_u'.
        """

        def both(deviations: Named, sizes: Tensor) -> tuple[Rows, Tensor]:
            slopes = self.dot(deviations, W)
            product = self.combined(deviations, sizes[:, None] * slopes[:, :num_multiplied])
            return Rows(slopes.cpu().double()), product

        slopes, product = self.each(both, [W])
        return slopes, product / self.num_units

    def dot(self, deviations: Named, W: Tensor) -> Tensor:
        """``(m, K)``: each of m deviations times each column of W ``(P, K)``."""
        parts = [flat(deviations[s.name]) @ W[s.start : s.stop] for s in self.objective.space]
        return torch.stack(parts).sum(0)

    def combined(self, deviations: Named, weights: Tensor) -> Tensor:
        """``(P, K)``: sums of the m deviations with weights ``(m, K)``."""
        return torch.cat([flat(deviations[s.name]).T @ weights for s in self.objective.space])

    def _deviations(self, micro: MicroBatch) -> Iterator[tuple[Named, Tensor]]:
        for part, gradients in self._gradients(micro):
            deviations = {k: g - self._named_mean[k] for k, g in gradients.items()}
            num_units = len(next(iter(deviations.values())))
            yield deviations, torch.full((num_units,), part.size / num_units).to(self.mean)

    def _gradients(self, micro: MicroBatch) -> Iterator[tuple[MicroBatch, Named]]:
        """The units' gradients ``(m, *shape)``, with the examples they are of."""
        if self.in_batches:
            named = gradient(micro.loss_sum, self.objective.named_params)
            yield micro, {k: g[None] / micro.size for k, g in named.items()}
            return
        size = 1 if self.composition == ONE_BY_ONE else self.chunk
        for start in range(0, micro.size, size):
            part = examples_between(micro, start, min(start + size, micro.size))
            yield part, (alone if self.composition == ONE_BY_ONE else together)(part)

    def _gradient_of_all(self, objective: Objective) -> Tensor:
        """``(P,)``: of the sum of the losses, by plain reverse mode."""
        named = objective.named_params
        with differentiable_kernels():
            total = objective.space.flatten(objective.reduce(lambda micro: gradient(micro.loss_sum, named)))
        if not bool(total.isfinite().all()):
            objective.value()  # names the batch, where the loss itself is at fault
            raise NonFiniteLossError(
                "the gradient is not finite although the loss is; look for a layer whose derivative is "
                "singular here (a norm or a square root at zero, say)."
            )
        return total

    def _proved(self) -> str:
        """The first way to take gradients of examples that agrees with plain reverse mode."""
        few = check_examples(self.objective)
        whole, tolerance = self._gradient_of_all(few), tolerance_of(few.dtype)
        reason = ""
        for name, way in ((TOGETHER, together), (ONE_BY_ONE, alone)):
            reason = _fault(few, way, whole, tolerance)
            if not reason:
                return name
        raise DerivativeError(
            f"the gradients of single examples {reason}: an example's loss seems to depend on the others of "
            "its batch, so that it has no gradient of its own. If a layer normalises over the batch, let it "
            "use stored statistics."
        )

    def _taps_proved(self) -> bool:
        """Whether lengths without gradients are to be had, and are those of gradients."""
        few = check_examples(self.objective)
        vector = normal(generator(0, "layer-taps"), few.space.dim, like=few.params)

        def both(micro: MicroBatch) -> tuple[Rows, Rows]:
            lengths = tapped_lengths(micro, [few.space.unflatten(vector)])
            gradients = alone(micro) if lengths is not None else None
            if lengths is None or gradients is None:
                return Rows(vector.new_zeros(0, 2)), Rows(vector.new_zeros(0, 2))
            rows = torch.cat([flat(gradients[name]) for name in few.space.names], 1)
            true = torch.stack([rows.norm(dim=1).square(), rows @ vector], 1)
            return Rows(torch.stack([lengths[0], lengths[1][:, 0]], 1)), Rows(true)

        try:
            with differentiable_kernels():
                found, true = few.reduce(both)
        except OUT_OF_MEMORY:
            raise
        except Exception:  # a layer that works in place, say: gradients one by one will do
            return False
        # Where layers see positions before examples, what came out is not of examples.
        if not len(found) or found.shape != true.shape:
            return False
        pairs = zip(found.T, true.T, strict=True)
        return all(relative(ours, theirs) <= tolerance_of(few.dtype) for ours, theirs in pairs)


def together(part: MicroBatch) -> Named:
    """Gradients ``(m, *shape)`` of the m examples, by one `vmap` of reverse mode."""

    def loss(params: Named, example: Any) -> Tensor:
        one = dataclasses.replace(part, batch=pytree.tree_map(lambda t: t[None], example))
        return one.losses(params)[0]

    with OwnDerivativeRules():
        return vmap(grad(loss), in_dims=(None, 0))(part.objective.named_params, part.batch)


def alone(part: MicroBatch) -> Named:
    """The same by plain reverse mode, one example after the other."""
    named = part.objective.named_params
    found = [gradient(examples_between(part, i, i + 1).loss_sum, named) for i in range(part.size)]
    return {k: torch.stack([one[k] for one in found]) for k in named}


def examples_between(micro: MicroBatch, start: int, stop: int) -> MicroBatch:
    """Some of the examples of a micro-batch, counted from its first."""
    batch = pytree.tree_map(lambda t: t[start:stop], micro.batch)
    return dataclasses.replace(micro, batch=batch, start=micro.start + start, stop=micro.start + stop)


def _fault(few: Objective, way: Callable[[MicroBatch], Named], whole: Tensor, tolerance: float) -> str:
    """What is wrong with this way to take gradients of examples, in words; empty if nothing is."""
    space = few.space

    def seen(micro: MicroBatch) -> tuple[Tensor, Tensor, Rows]:
        found = way(micro)
        rows = torch.cat([flat(found[name]) for name in space.names], 1)
        num_compared = min(NUM_COMPARED, micro.size) if micro.start == 0 else 0
        ones = [alone(examples_between(micro, i, i + 1)) for i in range(num_compared)]
        compared = [relative(rows[i], space.flatten(column(g, 0))) for i, g in enumerate(ones)]
        lengths = rows.norm(dim=1).sum().cpu().double()
        return rows.sum(0), lengths, Rows(torch.tensor(compared, dtype=torch.float64))

    try:
        with differentiable_kernels():
            total, lengths, compared = few.reduce(seen)
    except OUT_OF_MEMORY:
        raise
    except Exception as error:  # the network runs, so that a layer lacks a rule for this
        return f"cannot be taken ({(str(error).strip() or type(error).__name__).splitlines()[0][:120]})"
    if not float(compared.max()) <= tolerance:
        return f"differ from plain reverse mode by {float(compared.max()):.0e}"
    error = float((total - whole).norm()) / (float(lengths) or 1.0)
    return "" if error <= tolerance else f"do not add up to that of all, by {error:.0e}"


def flat(gradients: Tensor) -> Tensor:
    """``(m, *shape)`` as ``(m, entries)``; of a scalar parameter there is one."""
    return gradients.reshape(len(gradients), -1)
