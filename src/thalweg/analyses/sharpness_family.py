"""The measures of sharpness that are set side by side: what each is called, and with which arguments.

One table for all that combines them: the audit, the comparison of checkpoints, contrasts of groups. What a
measure with its arguments claims is in `thalweg.analyses.claims`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thalweg.analyses.claims import claims_of, larger_is_sharper
from thalweg.analyses.stored_calls import stored_call
from thalweg.core.array_store import Store
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.measures.curvature.hessian_trace import hessian_trace
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.measures.sharpness.average_sharpness import average_sharpness
from thalweg.measures.sharpness.basin_width import basin_width
from thalweg.measures.sharpness.critical_sharpness import critical_sharpness
from thalweg.measures.sharpness.fisher_rao_norm import fisher_rao_norm
from thalweg.measures.sharpness.keskar_sharpness import keskar_sharpness
from thalweg.measures.sharpness.normalized_curvature import normalized_curvature
from thalweg.measures.sharpness.pac_bayes_sigma import pac_bayes_sigma
from thalweg.measures.sharpness.relative_flatness import relative_flatness
from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import sam_sharpness_spread
from thalweg.objective.objective import Objective


@dataclass(frozen=True)
class Member:
    """A measure under the name it has in tables.

    Parameters
    ----------
    measure
        ``measure(objective, **arguments, seed=..., progress=...)``; `seed` only where it takes one.
    arguments
        Cheap enough for a family to be measured in minutes.
    claims
        Which of `thalweg.solvers.symmetries.places.TRANSFORMATIONS` a measure of your own claims not to move
        under, beyond its own error.
        ``None``: what `thalweg.analyses.claims` says of the measure with these arguments.
    given
        Which of the arguments somebody chose: a bad one is his mistake, not something that the measure has to
        say of a network.
    store
        Where measurements that are done are kept, if anywhere.
    """

    measure: Callable[..., Measurement]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    claims: frozenset[str] | None = None
    given: frozenset[str] = frozenset()
    store: Store | None = None

    @property
    def invariant_to(self) -> frozenset[str]:
        """Which transformations it claims not to move under."""
        return claims_of(self.measure, self.arguments) if self.claims is None else self.claims

    @property
    def larger_is_sharper(self) -> bool:
        """False for a radius, a width or a rate, that is the larger the flatter the minimum."""
        return larger_is_sharper(self.measure)

    @property
    def is_seeded(self) -> bool:
        """Whether it draws anything."""
        return "seed" in inspect.signature(self.measure).parameters

    @property
    def is_normalised(self) -> bool:
        """Whether it claims to be unmoved by rescaled weights, so that networks can be compared by it."""
        return "relu_rescaling" in self.invariant_to

    def seeded(self, seed: int) -> dict[str, Any]:
        """Its arguments, with the seed where it takes one."""
        return {**self.arguments, **({"seed": seed} if self.is_seeded else {})}

    def __call__(self, objective: Objective, *, seed: int, progress: Progress | None = None) -> Measurement:
        """Measure `objective`."""
        return stored_call(self.store, self.measure, [objective], self.seeded(seed), progress=progress)


# `preconditioned_sharpness` is none of them: it is about the state of an optimizer, which a checkpoint of
# weights has not, and it bounds a step of training, not the flatness of a minimum. Nor is the basin's width
# along top eigenvectors, `basin_width(num_eigenvectors=...)`: on a quadratic that is sqrt(2 rise / lambda),
# `top_eigenvalue` once more, and would take a second solve.

# Subsets first, three products on all the data after them, no certificate and no trace: what is rough about
# them the results say.
FRUGAL = {"rtol": 5e-2, "certify_rtol": None, "trace_rtol": None}

FAMILY: dict[str, Member] = {
    "top_eigenvalue": Member(top_eigenvalues, {"rtol": 1e-2}),
    "trace": Member(hessian_trace, {"sampled": True}),
    "sam_sharpness": Member(sam_sharpness),
    "multi_step_sam_sharpness": Member(sam_sharpness, {"num_steps": 4}),
    "sam_sharpness_linf": Member(sam_sharpness, {"norm": "linf", "radius": 1e-4}),
    "adaptive_sam_sharpness": Member(sam_sharpness, {"scaling": "element", "radius": 0.5}),
    "adaptive_sam_sharpness_linf": Member(
        sam_sharpness, {"norm": "linf", "scaling": "element", "radius": 0.005}
    ),
    "filter_sam_sharpness": Member(sam_sharpness, {"scaling": "filter"}),
    "m_sharpness": Member(sam_sharpness_spread, {"batch_size": 8, "num_batches": None}),
    "keskar_sharpness": Member(keskar_sharpness, {"num_steps": 1}),
    "average_sharpness": Member(average_sharpness, {"num_samples": 4}),
    "adaptive_average_sharpness": Member(
        average_sharpness, {"scaling": "element", "radius": 5.0, "num_samples": 4}
    ),
    "pac_bayes_sigma": Member(pac_bayes_sigma, {"num_samples": 3, "rtol": 0.1}),
    "adaptive_pac_bayes_sigma": Member(
        pac_bayes_sigma,
        {"scaling": "element", "num_samples": 3, "rtol": 0.1},
    ),
    "basin_width": Member(
        basin_width,
        {"num_directions": 3, "first_distance": 0.2, "rtol": 0.1},
    ),
    "critical_sharpness": Member(critical_sharpness),
    "element_scaled_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "element", **FRUGAL},
    ),
    "filter_scaled_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "filter", **FRUGAL},
    ),
    "filter_scaled_projected_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "filter", "norms": "projected", **FRUGAL},
    ),
    "folded_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "none", "norms": "folded", **FRUGAL},
    ),
    "relative_flatness": Member(relative_flatness, {"normalize_features": True}),
    "fisher_rao_norm": Member(fisher_rao_norm),
}
