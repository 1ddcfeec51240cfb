"""Loss and gradient of one objective at many points at once, each point with weights of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from thalweg.core.errors import NonFiniteLossError
from thalweg.objective.evaluation import l2_term
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.objective.value_and_gradient import value_and_gradient

# Parameters up to which all points go through the network in one call: of more, a call costs next to nothing
# beside what it does, and a network with other weights for every example runs slower than the same one.
TOY = 64


class ChainGradients:
    """Mean loss and its gradient at C points, over batches of the examples that differ from point to point.

    Values that are not finite are returned as they are: what a chain that has diverged means is the caller's
    to say.

    Parameters
    ----------
    objective
        The function, its recalibrated statistics held constant.
    together
        Whether all points share one call. Default: where there are at most 64 parameters.
    """

    def __init__(self, objective: Objective, together: bool | None = None) -> None:
        self.objective = objective
        self.together = objective.space.dim <= TOY if together is None else together
        # Of parameters that `Objective.restrict` made constant.
        self._held = l2_term(objective, torch.zeros_like(objective.params))

    def __call__(
        self, theta: Tensor, batches: Sequence[Tensor] | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``(C,)`` float64 losses and ``(C, P)`` gradients, L2 term and all.

        Parameters
        ----------
        theta
            ``(C, P)``.
        batches
            Indices of each point's examples, of which one may come several times: ``(C, B)``, or C of
            different lengths. Default: all N, once.
        """
        return self._in_one(theta, batches) if self.together else self._one_by_one(theta, batches)

    def losses(self, theta: Tensor) -> Tensor:
        """``(C,)`` float64: mean losses over all the data, L2 term and all."""
        unflatten = self.objective.space.unflatten

        def sums(micro: MicroBatch) -> Tensor:
            with torch.no_grad():
                return vmap(lambda v: micro.losses(unflatten(v)).sum())(theta)

        total = self.objective.reduce(sums, given=[theta]).cpu().double() / self.objective.num_examples
        return total + self._penalty(theta)

    def example_gradients(self, theta: Tensor) -> Tensor:
        """``(C, N, P)``: gradients of single examples, L2 term and all, of few parameters and examples."""
        singles = (self.objective.select(torch.tensor([i])) for i in range(self.objective.num_examples))
        return torch.stack([ChainGradients(single, True)(theta)[1] for single in singles], 1)

    def _in_one(self, theta: Tensor, batches: Sequence[Tensor] | Tensor | None) -> tuple[Tensor, Tensor]:
        objective = self.objective
        N, unflatten = objective.num_examples, objective.space.unflatten
        weights = theta.new_full((len(theta), N), 1 / N)
        if isinstance(batches, Tensor):
            index = batches.to(theta.device)
            share = theta.new_full(index.shape, 1 / index.shape[1])
            weights = torch.zeros_like(weights).scatter_add_(1, index, share)
        elif batches is not None:
            for row, index in zip(weights.zero_(), batches, strict=True):
                row += torch.bincount(index.to(row.device), minlength=N).to(row) / len(index)

        def weighted(v: Tensor, w: Tensor, micro: MicroBatch) -> tuple[Tensor, Tensor]:
            loss = (w * micro.losses(unflatten(v))).sum()
            return loss, loss.detach()

        def sums(micro: MicroBatch) -> tuple[Tensor, Tensor]:
            part = weights[:, micro.start : micro.stop]
            return vmap(grad(weighted, has_aux=True), in_dims=(0, 0, None))(theta, part, micro)

        slopes, losses = objective.reduce(sums, given=[theta, weights])
        return losses.cpu().double() + self._penalty(theta), slopes + objective.weight_decay * theta

    def _one_by_one(self, theta: Tensor, batches: Sequence[Tensor] | Tensor | None) -> tuple[Tensor, Tensor]:
        losses, slopes = [], []
        for c, point in enumerate(theta):
            batch = self.objective if batches is None else self.objective.select(batches[c])
            try:
                loss, slope = value_and_gradient(batch.at(point))
            except NonFiniteLossError:
                loss, slope = torch.nan, torch.full_like(point, torch.nan)
            losses.append(loss)
            slopes.append(slope)
        return torch.tensor(losses, dtype=torch.float64), torch.stack(slopes)

    def _penalty(self, theta: Tensor) -> Tensor:
        return self._held + self.objective.weight_decay / 2 * theta.cpu().double().square().sum(1)
