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
from thalweg.measures.curvature.hessian_trace import hessian_trace
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

Progress = Callable[[int, int], None]

# Changes of a network that leave its function as it was; `thalweg.analyses.invariance_audit` makes them.
TRANSFORMATIONS = ("relu_rescaling", "batch_norm_scaling", "permutation", "query_key", "value_output")


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


FAMILY: dict[str, Member] = {
    "top_eigenvalue": Member(top_eigenvalues, {"rtol": 1e-2}),
    "trace": Member(hessian_trace),
    "sam_sharpness": Member(sam_sharpness),
}


def sharpness_family(
    objective: Objective,
    *,
    members: Iterable[str] | None = None,
    seed: int,
    on_member: Callable[[str], Progress | None] | None = None,
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

    Returns
    -------
    Name to result, in the order of the table.

    Raises
    ------
    ValueError
        If there is no member of a name.
    """
    check_objective("objective", objective)
    results: dict[str, Measurement] = {}
    for name, member in chosen_members(members).items():
        progress = on_member(name) if on_member else None
        results[name] = member(objective, seed=seed, progress=progress)
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
