"""Extreme eigenpairs of an operator over data, by solving on subsets first.

A Ritz vector of a thousand examples points almost where that of sixty thousand does, and costs a sixtieth. What a
subset cannot show, a direction that few examples make, the random vectors of the last level can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from thalweg.core.errors import ConvergenceError
from thalweg.core.rng import generator
from thalweg.linalg.lanczos import EigenSolution, lanczos_eigenpairs
from thalweg.operators.hessian import Hessian

# Each level is this many times smaller than the next, so that all of them together cost little beside the last.
LEVEL_RATIO = 8
SMALLEST_LEVEL = 512

# A subset's eigenvectors differ from the full data's by sampling, so that solving it tightly gains nothing.
LEVEL_RTOL = 1e-2

# Block products of the last level in which the random vectors take part at the least.
MIN_STEPS = 3


@dataclass(frozen=True)
class MultilevelSolution:
    """The full data's solution, the sizes of the subsets before it, and the products those took."""

    solution: EigenSolution
    levels: tuple[int, ...]
    num_subset_matvecs: int


def default_levels(num_examples: int) -> tuple[int, ...]:
    """Sizes N / 8^i of at least 512 examples, ascending, N itself left out."""
    sizes = []
    size = num_examples // LEVEL_RATIO
    while size >= SMALLEST_LEVEL:
        sizes.append(size)
        size //= LEVEL_RATIO
    return tuple(reversed(sizes))


def multilevel_eigenpairs(
    operator: Hessian,
    k: int,
    *,
    which: Literal["top", "bottom", "both"] = "top",
    rtol: float = 1e-3,
    max_matvecs: int = 2000,
    levels: Sequence[int] | None = None,
    start: Tensor | None = None,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> MultilevelSolution:
    """Solve over growing subsets, then over all the data; arguments as in `top_eigenvalues`.

    Raises
    ------
    ConvergenceError
        If the last level spends `max_matvecs`. A subset that does not converge only gives a poorer start.
    """
    objective = operator.objective
    if levels is None:
        levels = () if start is not None else default_levels(objective.num_examples)
    sizes = tuple(levels)
    if any(not 1 <= n < objective.num_examples for n in sizes) or list(sizes) != sorted(set(sizes)):
        raise ValueError(
            f"`levels` must ascend and stay below the {objective.num_examples} examples there are, got {sizes}."
        )
    work = _Work(objective.num_examples, sizes, progress)
    warm, num_subset_matvecs = start, 0
    operator.check  # noqa: B018 - proves the operator once, for all levels
    for level, size in enumerate(sizes):
        subset = objective.subset(size, seed=seed + level)
        rng = generator(seed, "level", level)
        try:
            solution = lanczos_eigenpairs(
                operator.over(subset).counting(work.add),
                k,
                which=which,
                rtol=max(rtol, LEVEL_RTOL),
                start=warm,
                rng=rng,
                max_matvecs=max_matvecs,
            )
        except ConvergenceError as error:
            solution = error.partial
        warm = solution.eigenvectors
        num_subset_matvecs += solution.num_matvecs
        work.finished_level(level)
    solution = lanczos_eigenpairs(
        operator.counting(work.add),
        k,
        which=which,
        rtol=rtol,
        start=warm,
        min_steps=MIN_STEPS,
        rng=generator(seed, "level", "full"),
        max_matvecs=max_matvecs,
    )
    work.finished()
    return MultilevelSolution(solution, sizes, num_subset_matvecs)


class _Work:
    """Progress in example-products, against an estimate that moves when a level takes more."""

    def __init__(
        self, num_examples: int, sizes: Sequence[int], report: Callable[[int, int], None] | None
    ) -> None:
        # From experience: a cold level takes some 30 columns, a warm one 10.
        self.remaining = [n * (30 if i == 0 else 10) for i, n in enumerate((*sizes, num_examples))]
        self.done_before, self.done_now, self.level, self.report = 0, 0, 0, report

    def add(self, examples: int) -> None:
        self.done_now += examples
        if self.report:
            total = (
                self.done_before
                + max(self.done_now, self.remaining[self.level])
                + sum(self.remaining[self.level + 1 :])
            )
            self.report(min(self.done_before + self.done_now, total), total)

    def finished_level(self, level: int) -> None:
        self.done_before += self.done_now
        self.done_now, self.level = 0, level + 1

    def finished(self) -> None:
        if self.report:
            total = max(1, self.done_before + self.done_now)
            self.report(total, total)
