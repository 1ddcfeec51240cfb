r"""Which examples a sampled estimate draws, and with which probability: curvature sits in few of them.

Most examples of a trained classifier are fitted with certainty and hardly curve the loss. An example's
Hessian is :math:`J^\top M J + \sum_c g_c \nabla^2 f_c`, with M the curvature and g the slope of its loss in
the outputs f. Of cross-entropy, :math:`\mathrm{tr}\, M = 1 - \sum_c p_c^2` and :math:`g = p - y`, which one
forward pass tells for every example. Its score is :math:`\mathrm{tr}\, M + \|g\|`: drawing in proportion to
it, and weighting by the inverse, cuts the variance several times. The slope is small where M is, but for an
example that is fitted with certainty *to the wrong class*: there M is nought, and the Hessian anything but.

A floor is mixed in besides, a fixed part of the mean score, which bounds every weight.

**Groups.** Examples are laid in order of the class predicted, of the runner-up and of the score, and their
probabilities end to end on [0, 1], which is cut into as many equal strata as a group has examples; each
stratum gives one, at a point drawn uniformly in it. What two examples share that hesitate between the same
classes is the direction of their curvature: on the paper's network the order takes another two thirds off the
variance. A group's weighted mean is unbiased, and groups are independent of each other, so that their spread
is a standard error for the finite data set, without a formula for the design. It is honest as far as the
groups show what there is: a few examples of enormous curvature and an ordinary score that no group holds are
in no standard error. A stratum may hold a single example, or an example several strata: it is then in every
group, as often as its weight says.

In ``"batch"`` mode an example has no loss of its own: units are the batches of the partition, whose scores
are the sums of their examples', and a group is one batch.

References
----------
Hansen and Hurwitz (1943), Ann. Math. Statist. 14(4), 333-362: draws with unequal probabilities. Mahalanobis
(1946), J. R. Stat. Soc. 109(4), 325-378: independent, interpenetrating groups. Madow (1949), Ann. Math.
Statist. 20(3), 333-354: probabilities laid end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.objective.evaluation import independent_unit
from thalweg.objective.losses import inputs_and_targets
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.objective.reduction import Rows
from thalweg.operators.jacobians import gradient
from thalweg.operators.likelihood import likelihood_of

# Matrices that are linear in the losses, so that examples can be weighted; squares of gradients are not.
SAMPLED = ("hessian", "ggn")

PROXY = "curvature and slope of the loss in the outputs"

# Examples of a group: as many as one pass takes on a CPU. A fixed number, for it is part of the estimate.
GROUP_SIZE = 128

# What is added to every score, in parts of their mean: it keeps every weight below eleven, and costs an
# eleventh of the draws.
FLOOR = 0.1


@dataclass(frozen=True)
class SamplingDesign:
    """Probabilities of an objective's units, and the order in which they are stratified.

    Parameters
    ----------
    objective
        Whose examples, N, are drawn.
    probabilities
        ``(U,)`` float64, of each unit in a single draw; they sum to one.
    order
        ``(U,)`` the units as they are laid end to end.
    unit_size
        Examples of a unit: one, or the batch size.
    proxy
        What the probabilities are in proportion to: ``"curvature and slope of the loss in the outputs"`` or
        ``"uniform"``.
    """

    objective: Objective
    probabilities: Tensor
    order: Tensor
    unit_size: int
    proxy: str

    @classmethod
    def of(
        cls, objective: Objective, floor: float = FLOOR, on_examples: Callable[[int], None] | None = None
    ) -> SamplingDesign:
        """The design for this objective, by one forward pass over its data where the loss has a proxy.

        Only cross-entropy has: the curvature of the mean square is the same for every example, and of a
        callable it is not known.
        """
        unit_size = independent_unit(objective, population=False)
        starts = torch.arange(0, objective.num_examples, unit_size)
        sizes = torch.full((len(starts),), float(unit_size), dtype=torch.float64)
        sizes[-1] = objective.num_examples - int(starts[-1])
        order = torch.arange(len(starts))
        # A user's own function may bear the name.
        if objective.loss.name != "cross_entropy" or objective.loss.code is not None:
            return cls(objective, sizes / objective.num_examples, order, unit_size, "uniform")
        scores, leaders = _scores(objective, on_examples)
        if unit_size == 1:
            # The last sort counts most, and each is stable.
            order = scores.argsort()
            for rank in (1, 0):
                order = order[leaders[order, rank].argsort(stable=True)]
        mean = float(scores.mean())
        if mean == 0:  # every example is fitted with a certainty of one
            return cls(objective, sizes / objective.num_examples, order, unit_size, "uniform")
        sums = torch.stack([part.sum() for part in scores.split(unit_size)])
        probabilities = (sums + floor * mean * sizes) / (objective.num_examples * (1 + floor) * mean)
        return cls(objective, probabilities, order, unit_size, PROXY)

    @property
    def group_size(self) -> int:
        """Examples of a group, but for that of a short last batch."""
        return group_size(self.objective)

    def groups(self, rng: torch.Generator, count: int) -> list[Objective]:
        """So many of them."""
        return [self.group(rng) for _ in range(count)]

    def group(self, rng: torch.Generator, size: int | None = None) -> Objective:
        """One independent group as a weighted objective, whose expectation is the objective itself.

        Of `size` examples, `GROUP_SIZE` unless told; of one batch where batches are the units.
        """
        draws = (GROUP_SIZE if size is None else size) if self.unit_size == 1 else 1
        points = (torch.arange(draws) + torch.rand(draws, generator=rng, dtype=torch.float64)) / draws
        units = self.order[torch.searchsorted(self._ends, points).clamp(max=len(self.order) - 1)]
        if self.unit_size > 1:
            start = int(units) * self.unit_size
            index = torch.arange(start, min(start + self.unit_size, self.objective.num_examples))
            weight = len(index) / (self.objective.num_examples * float(self.probabilities[units]))
            weights = torch.full((len(index),), weight, dtype=torch.float64)
        else:
            index = units
            weights = 1 / (self.objective.num_examples * self.probabilities[units])
        return self.objective.select(index, batch_size=max(2, len(index)), weights=weights)

    @cached_property
    def _ends(self) -> Tensor:
        """Where each unit's stretch of [0, 1] ends."""
        ends = self.probabilities[self.order].cumsum(0)
        return ends / ends[-1]


def group_size(objective: Objective) -> int:
    """Examples of a group: a fixed number, or the batch where the loss depends on the partition."""
    unit_size = independent_unit(objective, population=False)
    return GROUP_SIZE if unit_size == 1 else unit_size


def _scores(objective: Objective, on_examples: Callable[[int], None] | None) -> tuple[Tensor, Tensor]:
    """tr M + ||g|| of each example ``(N,)`` float64; its two likeliest classes ``(N, 2)``."""
    likelihood = likelihood_of(objective)

    def score(micro: MicroBatch) -> tuple[Rows, Rows]:
        outputs = micro.outputs()
        known = likelihood.information(outputs, inputs_and_targets(micro.batch)[-1])
        p = known["p"]
        slope = gradient(lambda f: micro.losses_of(f["f"]).sum(), {"f": outputs})["f"].flatten(1)
        curvature = (known["weights"] * p * (1 - p)).flatten(1).sum(1)
        scores = (curvature + torch.linalg.vector_norm(slope, dim=1)).double().cpu()
        return Rows(scores), Rows(p.reshape(*p.shape[:2], -1).mean(2).topk(2, dim=1).indices.cpu())

    with torch.no_grad():
        found, leaders = objective.reduce(score, on_examples=on_examples)
    if not bool(torch.isfinite(found).all()):
        objective.value()  # names the batch
        raise NonFiniteLossError("the model's outputs are not finite although the loss is.")
    return found, leaders
