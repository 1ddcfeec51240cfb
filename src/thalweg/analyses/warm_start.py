"""An eigenvector of a network that has moved since, brought up to date on a few examples before all of them.

From one look to the next the first eigenvector of a network in training turns far: a start from the last one
alone saves a product or two. A sample that is drawn by importance (`thalweg.solvers.sampling_design`) has
nearly the eigenvector of the whole, at a fraction of a product's cost; the fewest products that show random
vectors on the whole then leave less error than PyHessian's power iteration. The sample is another one at each
look, and random vectors ride along on it, too: what one sample does not show, a later one may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.core.rng import generator
from thalweg.objective.evaluation import independent_unit
from thalweg.objective.objective import Objective
from thalweg.solvers.sampling_design import PROXY, SamplingDesign

# The examples of the probe over those of the sample, and the fewest of these.
SAMPLE_RATIO, LEAST_SAMPLE = 8, 64

# On all the data, from such a start: three products, by which the random vector in the same column has been
# seen, and more only where the sample misled. They leave residuals of about a hundredth; the error of the
# value is of the order of the residual's square.
RTOL = 0.1


@dataclass(frozen=True)
class Start:
    """Arguments that a measure starts with, and what they took.

    Parameters
    ----------
    arguments
        ``start``, ``levels`` and, where the start is a good one, ``rtol``.
    num_scored, num_multiplied
        Examples that a forward pass was made of, and examples times products.
    """

    arguments: Mapping[str, Any]
    num_scored: int = 0
    num_multiplied: int = 0


def sample_size(num_examples: int) -> int:
    """An eighth of the probe, if of 64 examples; else none.

    >>> sample_size(2000), sample_size(384)
    (250, 0)
    """
    size = num_examples // SAMPLE_RATIO
    return size if size >= LEAST_SAMPLE else 0


def warm_start(
    objective: Objective,
    solve: Callable[..., Any],
    columns: Callable[[Any], Tensor],
    last: Tensor | None,
    seed: int,
    look: int,
) -> Start:
    """Where to start from: the last look's vectors, by way of a sample where the probe is large enough.

    Parameters
    ----------
    objective
        The probe at the network's present weights.
    solve
        The measure, of an objective and ``start`` and ``levels``.
    columns
        Of its result, ``(P, W)``.
    last
        Of the last look's result; ``None`` for a cold start.
    seed, look
        Of the sample: the number of the step, say.
    """
    size = sample_size(objective.num_examples)
    if independent_unit(objective, population=False) > 1:
        # A sample of batches by importance would be a single one.
        return Start({"start": last, "levels": (size,) if size else ()})
    if not size:
        return Start({"start": last, "levels": ()})
    design = SamplingDesign.of(objective)
    result = solve(design.group(generator(seed, "warm_start", look), size), start=last, levels=())
    return Start(
        {"start": columns(result), "levels": (), "rtol": RTOL},
        objective.num_examples if design.proxy == PROXY else 0,
        size * result.num_matvecs,
    )
