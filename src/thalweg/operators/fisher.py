r"""The Fisher information of an objective's model as a linear operator: exact, sampled, or empirical.

.. math:: F = \frac1N \sum_{i=1}^N \frac{1}{n_i}\,
   \mathbb{E}_{y \sim p(\cdot \mid f_i)} \left[ \nabla_\theta \log p(y \mid f_i)\,
   \nabla_\theta \log p(y \mid f_i)^\top \right] + \lambda I

with p the distribution whose negative logarithm is n_i times the loss of an example (see
`thalweg.operators.likelihood`): so F is in the units of the loss, and equals the generalised Gauss-Newton
matrix for both named losses. For ``"mse"``, the mean over D outputs, that means a Gaussian of variance D / 2
and F = (2 / D) J' J; with unit variance it would be J' J. For dense outputs n_i is the number of positions
that count, elsewhere it is one.

The *empirical* Fisher puts each example's given label in the place of the expectation: (1/N) sum g_i g_i',
uncentred, with g_i the gradient of the example's loss. It is another matrix, not an estimate of F.

References
----------
Kunstner, Balles and Hennig (2019), NeurIPS: the empirical Fisher's limits. Martens (2020), JMLR 21(146): the
Fisher and the Gauss-Newton matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_one_of
from thalweg.core.rng import stream_seed
from thalweg.objective.losses import inputs_and_targets
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.jacobians import Named, gradient
from thalweg.operators.likelihood import likelihood_of
from thalweg.operators.objective_operator import BLOCK_SIZE
from thalweg.operators.outputs import Network, OutputLoss, split_at_outputs
from thalweg.operators.sum_of_squares import SumOfSquares, refuse_batch_statistics

Kind = Literal["exact", "monte_carlo", "empirical"]


class Fisher(SumOfSquares):
    """F; see `ObjectiveOperator` for the other arguments and for how it proves itself.

    Besides being the slope of a gradient, symmetric and without negative curvature, its quadratic form must
    be the mean of squared slopes of log-likelihoods, which are taken by central differences.

    Parameters
    ----------
    objective
        The function and the point.
    kind
        ``"exact"``: the expectation in closed form. ``"monte_carlo"``: over labels drawn from the model's own
        prediction at the objective's point, the same at every product. ``"empirical"``: the given labels.
    seed
        Of the labels drawn. Those of example i depend on nothing but the seed, i and what the model
        predicts for it.
    num_samples
        Labels drawn for each example; all share one pass through the network.

    Raises
    ------
    ValueError
        If the loss is not known to be a likelihood, for all but the empirical kind; if `seed` is missing
        where labels are drawn; for the empirical kind under batch statistics.
    """

    def __init__(
        self,
        objective: Objective,
        kind: Kind = "exact",
        *,
        seed: int | None = None,
        num_samples: int = 1,
        composition: str = "auto",
        block_size: int = BLOCK_SIZE,
        on_examples: Callable[[int], None] | None = None,
    ) -> None:
        check_one_of("kind", kind, get_args(Kind))
        check_count("num_samples", num_samples)
        if kind == "empirical":
            refuse_batch_statistics(objective, "`kind='empirical'`", ", or kind='exact'")
        else:
            self._likelihood = likelihood_of(objective)
        if kind == "monte_carlo":
            if seed is None:
                raise ValueError("`seed` must be given for kind='monte_carlo', whose labels are drawn.")
            self._seeds = [stream_seed(seed, "fisher", sample) for sample in range(num_samples)]
        self.kind: Kind = kind
        super().__init__(objective, composition, block_size, on_examples)

    def prepared(self, micro: MicroBatch) -> MicroBatch:
        if self.kind == "empirical":
            return micro
        with torch.no_grad():
            outputs = split_at_outputs(micro)[0](micro.objective.named_params)
            constants = (
                self._likelihood.information(outputs, inputs_and_targets(micro.batch)[-1])
                if self.kind == "exact"
                else self._drawn(micro, outputs)
            )
        return dataclasses.replace(micro, constants=constants)

    def split(self, micro: MicroBatch) -> tuple[Network, OutputLoss]:
        if self.kind == "empirical":
            return micro.losses, lambda losses: losses.square().sum() / 2
        network = split_at_outputs(micro)[0]
        if self.kind == "exact":
            return network, lambda outputs: self._likelihood.form(micro.constants, outputs)
        scores = micro.constants["scores"]
        return (
            network,
            lambda outputs: torch.bmm(scores, outputs.reshape(len(outputs), -1, 1)).square().sum() / 2,
        )

    def micro_slopes(self, micro: MicroBatch, ahead: Named, behind: Named) -> Tensor:
        if self.kind == "empirical":
            return (micro.losses(ahead) - micro.losses(behind))[:, None] / 2
        network = split_at_outputs(micro)[0]
        f, g = network(ahead), network(behind)
        if self.kind == "exact":
            return self._likelihood.slopes(micro.constants, f, g)
        losses, weights = self._likelihood.losses, micro.constants["weights"]
        changes = [(losses(f, y) - losses(g, y)) / 2 for y in micro.constants["labels"]]
        return weights[:, None] * torch.stack(changes, 1)

    def _drawn(self, micro: MicroBatch, outputs: Tensor) -> Named:
        """Labels ``(S, B, ...)``, and their losses' gradients in the outputs ``(B, S, ...)``, weighted."""
        targets = inputs_and_targets(micro.batch)[-1]
        labels = [self._likelihood.draw(outputs, targets, seed, micro.start) for seed in self._seeds]
        weights = (self._likelihood.num_positions(targets, outputs) / len(labels)).sqrt()
        scores = [
            gradient(lambda f, y=y: self._likelihood.losses(f["f"], y).sum(), {"f": outputs})["f"]
            for y in labels
        ]
        flat = torch.stack([s.reshape(len(s), -1) for s in scores], 1)
        return {"labels": torch.stack(labels), "weights": weights, "scores": weights[:, None, None] * flat}
