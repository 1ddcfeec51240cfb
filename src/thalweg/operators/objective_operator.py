r"""What all curvature matrices over an objective share: sums over micro-batches, proved before they are used.

.. math:: A = \frac1N \sum_b A_b + \lambda I

with :math:`A_b` that of a micro-batch's loss sum and :math:`\lambda` the weight decay.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.derivative_rules import OwnDerivativeRules
from thalweg.operators.folding import Pair, foldable_pairs, folded
from thalweg.operators.folding_guard import OtherUseError
from thalweg.operators.jacobians import Named
from thalweg.operators.kernels import differentiable_kernels
from thalweg.operators.self_check import SelfCheck, prove
from thalweg.operators.shared_proofs import current_proofs
from thalweg.operators.slope_comparison import Claim

# Columns that share one primal pass; more need memory and gain little.
BLOCK_SIZE = 8

# Examples times columns of a pass on a CPU: more of them no longer fit its caches, fewer cost more in calls.
# Where batches are not ours to cut, columns are.
CPU_PASS = 1024

# Columns up to which an accelerator's pass is not cut shorter; more would take several times its memory.
WHOLE_PASS_COLUMNS = 2

# What of an objective's description a proof depends on, besides names and shapes of the parameters.
PROVED_OF = ("model_code", "loss", "loss_code", "batch_norm", "has_batch_norm", "dtype", "device")

# Entries of a layer's activations, in a pass with a whole block, up to which torch's own derivative rules are
# faster than ours: there calls cost more than copies and layouts do.
LITTLE = 1 << 17


class ObjectiveOperator(LinearOperator):
    """A matrix of second derivatives, P x P, symmetric; ``A @ V`` for ``(P,)`` and ``(P, K)``.

    Before its first product it proves on one micro-batch of this very network that a composition of
    automatic differentiation gives the slope of a gradient and is symmetric, and takes the first that does
    (autodiff is silently wrong for common layers). In ``"recalibrated"`` mode the statistics of the base
    point are constants.

    A sub-class names its compositions and says how one micro-batch is multiplied and what it is the slope
    of.

    Parameters
    ----------
    objective
        The function and the point.
    composition
        ``"auto"``, or one of `compositions`, which is checked as well.
    block_size
        Columns computed together, at most.
    on_examples
        Called with the number of examples done times columns, for progress.

    Raises
    ------
    DerivativeError
        At the first product, if no composition passes.
    NonFiniteLossError
        At a product, if the loss or the product is not finite.
    """

    # Name to implementation, in the order they are tried.
    compositions: ClassVar[Mapping[str, Callable[..., Named]]]

    # Whether the L2 term belongs to the matrix.
    has_weight_decay: ClassVar[bool] = True

    def __init__(
        self,
        objective: Objective,
        composition: str = "auto",
        block_size: int = BLOCK_SIZE,
        on_examples: Callable[[int], None] | None = None,
    ) -> None:
        if composition != "auto" and composition not in self.compositions:
            raise ValueError(
                f"`composition` must be 'auto' or one of {', '.join(self.compositions)}, got {composition!r}."
            )
        check_count("block_size", block_size)
        self.objective = objective.frozen()
        self.block_size = block_size
        self.on_examples = on_examples
        self._asked = composition
        self._check: SelfCheck | None = None
        self._pairs: tuple[Pair, ...] = ()
        examples = min(objective.num_examples, objective.micro_batch, CPU_PASS // BLOCK_SIZE)
        self._rules: Callable[[], AbstractContextManager[Any]] = (
            functools.partial(OwnDerivativeRules, LITTLE // examples)
            if objective.device.type == "cpu"
            else nullcontext
        )
        super().__init__(dim=objective.space.dim, dtype=objective.dtype, device=objective.device)

    @abstractmethod
    def micro_product(self, composition: str, micro: MicroBatch, params: Named, tangents: Named) -> Named:
        """Products ``(K, ...)`` of one micro-batch's matrix, by one composition."""

    @abstractmethod
    def micro_gradient(self, micro: MicroBatch, params: Named, displacement: Named) -> Named:
        """The gradient whose slope in `displacement`, at nought, is the matrix: by another route."""

    @property
    def is_convex(self) -> bool:
        """Whether the matrix is known to have no negative eigenvalue (the L2 term apart)."""
        return False

    @property
    def least_eigenvalue(self) -> float:
        """What no eigenvalue lies below by the form of the matrix: -inf where that says nothing."""
        if not self.is_convex:
            return -math.inf
        return self.objective.weight_decay if self.has_weight_decay else 0.0

    def prepare(self, objective: Objective) -> None:
        """Compute what `prepared` needs of all the data: within a pass over them there is no other."""

    def prepared(self, micro: MicroBatch) -> MicroBatch:
        """The micro-batch with the `constants` that `micro_product` and `micro_gradient` need of it."""
        return micro

    def over(self, objective: Objective) -> Self:
        """The same matrix over other data of the same network: what was proved is not proved again."""
        return self._like(objective, self.on_examples)

    def counting(self, on_examples: Callable[[int], None]) -> Self:
        """The same operator that reports its work: examples times columns, micro-batch by micro-batch."""
        return self._like(self.objective, on_examples)

    @property
    def check(self) -> SelfCheck:
        """How the products were proved; proves them on first use, or takes over a proof that is shared."""
        if self._check is None:
            proofs = current_proofs()
            known = None if proofs is None else proofs.get(self._kind)
            if known is None:
                check = self._proved()
                known = (check, self._pairs, self._rules)
                if proofs is not None:
                    proofs[self._kind] = known
            self._check, self._pairs, self._rules = known
        assert self._check is not None
        return self._check

    @property
    def _kind(self) -> tuple[Any, ...]:
        """What a proof is a proof of."""
        o, description = self.objective, self.objective.describe()
        return (
            type(self),
            self._asked,
            *(description[key] for key in PROVED_OF),
            tuple((s.name, s.shape) for s in o.space),
        )

    def matmat(self, V: Tensor) -> Tensor:
        composition = self.check.composition
        width = min(self.block_size, V.shape[1])
        if self.device.type == "cpu" and not self.objective.passes_open:
            width = min(width, max(2, CPU_PASS // self.objective.micro_batch))
        blocks = [
            self.data_product(self.objective, composition, block, self.on_examples)
            for block in V.split(width, dim=1)
        ]
        product = torch.cat(blocks, dim=1)
        if self.has_weight_decay:
            product += self.objective.weight_decay * V
        if not bool(torch.isfinite(product).all()):
            self.objective.value()  # names the batch, where the loss itself is at fault
            raise NonFiniteLossError(
                f"a product of the {type(self).__name__} is not finite although the loss is; look for a "
                "layer whose second derivative is singular here (a norm or a square root at zero, say)."
            )
        return product

    def data_product(
        self,
        objective: Objective,
        composition: str,
        V: Tensor,
        on_examples: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Product with one block ``(P, K)`` by one composition, unchecked, without the L2 term."""
        self.prepare(objective)
        space, named = objective.space, objective.named_params
        rows = V.T.contiguous()
        tangents = {s.name: rows[:, s.start : s.stop].view(-1, *s.shape) for s in space}

        def product(micro: MicroBatch) -> Named:
            micro = self.prepared(micro)
            with self._rules():
                try:
                    with folded(objective.loss.model, self._pairs):
                        result = self.micro_product(composition, micro, named, tangents)
                except OtherUseError:  # these examples take another branch
                    result = self.micro_product(composition, micro, named, tangents)
            return result

        def count(examples: int) -> None:
            if on_examples:
                on_examples(examples * V.shape[1])

        pass_ = CPU_PASS if self.device.type == "cpu" else WHOLE_PASS_COLUMNS * objective.micro_batch
        at_most = max(1, pass_ // V.shape[1])
        with differentiable_kernels():
            total = objective.reduce(product, at_most, count, [V])
        flat = torch.cat([total[s.name].reshape(V.shape[1], -1) for s in space], dim=1)
        return flat.T / objective.num_examples

    def data_gradient(self, objective: Objective, displacement: Tensor) -> Tensor:
        """``(P,)``: what the matrix is the slope of, a displacement ``(P,)`` away, without the L2 term."""
        self.prepare(objective)
        named, moved = objective.named_params, objective.space.unflatten(displacement)
        with differentiable_kernels():
            total = objective.reduce(
                lambda micro: self.micro_gradient(self.prepared(micro), named, moved), given=[displacement]
            )
        return objective.space.flatten(total) / objective.num_examples

    def _proved(self) -> SelfCheck:
        names = list(self.compositions) if self._asked == "auto" else [self._asked]
        # Before the proof, which then is of what the products fold.
        self._pairs = foldable_pairs(self.objective)
        try:
            check = prove(self.objective, names, self._claim())
        except DerivativeError:
            if self._rules is nullcontext:
                raise
            # What no composition can do under our rules, some may under torch's.
            self._rules = nullcontext
            check = prove(self.objective, names, self._claim())
        folded_norms = tuple(norm for _, norm in self._pairs)
        return dataclasses.replace(check, folded=folded_norms, own_rules=self._rules is not nullcontext)

    def _claim(self) -> Claim:
        return Claim(self.data_product, self.data_gradient, self.is_convex, reference="double_backward")

    def _like(self, objective: Objective, on_examples: Callable[[int], None] | None) -> Self:
        _ = self.check  # what was proved and what is folded go along
        other = copy.copy(self)
        other.objective, other.on_examples = objective.frozen(), on_examples
        return other
