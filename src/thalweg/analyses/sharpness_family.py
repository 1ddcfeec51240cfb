"""The measures of sharpness that are set side by side: what each is called, with which arguments, and which
changes of a network it claims not to see.

One table for all that combines them: the audit, the comparison of checkpoints, contrasts of groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.solvers.symmetries.places import TRANSFORMATIONS as TRANSFORMATIONS


@dataclass(frozen=True)
class Member:
    """A measure under the name it has in tables.

    Parameters
    ----------
    measure
        ``measure(objective, **arguments, seed=..., progress=...)``; `seed` only where it takes one.
    arguments
        Cheap enough for a family to be measured in minutes.
    invariant_to
        Which of `TRANSFORMATIONS` it claims not to move under, beyond its own error; tested for each. All of
        them but permutation change the parameters' lengths.
    larger_is_sharper
        False for a radius, a width or a step that is the larger the flatter the minimum: so that two such
        measures are not taken to disagree.
    """

    measure: Callable[..., Measurement]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    invariant_to: frozenset[str] = frozenset({"permutation"})
    larger_is_sharper: bool = True

    @property
    def is_seeded(self) -> bool:
        """Whether it draws anything."""
        return "seed" in inspect.signature(self.measure).parameters

    @property
    def is_normalised(self) -> bool:
        """Whether it claims to be unmoved by rescaled weights, so that networks can be compared by it."""
        return "relu_rescaling" in self.invariant_to

    def __call__(self, objective: Objective, *, seed: int, progress: Progress | None = None) -> Measurement:
        """Measure `objective`."""
        seeded = {"seed": seed} if self.is_seeded else {}
        return self.measure(objective, **self.arguments, **seeded, progress=progress)


# What perturbs parameters in proportion to themselves sees no scale of them at all; what goes by the norms of
# filters sees none that is common to a filter, and the weights that read a unit are in no filter together.
_ELEMENTS = frozenset({"permutation", "relu_rescaling", "batch_norm_scaling"})
_FILTERS = frozenset({"permutation", "batch_norm_scaling"})

# `preconditioned_sharpness` is none of them: it is about the state of an optimizer, which a checkpoint of
# weights has not, and it bounds a step of training, not the flatness of a minimum. Nor is the basin's width
# along top eigenvectors, `basin_width(num_eigenvectors=...)`: on a quadratic that is sqrt(2 rise / lambda),
# `top_eigenvalue` once more, and a second solve for it would take an eighth of all the time.

# Subsets first, three products on all the data after them, no certificate and no trace: what is rough about
# them the results say.
FRUGAL = {"rtol": 5e-2, "certify_rtol": None, "trace_rtol": None}

FAMILY: dict[str, Member] = {
    "top_eigenvalue": Member(top_eigenvalues, {"rtol": 1e-2}),
    "trace": Member(hessian_trace, {"sampled": True}),
    "sam_sharpness": Member(sam_sharpness),
    "multi_step_sam_sharpness": Member(sam_sharpness, {"num_steps": 4}),
    "sam_sharpness_linf": Member(sam_sharpness, {"norm": "linf", "radius": 1e-4}),
    "adaptive_sam_sharpness": Member(sam_sharpness, {"scaling": "element", "radius": 0.5}, _ELEMENTS),
    "adaptive_sam_sharpness_linf": Member(
        sam_sharpness, {"norm": "linf", "scaling": "element", "radius": 0.005}, _ELEMENTS
    ),
    "filter_sam_sharpness": Member(sam_sharpness, {"scaling": "filter"}, _FILTERS),
    "m_sharpness": Member(sam_sharpness_spread, {"batch_size": 8, "num_batches": None}),
    "keskar_sharpness": Member(keskar_sharpness, {"num_steps": 1}),
    "average_sharpness": Member(average_sharpness, {"num_samples": 4}),
    "adaptive_average_sharpness": Member(
        average_sharpness, {"scaling": "element", "radius": 5.0, "num_samples": 4}, _ELEMENTS
    ),
    "pac_bayes_sigma": Member(pac_bayes_sigma, {"num_samples": 3, "rtol": 0.1}, larger_is_sharper=False),
    "adaptive_pac_bayes_sigma": Member(
        pac_bayes_sigma,
        {"scaling": "element", "num_samples": 3, "rtol": 0.1},
        _ELEMENTS,
        larger_is_sharper=False,
    ),
    "basin_width": Member(
        basin_width,
        {"num_directions": 3, "first_distance": 0.2, "rtol": 0.1},
        _FILTERS,
        larger_is_sharper=False,
    ),
    "critical_sharpness": Member(critical_sharpness),
    "element_scaled_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "element", **FRUGAL},
        _ELEMENTS,
    ),
    "filter_scaled_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "filter", **FRUGAL},
        _FILTERS,
    ),
    "filter_scaled_projected_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "filter", "norms": "projected", **FRUGAL},
        _FILTERS,
    ),
    "folded_eigenvalue": Member(
        normalized_curvature,
        {"scaling": "none", "norms": "folded", **FRUGAL},
        _FILTERS,
    ),
    "relative_flatness": Member(relative_flatness, {"normalize_features": True}, frozenset(TRANSFORMATIONS)),
    "fisher_rao_norm": Member(fisher_rao_norm, invariant_to=frozenset(TRANSFORMATIONS)),
}


def sharpness_family(
    objective: Objective,
    *,
    members: Iterable[str] | None = None,
    seed: int,
    on_member: Callable[[str], Progress | None] | None = None,
    on_refused: Callable[[str, str], None] | None = None,
) -> dict[str, Measurement]:
    """All members of the family, or those named, on one objective.

    Parameters
    ----------
    objective
        The point measured.
    members
        Names of `FAMILY`. Default: all.
    seed
        Of all of them: what two members draw alike, they draw the same.
    on_member
        Called with the name before each; what it returns is that member's progress callback.
    on_refused
        Called with the name and the reason where a member does not exist for this objective (folded batch
        statistics, the Fisher information of a loss that is no likelihood); it is then left out. Without
        this, that is an error.

    Returns
    -------
    Name to result, in the order of the table.

    Raises
    ------
    ValueError
        If there is no member of a name, or one refuses the objective and `on_refused` is not given.
    """
    check_objective("objective", objective)
    results: dict[str, Measurement] = {}
    for name, member in chosen_members(members).items():
        progress = on_member(name) if on_member else None
        try:
            results[name] = member(objective, seed=seed, progress=progress)
        except ValueError as error:
            if on_refused is None:
                raise ValueError(f"{name}: {error} Or leave it out of `members`.") from None
            on_refused(name, str(error))
    return results


def chosen_members(names: Iterable[str] | None) -> dict[str, Member]:
    """Those of `FAMILY` that are named, in its order; all if None."""
    if names is None:
        return dict(FAMILY)
    asked = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in asked if name not in FAMILY]
    if unknown or not asked:
        raise ValueError(
            f"`members` must be some of {', '.join(FAMILY)}, got {unknown[0] if unknown else 'none'!r}."
        )
    return {name: member for name, member in FAMILY.items() if name in asked}
