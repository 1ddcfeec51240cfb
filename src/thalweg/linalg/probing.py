"""Random probes of an operator, their products block by block, and how many there may be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.rng import normal
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.sum_operator import SumOperator, column_products

# Columns multiplied together, where the memory holds them.
BLOCK = 8


class Probing:
    """An operator with its probes' generator and its budget.

    Parameters
    ----------
    operator
        A. Of a `SumOperator` the forms of each summand are kept apart.
    rng
        CPU generator.
    max_matvecs
        Columns that may be multiplied.
    on_plan
        Called with the number of columns expected in all, whenever that is settled anew.
    block
        Columns multiplied together at the most.

    Attributes
    ----------
    weights
        ``(F,)`` float64: those of the summands; a single one if A is no sum.
    """

    def __init__(
        self,
        operator: LinearOperator,
        rng: torch.Generator,
        max_matvecs: int,
        on_plan: Callable[[int], None] | None = None,
        block: int = BLOCK,
    ) -> None:
        self.block = block
        self.operator, self._rng, self._on_plan = operator, rng, on_plan
        self.dim, self.max_matvecs, self.num_matvecs = operator.dim, max_matvecs, 0
        self._like = torch.empty(0, dtype=operator.dtype, device=operator.device)
        weights = operator.weights if isinstance(operator, SumOperator) else torch.ones(1)
        self.weights = weights.double()

    @property
    def left(self) -> int:
        """Columns that may still be multiplied."""
        return self.max_matvecs - self.num_matvecs

    @property
    def num_summands(self) -> int:
        """F."""
        return len(self.weights)

    def expect(self, more: float) -> None:
        """Say how many more columns are coming, as far as the budget goes."""
        if self._on_plan:
            self._on_plan(self.num_matvecs + int(min(more, self.left)))

    def signs(self, count: int) -> Tensor:
        """Columns ``(P, count)`` of independent signs."""
        return signs(self._rng, self.dim, count, self._like)

    def gaussian(self, count: int) -> Tensor:
        """Columns ``(P, count)`` of N(0, 1)."""
        return normal(self._rng, count, self.dim, like=self._like).T

    def products(self, V: Tensor) -> tuple[Tensor, Tensor]:
        r"""A V, and the forms :math:`v^\top A_f v` ``(F, K)`` of each summand."""
        products, forms = [], []
        for block in V.split(self.block, dim=1):
            if isinstance(self.operator, SumOperator):
                product, form = self.operator.with_forms(block)
            else:
                product = self.operator @ block
                form = column_products(block, product)[None]
            if not bool(torch.isfinite(product).all()):
                raise NonFiniteLossError("a product of the operator is not finite, so it has no trace.")
            products.append(product)
            forms.append(form)
        self.num_matvecs += V.shape[1]
        return torch.cat(products, 1), torch.cat(forms, 1)

    def totals(self, forms: Tensor) -> Tensor:
        """``(K,)``: what the summands' forms or traces ``(F, K)`` come to for A."""
        return self.weights @ forms

    def diagonal(self) -> tuple[Tensor, float, Tensor]:
        """The diagonal ``(P,)`` of A, ||A||_F^2, and each summand's trace ``(F, 1)``, by P products."""
        diagonal, square, traces = self._like.new_empty(self.dim), 0.0, 0.0
        done = 0
        for count in blocks(self.dim, self.block):
            V = self._like.new_zeros(self.dim, count)
            V[torch.arange(done, done + count), torch.arange(count)] = 1
            product, forms = self.products(V)
            diagonal[done : done + count] = product[done : done + count].diagonal()
            square += float(column_products(product, product).sum())
            traces = traces + forms.sum(1, keepdim=True)
            done += count
        assert isinstance(traces, Tensor)
        return diagonal, square, traces


def signs(rng: torch.Generator, dim: int, count: int, like: Tensor) -> Tensor:
    """Columns ``(dim, count)`` of independent signs, in the dtype and on the device of `like`."""
    bits = torch.randint(0, 2, (count, dim), generator=rng, dtype=torch.int8)
    return (2 * bits - 1).to(like.dtype).to(like.device).T


def blocks(count: int, most: int = BLOCK) -> list[int]:
    """Cut a number of columns into blocks.

    >>> blocks(19)
    [8, 8, 3]
    """
    return [min(most, count - done) for done in range(0, count, most)]
