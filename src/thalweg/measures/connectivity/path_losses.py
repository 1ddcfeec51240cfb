"""The losses along a path, some points at a time: a killed call goes on from those that are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from thalweg.core.array_store import Store, array_of, key_of, recalled, text_of
from thalweg.objective.compilation import is_compiled
from thalweg.objective.evaluation import Point, PointEvaluator, l2_term
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import points_at_risk


@dataclass(frozen=True)
class PathLosses:
    """At T points: `losses`, `accuracies` and `penalties` (T,) float64, `example_losses` (T, N); see
    `PointEvaluations`."""

    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    example_losses: Tensor
    passes: str


def losses_along(
    objective: Objective,
    alphas: Tensor,
    point_at: Callable[[float], Point],
    *,
    decided_by: Mapping[str, Any],
    store: Store | None,
    on_point: Callable[[int], None],
) -> PathLosses:
    """Evaluate the points at `alphas`, which need not be finite.

    Parameters
    ----------
    objective
        Gives the function and the examples.
    point_at
        The point at an alpha.
    decided_by
        JSON-safe: all that decides the losses but the alphas.
    on_point
        Called with the number of points done.
    """
    num_points, done = len(alphas), 0
    path = key_of(compiled=is_compiled(objective, num_points), **decided_by)
    # Compiled, if it is to be, only if a point is left to evaluate.
    evaluator = cache(lambda: PointEvaluator(objective, num_points))

    def computed(some: Tensor) -> dict[str, Tensor]:
        penalties: list[float] = []

        def points() -> Iterator[Point]:
            for alpha in some.tolist():
                point = point_at(alpha)
                penalties.append(l2_term(objective, point[0]))
                yield point

        found = evaluator()(points(), lambda more: on_point(done + more), allow_non_finite=True)
        return {
            "losses": found.losses,
            "accuracies": found.accuracies,
            "penalties": torch.tensor(penalties, dtype=torch.float64),
            "example_losses": found.example_losses,
            "passes": array_of(found.passes),
        }

    parts = []
    for some in alphas.split(points_at_risk(objective)):
        key = key_of(path=path, alphas=some.tolist())
        parts.append(recalled(store, key, lambda some=some: computed(some)))
        done += len(some)
        on_point(done)
    losses, accuracies, penalties, example_losses = (
        torch.cat([part[name] for part in parts])
        for name in ("losses", "accuracies", "penalties", "example_losses")
    )
    passes = ", ".join(dict.fromkeys(text_of(part["passes"]) for part in parts))
    return PathLosses(losses, accuracies, penalties, example_losses, passes)
