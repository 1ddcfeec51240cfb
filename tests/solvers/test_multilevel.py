"""Levels: which are the default, what they cost, and that none of them can do harm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.operators.cases import CASES
from tests.solvers.planted import orthogonal, planted, scattered

from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.objective import evaluation, passes
from thalweg.objective import objective as objective_module
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers import multilevel
from thalweg.solvers.multilevel import MultilevelSolution, default_levels, multilevel_eigenpairs


def problem(dim: int = 30, num_examples: int = 61) -> Objective:
    """Eigenvalues 1, 1/2, 1/3, ..."""
    return planted(scattered(1 / torch.arange(1, dim + 1).double(), num_examples, spread=0.01))


@pytest.mark.parametrize(
    ("num_examples", "expected"),
    [
        (100, ()),
        (4095, ()),
        (4096, (512,)),
        (60_000, (1875,)),
        (10**6, (976, 31250)),
        (10**7, (512, 9765, 312500)),
    ],
)
def test_default_levels(num_examples: int, expected: tuple[int, ...]) -> None:
    assert default_levels(num_examples) == expected


def test_subsets_are_the_default_only_without_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multilevel, "SMALLEST_LEVEL", 7)
    operator = Hessian(problem())
    assert multilevel_eigenpairs(operator, 1, seed=0).levels == (7,)
    assert multilevel_eigenpairs(operator, 1, certify_rtol=0.1, seed=0).levels == ()
    assert multilevel_eigenpairs(operator, 1, start=orthogonal(30)[:, :1], seed=0).levels == ()
    assert multilevel_eigenpairs(operator, 1, certify_rtol=0.1, levels=(9,), seed=0).levels == (9,)


@pytest.mark.parametrize("levels", [(), (5,), (5, 20, 60)])
def test_levels_do_not_change_the_answer(levels: tuple[int, ...]) -> None:
    solved = multilevel_eigenpairs(Hessian(problem()), 2, rtol=1e-8, levels=levels, seed=0)
    assert solved.solution.eigenvalues.tolist() == pytest.approx([1, 1 / 2], abs=1e-8)
    assert solved.levels == levels
    assert (solved.num_subset_matvecs > 0) == bool(levels)


def test_good_subsets_save_products_on_the_full_data() -> None:
    """Examples that agree: the last level needs its least number of steps and no more, of one column."""
    operator = Hessian(planted(scattered(torch.linspace(0, 1, 200).double() ** 20, 61, spread=1e-4)))
    cold = multilevel_eigenpairs(operator, 1, rtol=1e-2, levels=(), seed=0).solution
    warm = multilevel_eigenpairs(operator, 1, rtol=1e-2, levels=(20,), seed=0).solution
    assert warm.num_matvecs == warm.num_steps == 4 < cold.num_steps


def test_products_follow_the_digits_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that the last level is told to make, without a certificate and with one."""
    told: list[int] = []
    solve = multilevel.lanczos_eigenpairs

    def noted(*args: Any, **options: Any) -> Any:
        told.append(options["min_steps"])
        return solve(*args, **options)

    monkeypatch.setattr(multilevel, "lanczos_eigenpairs", noted)
    for rtol in (0.5, 0.1, 0.03, 1e-2, 3e-3, 1e-3, 3e-4):
        multilevel_eigenpairs(Hessian(problem()), 1, rtol=rtol, seed=0)
    assert told == [2, 2, 3, 3, 4, 4, 5]
    multilevel_eigenpairs(Hessian(problem()), 1, certify_rtol=0.1, seed=0)
    assert told[-1] == multilevel.MIN_STEPS


def test_levels_take_whole_batches_in_batch_mode() -> None:
    case = CASES["residual-batch"]
    solved = multilevel_eigenpairs(Hessian(case.objective()), 1, levels=(8, 16), seed=0)
    cold = multilevel_eigenpairs(Hessian(case.objective()), 1, levels=(), seed=0)
    assert float(solved.solution.eigenvalues[0]) == pytest.approx(
        float(cold.solution.eigenvalues[0]), rel=2e-3
    )


def test_recalibrated_statistics_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    recalibrated = passes.recalibrated

    def counted(objectives: list[Objective]) -> Any:
        calls.append(1)
        return recalibrated(objectives)

    for module in (objective_module, evaluation):
        monkeypatch.setattr(module, "recalibrated", counted)
    multilevel_eigenpairs(Hessian(CASES["residual-recalibrated"].objective()), 1, levels=(8, 16), seed=0)
    assert len(calls) == 1


def test_each_level_starts_from_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Any] = []
    found: list[torch.Tensor] = []
    seeds: list[int] = []
    solve, subset = multilevel.lanczos_eigenpairs, Objective.subset

    def recorded(*args: Any, **options: Any) -> Any:
        starts.append(options["start"])
        solution = solve(*args, **options)
        found.append(solution.eigenvectors)
        return solution

    def drawn(self: Objective, n: int, seed: int = 0) -> Objective:
        seeds.append(seed)
        return subset(self, n, seed)

    monkeypatch.setattr(multilevel, "lanczos_eigenpairs", recorded)
    operator = Hessian(problem())
    assert operator.check.passed
    monkeypatch.setattr(Objective, "subset", drawn)
    multilevel_eigenpairs(operator, 2, levels=(10, 20), seed=7)
    assert starts[0] is None
    assert starts[1] is found[0]
    assert starts[2] is found[1]
    assert len(set(seeds)) == 2, "nested subsets would share what they miss"


def test_start_from_a_run_with_the_same_seed_gets_other_random_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what those missed once they would miss again, and the bound would not hold."""
    streams: list[tuple[Any, ...]] = []
    make = multilevel.generator

    def recorded(seed: int, *stream: Any) -> torch.Generator:
        streams.append((seed, *stream))
        return make(seed, *stream)

    monkeypatch.setattr(multilevel, "generator", recorded)
    operator = Hessian(problem())
    start = None
    for _ in range(3):
        start = multilevel_eigenpairs(operator, 1, start=start, rtol=1e-2, seed=3).solution.eigenvectors
    assert len(set(streams)) == 3


class FailsOnSubsets(Hessian):
    """Raises over anything but all the data."""

    full = 61
    error: type[Exception] = NonFiniteLossError

    def matmat(self, V: torch.Tensor) -> torch.Tensor:
        if self.objective.num_examples < self.full:
            raise self.error("only here")
        return super().matmat(V)


def test_subset_that_is_not_finite_is_passed_over() -> None:
    solved = multilevel_eigenpairs(FailsOnSubsets(problem()), 1, rtol=1e-6, levels=(10, 20), seed=0)
    assert float(solved.solution.eigenvalues[0]) == pytest.approx(1, abs=1e-6)
    assert solved.levels == ()
    assert solved.num_subset_matvecs == 0


def test_other_errors_on_a_subset_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsOnSubsets, "error", ZeroDivisionError)
    with pytest.raises(ZeroDivisionError, match="only here"):
        multilevel_eigenpairs(FailsOnSubsets(problem()), 1, levels=(10,), seed=0)


def test_full_data_that_are_not_finite_are_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsOnSubsets, "full", 62)
    with pytest.raises(NonFiniteLossError, match="only here"):
        multilevel_eigenpairs(FailsOnSubsets(problem()), 1, levels=(10,), seed=0)


def test_subset_that_does_not_converge_gives_a_poorer_start() -> None:
    """Its budget is spent; what it has found is used all the same."""
    objective = planted(scattered(torch.linspace(0, 1, 200).double(), 61, spread=0.3))
    with pytest.raises(ConvergenceError, match="30 products were spent") as caught:
        multilevel_eigenpairs(Hessian(objective), 1, rtol=1e-10, levels=(5,), max_matvecs=30, seed=0)
    partial = caught.value.partial
    assert isinstance(partial, MultilevelSolution)
    assert partial.levels == (5,)
    assert 0 < partial.num_subset_matvecs <= 30
    assert not partial.solution.converged


def test_operator_is_proved_once() -> None:
    calls: list[int] = []

    class Counting(Hessian):
        @property
        def check(self) -> Any:
            if self._check is None:
                calls.append(1)
            return super().check

    multilevel_eigenpairs(Counting(problem()), 1, levels=(10, 20), seed=0)
    assert len(calls) == 1


def test_progress_counts_examples_times_columns() -> None:
    seen: list[tuple[int, int]] = []
    solved = multilevel_eigenpairs(
        Hessian(problem()),
        1,
        levels=(10, 20),
        seed=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    full = 61 * solved.solution.num_matvecs
    assert full < seen[-1][0] <= full + 20 * solved.num_subset_matvecs
    assert seen[-1][0] == seen[-1][1]
