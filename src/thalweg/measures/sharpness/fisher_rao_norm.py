r"""Fisher-Rao norm: the length of the parameters in the metric of what the network predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from thalweg.core.arguments import check_one_of
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress, Work
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.registry import operator_named

INFORMATIONS = ("fisher", "empirical_fisher")


@dataclass(frozen=True, kw_only=True, repr=False)
class FisherRaoNorm(Measurement):
    """`value` is the *square*, <theta, F theta>, in the unit of the loss; `root` the norm itself.

    Exact on the objective's data: nothing is drawn and nothing iterated.

    Parameters
    ----------
    parameter_norm
        ||theta||_2, for comparison.
    """

    measure: ClassVar[str] = "fisher_rao_norm"

    parameter_norm: float

    @property
    def root(self) -> float:
        """The square root of `value`."""
        return math.sqrt(self.value)


def fisher_rao_norm(
    objective: Objective, *, of: str = "fisher", progress: Progress | None = None
) -> FisherRaoNorm:
    r""":math:`\lVert\theta\rVert_{\mathrm{fr}}^2 = \langle \theta, F(\theta) \theta \rangle`, by one product.

    That is the mean of :math:`(\theta \cdot \nabla_\theta \log p(y \mid x))^2`, over the labels that the
    network itself predicts with ``of="fisher"``, or over those given with ``of="empirical_fisher"``. Only
    :math:`\theta \cdot \nabla_\theta` enters, the derivative along the ray through the parameters, which
    every *linear* change of the parameters leaves alone: so the value is the same for all networks of one
    function that such a change leads to, be it of ReLU layers or of their units one by one, of filters before
    batch norm, of units by permutation, of queries against keys or values against outputs.

    F is in units of the loss (`thalweg.operators.fisher`): for ``"mse"``, the mean over D outputs, it is (2 /
    D) J'J where a Gaussian of unit variance would have J'J. Frozen parameters do not count as part of theta.
    The L2 term of the objective is left out: F belongs to the network's predictions.

    Parameters
    ----------
    objective
        Gives the point theta and N examples. In ``"recalibrated"`` mode the statistics are held constant.
    of
        ``"fisher"``, which needs a named loss, or ``"empirical_fisher"``, which takes any, but not batch
        statistics.
    progress
        Called with work done and the whole, in examples.

    Raises
    ------
    DerivativeError
        If no derivative of this network can be trusted.
    NonFiniteLossError
        If the loss or the product is not finite.
    ValueError
        If `of` is neither, or does not exist for this objective.

    References
    ----------
    Liang, Poggio, Rakhlin and Stokes (2019), Fisher-Rao Metric, Geometry, and Complexity of Neural Networks,
    AISTATS: definition 2, whose root the norm is.
    """
    check_objective("objective", objective)
    check_one_of("of", of, INFORMATIONS)
    # Nothing is drawn for either matrix: the seed is for others of the registry.
    operator = operator_named(of, objective.frozen().without_decay(), seed=0)
    check = operator.check
    work = Work(progress, objective.num_examples)
    theta = operator.objective.params
    product = operator.counting(work.add) @ theta
    work.finish()
    theta, product = theta.cpu().double(), product.cpu().double()
    return FisherRaoNorm(
        # A form without negative values, up to rounding.
        value=max(0.0, float(theta @ product)),
        provenance={
            "function": "fisher_rao_norm",
            "arguments": {"of": of},
            "objective": objective.describe(),
            "operator": check.to_dict(),
        },
        parameter_norm=float(theta.norm()),
    )
