"""Extreme eigenpairs of an operator over data, by solving on subsets first where that pays.

A Ritz vector of a thousand examples points almost where that of sixty thousand does, and costs a sixtieth.
What a subset cannot show, a direction that few examples make, the random vectors of the last level can; how
surely, its certificate says. To say it surely they need about as many products as a cold solve takes
altogether, which then comes with the eigenpair; so subsets are the default only where no certificate is asked
for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.core.measurement import hash_tensors
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.lanczos import check_tolerances, lanczos_eigenpairs
from thalweg.linalg.wanted_pairs import Which
from thalweg.operators.congruent import CongruentOperator
from thalweg.operators.objective_operator import ObjectiveOperator

# What a level costs beside the next must be little, and how near its vectors come falls with the square root
# of its size only.
LEVEL_RATIO = 32
SMALLEST_LEVEL = 512
LEAST_RATIO = 8

# A subset's eigenvectors differ from the full data's by sampling, so that solving it tightly gains nothing.
LEVEL_RTOL = 1e-2
LEVEL_MIN_STEPS = 2

# Block products of the last level in which random vectors with columns of their own take part at the least.
MIN_STEPS = 3


@dataclass(frozen=True)
class MultilevelSolution:
    """The full data's solution, the sizes of the subsets it started from, and the products those took."""

    solution: EigenSolution
    levels: tuple[int, ...]
    num_subset_matvecs: int


def default_levels(num_examples: int) -> tuple[int, ...]:
    """Ascending sizes: a 32nd of the next, but at least 512, and none that is more than an eighth of it.

    >>> default_levels(60_000), default_levels(4096), default_levels(10**6)
    ((1875,), (512,), (976, 31250))
    """
    sizes: list[int] = []
    while True:
        next_size = sizes[0] if sizes else num_examples
        size = max(next_size // LEVEL_RATIO, SMALLEST_LEVEL)
        if size * LEAST_RATIO > next_size:
            return tuple(sizes)
        sizes.insert(0, size)


def multilevel_eigenpairs(
    operator: ObjectiveOperator | CongruentOperator,
    k: int,
    *,
    which: Which = "top",
    rtol: float = 1e-3,
    certify_rtol: float | None = None,
    confidence: float = 0.99,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    require_convergence: bool = True,
    levels: Sequence[int] | None = None,
    start: Tensor | None = None,
    seed: int,
    progress: Progress | None = None,
) -> MultilevelSolution:
    """Solve over growing subsets, then over all the data; arguments as in `top_eigenvalues`.

    A subset that does not converge gives a poorer start, one whose products are not finite none: the verdict
    is the full data's.

    Raises
    ------
    ConvergenceError
        If the last level spends `max_matvecs` and `require_convergence` is set; carries a
        `MultilevelSolution`.
    """
    objective = operator.objective
    if levels is None:
        wanted = start is None and certify_rtol is None
        levels = default_levels(objective.num_examples) if wanted else ()
    check_tolerances(operator.dtype, rtol, certify_rtol, confidence)
    sizes = checked_levels(levels, objective.num_examples)
    num_wanted = 2 * k if which == "both" else k
    work = _LevelWork(objective.num_examples, sizes, num_wanted, progress)
    warm, used, num_subset_matvecs = start, [], 0
    # Vectors handed in may come from an earlier run with this seed; the random ones must not be its again.
    stream = ("cold",) if start is None else ("warm", hash_tensors(start))
    # A bound that is asked for needs random vectors with columns of their own; where none is, they share the
    # warm vectors' columns, and a full product costs what one column does.
    num_random = 0 if certify_rtol is None else 1
    operator.check  # noqa: B018 - proves the operator once, for all levels
    for level, size in enumerate(sizes):
        try:
            solution = lanczos_eigenpairs(
                operator.over(objective.subset(size, seed=seed + level)).counting(work.add),
                k,
                which=which,
                rtol=max(rtol, LEVEL_RTOL),
                start=warm,
                num_random=num_random,
                min_steps=LEVEL_MIN_STEPS,
                rng=generator(seed, *stream, level),
                max_matvecs=max_matvecs,
                max_memory_bytes=max_memory_bytes,
            )
        except ConvergenceError as error:
            solution = error.partial
        except NonFiniteLossError:
            solution = None
        if solution is not None:
            warm = solution.eigenvectors
            num_subset_matvecs += solution.num_matvecs
            used.append(size)
        work.next_level()
    try:
        solution = lanczos_eigenpairs(
            operator.counting(work.add),
            k,
            which=which,
            rtol=rtol,
            certify_rtol=certify_rtol,
            confidence=confidence,
            start=warm,
            num_random=num_random,
            min_steps=MIN_STEPS if num_random else _least_shared_steps(rtol),
            rng=generator(seed, *stream, "full"),
            max_matvecs=max_matvecs,
            max_memory_bytes=max_memory_bytes,
        )
    except ConvergenceError as error:
        if require_convergence:
            partial = MultilevelSolution(error.partial, tuple(used), num_subset_matvecs)
            raise ConvergenceError(str(error), partial) from None
        solution = error.partial
    work.finish()
    return MultilevelSolution(solution, tuple(used), num_subset_matvecs)


def _least_shared_steps(rtol: float) -> int:
    """Products of the last level at the least, where random vectors share its columns: they see as many.

    One more than the digits asked for: who wants a rough value fast is told by the bound how little it rules
    out. docs/curvature.md has how often so many miss what the start does not show.
    """
    return 1 + max(1, math.ceil(-math.log10(rtol)))


def checked_levels(levels: Sequence[int], num_examples: int) -> tuple[int, ...]:
    """Sizes of subsets, ascending, all smaller than the whole."""
    if isinstance(levels, str) or not isinstance(levels, Iterable):
        raise TypeError(f"`levels` must be a sequence of subset sizes, such as (1024, 8192), got {levels!r}.")
    sizes = tuple(levels)
    for size in sizes:
        check_count("levels", size)
    if list(sizes) != sorted(set(sizes)) or (sizes and sizes[-1] >= num_examples):
        raise ValueError(
            f"`levels` must ascend and stay below the {num_examples} examples there are, got {sizes}."
        )
    return sizes


class _LevelWork:
    """Progress in examples times columns, against an estimate that moves when a level takes more."""

    def __init__(
        self, num_examples: int, sizes: Sequence[int], num_wanted: int, report: Progress | None
    ) -> None:
        # From experience: columns of a cold level and of a warm one.
        cold, warm = 5 + 4 * num_wanted, 5 * num_wanted
        self._expected = [n * (warm if i else cold) for i, n in enumerate((*sizes, num_examples))]
        self._work, self._counts = Work(report), [0]

    def add(self, examples: int) -> None:
        """Count a micro-batch's examples times columns, of the present level."""
        self._counts[-1] += examples
        level = len(self._counts)
        present = max(self._counts[-1], self._expected[level - 1])
        self._work.expect(sum(self._counts[:-1]) + present + sum(self._expected[level:]))
        self._work.add(examples)

    def next_level(self) -> None:
        """What this level took is known."""
        self._counts.append(0)

    def finish(self) -> None:
        """All is done."""
        self._work.finish()
