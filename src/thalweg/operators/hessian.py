r"""The exact Hessian of an objective as a linear operator.

.. math:: H = \frac1N \sum_{i=1}^N \nabla^2_\theta\, \ell(f_\theta(x_i), y_i) + \lambda I
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.objective.objective import MicroBatch, Objective
from thalweg.operators.compositions import COMPOSITIONS, Named
from thalweg.operators.self_check import SelfCheck, check_composition

# Columns that share one primal pass; more need memory and gain little.
BLOCK_SIZE = 8


class Hessian(LinearOperator):
    """H of the mean loss, P x P, symmetric; ``H @ V`` for ``(P,)`` and ``(P, K)``.

    Before its first product it proves on one micro-batch of this very network that a composition of
    automatic differentiation gives the slope of the gradient and is symmetric, and takes the first that
    does (autodiff is silently wrong for common layers). In ``"recalibrated"`` mode the statistics of the
    base point are constants.

    Parameters
    ----------
    objective
        The function and the point.
    composition
        ``"auto"``, or one of ``"vmap_jvp_grad"``, ``"jvp_grad"``, ``"double_backward"``,
        ``"finite_differences"``; a named one is checked as well.
    block_size
        Columns computed together.
    on_examples
        Called with the number of examples done times columns, for progress.

    Raises
    ------
    DerivativeError
        At the first product, if no composition passes.
    """

    def __init__(
        self,
        objective: Objective,
        composition: str = "auto",
        block_size: int = BLOCK_SIZE,
        on_examples: Callable[[int], None] | None = None,
    ) -> None:
        if composition != "auto" and composition not in COMPOSITIONS:
            raise ValueError(
                f"`composition` must be 'auto' or one of {', '.join(COMPOSITIONS)}, got {composition!r}."
            )
        self.objective = objective.frozen()
        self.block_size = block_size
        self.on_examples = on_examples
        self._asked = composition
        self._check: SelfCheck | None = None
        super().__init__(dim=objective.space.dim, dtype=objective.dtype, device=objective.device)

    def over(self, objective: Objective) -> Hessian:
        """The Hessian over other data of the same network: what was proved here is not proved again."""
        other = Hessian(objective, self._asked, self.block_size, self.on_examples)
        other._check = self.check
        return other

    def counting(self, on_examples: Callable[[int], None]) -> Hessian:
        """The same operator that reports its work: examples times columns, micro-batch by micro-batch."""
        other = Hessian(self.objective, self._asked, self.block_size, on_examples)
        other._check = self.check
        return other

    @property
    def check(self) -> SelfCheck:
        """How the products were proved; proves them on first use."""
        if self._check is None:
            names = list(COMPOSITIONS) if self._asked == "auto" else [self._asked]
            self._check = prove(self.objective, names)
        return self._check

    def matmat(self, V: Tensor) -> Tensor:
        """``H @ V`` for ``V`` (P, K)."""
        composition = self.check.composition
        blocks = [
            hessian_block(self.objective, composition, block, self.on_examples)
            for block in V.split(self.block_size, dim=1)
        ]
        product = torch.cat(blocks, dim=1)
        if not bool(torch.isfinite(product).all()):
            self.objective.value()  # names the batch, where the loss itself is at fault
            raise NonFiniteLossError(
                "a Hessian-vector product is not finite although the loss is; look for a layer whose second "
                "derivative is singular here (a norm or a square root at zero, say)."
            )
        return product


def hessian_block(
    objective: Objective, composition: str, V: Tensor, on_examples: Callable[[int], None] | None = None
) -> Tensor:
    """``H @ V`` for one block ``(P, K)`` by one composition, unchecked."""
    named = objective.named_params
    rows = V.T.contiguous()
    tangents = {s.name: rows[:, s.start : s.stop].view(-1, *s.shape) for s in objective.space}
    differentiate = COMPOSITIONS[composition]

    def product(micro: MicroBatch) -> Named:
        result = differentiate(micro.loss_sum, named, tangents)
        if on_examples:
            on_examples(micro.size * V.shape[1])
        return result

    # Fused attention has no forward derivative; the plain kernel has all of them.
    with sdpa_kernel(SDPBackend.MATH):
        total = objective.reduce(product)
    flat = torch.cat([total[s.name].reshape(V.shape[1], -1) for s in objective.space], dim=1)
    return flat.T / objective.num_examples + objective.weight_decay * V


def prove(objective: Objective, names: list[str]) -> SelfCheck:
    """The first composition in the list that passes the self-check on this network."""
    failures: list[str] = []
    for name in names:

        def product(o: Objective, V: Tensor, name: str = name) -> Tensor:
            return hessian_block(o, name, V)

        outcome = check_composition(objective, name, product)
        if outcome.passed:
            return outcome.with_rejected(failures)
        failures.append(f"{name}: {outcome.reason}")
    raise DerivativeError(
        "no composition of automatic differentiation passed the self-check on this network, so no curvature is "
        f"reported: {'; '.join(failures)}."
    )
