"""Eigenpairs against planted spectra: values, honest residuals, lures, copies, restarts, budgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from scipy.sparse.linalg import eigsh
from tests.linalg.test_certificate import Diagonal
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.linalg import wanted_pairs
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.lanczos import lanczos_eigenpairs
from thalweg.linalg.linear_operator import DenseOperator, LinearOperator

P = 120

SPECTRA: dict[str, Tensor] = {
    "network": torch.cat([torch.tensor([90.0, 60, 45, 28, 20]), 5 * torch.linspace(1, -0.5, P - 5)]),
    "negative": -torch.logspace(0, 2, P),
    "indefinite": torch.linspace(-2, 1, P) ** 3,
    "degenerate": torch.tensor([5.0] * 3 + [1.0] * (P - 5) + [-2.0] * 2),
    "low rank": torch.tensor([3.0, 2, -1] + [0.0] * (P - 3)),
    "identity": torch.ones(P),
    "zero": torch.zeros(P),
    "pair": torch.tensor([2.0, -1]),
    "single": torch.tensor([-3.0]),
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def solve(operator: LinearOperator, k: int = 1, seed: int = 0, **options: Any) -> EigenSolution:
    return lanczos_eigenpairs(operator, k, rng=rng(seed), **options)


def extremes(spectrum: Tensor, k: int, which: str) -> Tensor:
    ordered = spectrum.double().sort(descending=True).values
    return {"top": ordered[:k], "bottom": ordered.flip(0)[:k]}.get(
        which, torch.cat([ordered[:k], ordered.flip(0)[:k]])
    )


def check_pairs(A: Tensor, solution: EigenSolution, rtol: float) -> None:
    """Unit, orthogonal vectors whose true residuals are below the reported ones, and those below `rtol`."""
    X, A = solution.eigenvectors.double(), A.double()
    true = torch.linalg.vector_norm(A @ X - X * solution.eigenvalues, dim=0)
    assert bool((true <= solution.residuals * (1 + 1e-9)).all()), (true, solution.residuals)
    assert float(solution.residuals.max()) <= rtol * solution.norm_estimate
    accuracy = 1e-4 if solution.eigenvectors.dtype == torch.float32 else 1e-12
    assert float((X.T @ X - torch.eye(X.shape[1])).abs().max()) < accuracy
    assert solution.converged


CASES = [
    (name, which, k)
    for name, spectrum in SPECTRA.items()
    for which in ("top", "bottom", "both")
    for k in (1, 3)
    if k * (2 if which == "both" else 1) <= len(spectrum)
]


@pytest.mark.parametrize(("name", "which", "k"), CASES)
@pytest.mark.parametrize(
    ("dtype", "rtol", "num_random"),
    [(torch.float32, 1e-4, 1), (torch.float64, 1e-9, 1), (torch.float64, 1e-5, 2)],
)
def test_planted_spectra(
    name: str, which: Any, k: int, dtype: torch.dtype, rtol: float, num_random: int
) -> None:
    spectrum = SPECTRA[name]
    wanted = extremes(spectrum, k, which)
    A, _ = planted_matrix(spectrum, dtype=dtype)
    solution = solve(DenseOperator(A), k, which=which, rtol=rtol, num_random=num_random)
    check_pairs(A, solution, rtol)
    tolerance = rtol * float(spectrum.abs().max()) + 1e-30
    torch.testing.assert_close(solution.eigenvalues, wanted, rtol=0, atol=tolerance)
    top, bottom = float(spectrum.max()), float(spectrum.min())
    rounding = 1e-12 if dtype == torch.float64 else 1e-5
    for bound, truth in ((solution.top, top), (solution.bottom, bottom)):
        if bound is not None:
            assert bound.lower - rounding <= truth <= bound.upper + rounding
    assert (solution.top is None, solution.bottom is None) == (which == "bottom", which == "top")
    first = solution.bottom if which == "bottom" else solution.top
    assert first is not None
    assert (solution.lower_bound, solution.upper_bound, solution.confidence) == (
        first.lower,
        first.upper,
        first.confidence,
    )


def test_all_pairs_of_a_matrix() -> None:
    A, _ = planted_matrix(SPECTRA["indefinite"])
    solution = solve(DenseOperator(A), P, rtol=1e-10)
    torch.testing.assert_close(solution.eigenvalues, torch.linalg.eigvalsh(A).flip(0), rtol=0, atol=1e-9)
    assert solution.num_matvecs == P
    assert solution.confidence == 1  # nothing is left that could have been missed


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-2])
def test_a_warm_start_at_the_second_eigenvector_does_not_lure(seed: int, noise: float) -> None:
    spectrum = torch.cat([torch.tensor([100.0, 90]), torch.linspace(-1, 1, 398)])
    A, Q = planted_matrix(spectrum, seed)
    start = Q[:, 1:2] + noise * torch.randn(400, 1, generator=rng(seed), dtype=torch.float64)
    solution = solve(DenseOperator(A), seed=seed, start=start)
    assert float(solution.eigenvalues[0]) == pytest.approx(100, rel=1e-3)
    assert solution.num_steps <= 6


def test_the_lure_does_lure_without_enough_steps() -> None:
    # One step says little of the random vector, and the bound says so: a tiny residual, a wide bound.
    A, Q = planted_matrix(torch.cat([torch.tensor([100.0, 90]), torch.linspace(-1, 1, 398)]))
    solution = solve(DenseOperator(A), start=Q[:, 1:2], min_steps=1)
    assert float(solution.eigenvalues[0]) == pytest.approx(90)
    assert float(solution.residuals[0]) < 1e-6
    assert solution.upper_bound > 1000


@pytest.fixture(scope="module")
def hidden() -> tuple[Tensor, Tensor]:
    """The lure again, in a bulk broad enough to hide a direction of one part in twenty for a few steps."""
    return planted_matrix(torch.cat([torch.tensor([100.0, 90]), torch.linspace(-5, 5, 398)]))


def test_a_direction_that_is_just_emerging_holds_up_the_stop(hidden: tuple[Tensor, Tensor]) -> None:
    # After two products the random vector has turned towards the first eigenvector but not reached it. The
    # pair at 90 is exact by then; what keeps the search going is another pair whose residual reaches past it.
    A, Q = hidden
    found = [
        float(solve(DenseOperator(A), seed=s, start=Q[:, 1:2], min_steps=2).eigenvalues[0]) for s in range(40)
    ]
    assert sum(value > 99.9 for value in found) >= 20  # measured: 27 of 40, and 3 of 40 without that rule


def test_certifying_finds_what_is_hidden(hidden: tuple[Tensor, Tensor]) -> None:
    A, Q = hidden
    for seed in range(40):
        solution = solve(DenseOperator(A), seed=seed, start=Q[:, 1:2], min_steps=1, certify_rtol=0.1)
        assert float(solution.eigenvalues[0]) == pytest.approx(100, rel=1e-3)
        assert solution.num_steps <= 6


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("which", ["top", "bottom"])
def test_all_copies_are_found_once_the_start_is_exhausted(which: Any, seed: int) -> None:
    # Five distinct values in sixty dimensions: five steps leave rounding, which must be taken for what it is.
    spectrum = torch.randint(-2, 3, (60,), generator=rng(seed)).double()
    for dtype, rtol in ((torch.float64, 1e-8), (torch.float32, 1e-3)):
        A, _ = planted_matrix(spectrum, seed, dtype)
        solution = solve(DenseOperator(A), 4, seed, which=which, rtol=rtol)
        torch.testing.assert_close(solution.eigenvalues, extremes(spectrum, 4, which), rtol=0, atol=2 * rtol)


@pytest.mark.parametrize("seed", range(4))
def test_near_copies_are_found_within_tolerance(seed: int) -> None:
    # Closer together than the tolerance, further apart than rounding: no residual is left, copies are.
    spectrum = torch.tensor([5.0] * 3 + [1.0] * 57).double() + 1e-4 * torch.rand(60, generator=rng(seed))
    A, _ = planted_matrix(spectrum, seed)
    solution = solve(DenseOperator(A), 3, seed)
    torch.testing.assert_close(solution.eigenvalues, extremes(spectrum, 3, "top"), rtol=1e-3, atol=0)
    assert solution.num_steps < 40


def test_a_spectrum_narrower_than_the_tolerance_ends() -> None:
    spectrum = 1 + 1e-4 * torch.linspace(0, 1, 400)
    A, _ = planted_matrix(spectrum)
    assert solve(DenseOperator(A), 3).num_steps < 30


@pytest.mark.parametrize("rtol", [0.1, 1e-2, 1e-3])
@pytest.mark.parametrize("which", ["top", "both"])
def test_a_rough_tolerance_takes_no_more_products_than_a_fine_one(which: Any, rtol: float) -> None:
    """A bulk within the tolerance converges at once and for ever; that it stays so shows in two products."""
    spectrum = torch.cat([torch.tensor([1.0]), 1e-3 * torch.linspace(-1, 1, 399)]).double()
    A, _ = planted_matrix(spectrum)
    for seed in range(5):
        solution = solve(DenseOperator(A), seed=seed, which=which, rtol=rtol)
        assert solution.num_matvecs <= 5
        assert float(solution.eigenvalues[0]) == pytest.approx(1, rel=1e-4)
    # Of several pairs some may be copies, which the bulk hides; those are waited for.
    assert solve(DenseOperator(A), 2, rtol=rtol).num_matvecs >= 10


def test_two_steady_products_find_what_ten_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start at the second eigenvector, and the tolerance of the size of a bulk that hides the first."""
    spectrum = torch.cat([torch.tensor([100.0, 90]), 3 * torch.linspace(-1, 1, 1998)]).double()
    operator, start = Diagonal(spectrum), torch.eye(2000, dtype=torch.float64)[:, 1:2]

    def found() -> int:
        values = [
            float(solve(operator, seed=seed, start=start, num_random=0, rtol=0.05).eigenvalues[0])
            for seed in range(50)
        ]
        return sum(value >= 95 for value in values)

    after_two = found()
    monkeypatch.setattr(wanted_pairs, "CONFIRMATION", wanted_pairs.PATIENCE)
    assert after_two == found() > 10
    monkeypatch.setattr(wanted_pairs, "CONFIRMATION", 0)
    assert found() < after_two - 5


def test_certify_goes_on_until_the_bound_is_tight() -> None:
    A, Q = planted_matrix(SPECTRA["network"])
    loose = solve(DenseOperator(A), start=Q[:, :1], min_steps=1)
    tight = solve(DenseOperator(A), start=Q[:, :1], min_steps=1, certify_rtol=0.01)
    assert loose.upper_bound > 200
    assert 90 <= tight.upper_bound < 91
    assert loose.num_steps < tight.num_steps <= 8


class Bounded(DenseOperator):
    """A matrix whose form says what no eigenvalue lies below."""

    def __init__(self, matrix: Tensor, least: float) -> None:
        super().__init__(matrix)
        self._least = least

    @property
    def least_eigenvalue(self) -> float:
        return self._least


@pytest.mark.parametrize("which", ["bottom", "both"])
def test_no_product_certifies_an_end_that_the_form_bounds(which: Any) -> None:
    A, Q = planted_matrix(torch.cat([torch.linspace(90, 40, 10), torch.logspace(1, -5, P - 10)]).double())
    options: dict[str, Any] = {"which": which, "certify_rtol": 1e-3, "start": Q[:, [0, -1]], "min_steps": 1}
    unknown, known = solve(DenseOperator(A), **options), solve(Bounded(A, 0.0), **options)
    # One block of three columns shows the smallest; the largest has still to be certified.
    top = 0 if which == "bottom" else solve(DenseOperator(A), **{**options, "which": "top"}).num_matvecs
    assert known.num_matvecs <= 3 + top < unknown.num_matvecs
    assert unknown.bottom is not None
    assert known.bottom is not None
    assert unknown.bottom.confidence == 0.99
    assert unknown.bottom.lower < 0
    assert (known.bottom.lower, known.bottom.confidence) == (0.0, 1.0)
    assert known.bottom.upper == pytest.approx(1e-5, abs=1e-12)
    if known.top is not None:
        assert known.top.confidence == 0.99
        assert 90 <= known.top.upper <= 90 * 1.001


def test_a_form_that_bounds_little_leaves_the_end_to_chance() -> None:
    spectrum = torch.linspace(50, 100, P).double()
    A, _ = planted_matrix(spectrum)
    found = solve(Bounded(A, 0.0), which="bottom", certify_rtol=0.05)
    assert found.bottom is not None
    assert found.bottom.confidence == 0.99
    assert 45 <= found.bottom.lower <= 50


def test_a_good_warm_start_takes_few_block_products() -> None:
    A, Q = planted_matrix(SPECTRA["network"], dtype=torch.float32)
    for quality, most in ((0.01, 3), (0.1, 4), (0.3, 5)):
        noise = torch.randn(P, 1, generator=rng(7), dtype=torch.float64)
        start = (Q[:, :1] + quality * noise / noise.norm()).float()
        solution = solve(DenseOperator(A), start=start)
        assert float(solution.eigenvalues[0]) == pytest.approx(90, rel=1e-3)
        assert 3 <= solution.num_steps <= most
        # The random vector rides along for the first three products, and the warm one goes on alone.
        assert solution.num_matvecs == 2 * 3 + (solution.num_steps - 3)


def test_a_rare_direction_outside_the_warm_space_is_found() -> None:
    # What a subset has never seen: the full matrix gains a top eigenvector orthogonal to every warm vector.
    spectrum = SPECTRA["network"].clone()
    A, Q = planted_matrix(spectrum)
    A = A + (150 - spectrum[77]) * torch.outer(Q[:, 77], Q[:, 77])
    solution = solve(DenseOperator(A), 2, start=Q[:, :2])
    torch.testing.assert_close(
        solution.eigenvalues, torch.tensor([150.0, 90], dtype=torch.float64), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
@pytest.mark.parametrize("which", ["top", "bottom", "both"])
def test_random_vectors_may_share_the_warm_columns(which: Any, dtype: torch.dtype, rtol: float) -> None:
    spectrum = SPECTRA["indefinite"]
    A, Q = planted_matrix(spectrum, dtype=dtype)
    start = Q[:, [0, 1, -1, -2]] + 0.02 * torch.randn(P, 4, generator=rng(), dtype=torch.float64)
    solution = solve(DenseOperator(A), 2, which=which, rtol=rtol, start=start.to(dtype), num_random=0)
    check_pairs(A, solution, rtol)
    torch.testing.assert_close(solution.eigenvalues, extremes(spectrum, 2, which), rtol=0, atol=rtol * 8)
    assert solution.num_matvecs <= 4 * solution.num_steps
    cold = solve(DenseOperator(A), 2, which=which, rtol=rtol, num_random=0)
    torch.testing.assert_close(cold.eigenvalues, extremes(spectrum, 2, which), rtol=0, atol=rtol * 8)


def test_a_shared_column_finds_what_the_warm_vector_does_not_show() -> None:
    """Started from the second eigenvector, over 100 seeds: all but a few find the first in four products."""
    dim = 1000
    spectrum = torch.cat([torch.tensor([100.0, 90.0]), torch.linspace(-1, 1, dim - 2)]).double()
    A = torch.diag(spectrum)
    start = torch.zeros(dim, 1, dtype=torch.float64)
    start[1] = 1
    found = held = 0
    for seed in range(100):
        solution = solve(DenseOperator(A), seed=seed, start=start, num_random=0, min_steps=4)
        found += float(solution.eigenvalues[0]) > 99
        assert solution.lower_bound <= 100 * (1 + 1e-9)
        held += solution.upper_bound >= 100
    assert found >= 95
    assert held >= 96  # of a bound at 99 per cent; a binomial count shows fewer once in 300 times


def test_dependent_zero_and_too_many_warm_vectors() -> None:
    A, Q = planted_matrix(SPECTRA["network"])
    start = torch.stack([Q[:, 0], 2 * Q[:, 0], Q[:, 0] + 1e-12 * Q[:, 5], 0 * Q[:, 0], Q[:, 1]], 1)
    solution = solve(DenseOperator(A), 2, start=start)
    assert solution.num_matvecs <= 3 * solution.num_steps  # two warm directions and the random one
    torch.testing.assert_close(solution.eigenvalues[:2], SPECTRA["network"][:2].double(), rtol=1e-3, atol=0)
    more_than_there_are = torch.randn(P, 2 * P, generator=rng(), dtype=torch.float64)
    assert float(solve(DenseOperator(A), start=more_than_there_are).eigenvalues[0]) == pytest.approx(90)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
@pytest.mark.parametrize("which", ["top", "bottom", "both"])
@pytest.mark.parametrize("k", [1, 3])
def test_restarts_in_bounded_memory_give_the_same_answer(
    which: Any, k: int, dtype: torch.dtype, rtol: float
) -> None:
    spectrum = SPECTRA["indefinite"]
    A, Q = planted_matrix(spectrum, dtype=dtype)
    start = Q[:, [40, 80]].to(dtype)  # of no help, so that there are restarts at either end
    solution = solve(DenseOperator(A), k, which=which, rtol=rtol, start=start, max_basis=14, max_matvecs=4000)
    check_pairs(A, solution, rtol)
    torch.testing.assert_close(solution.eigenvalues, extremes(spectrum, k, which), rtol=0, atol=rtol * 8)
    free = solve(DenseOperator(A), k, which=which, rtol=rtol, start=start)
    assert solution.num_restarts > 0 == free.num_restarts
    torch.testing.assert_close(solution.eigenvalues, free.eigenvalues, rtol=0, atol=rtol * 8)


def test_float32_residuals_stay_honest_over_many_restarts() -> None:
    spectrum = torch.cat([torch.tensor([1.0]), torch.linspace(0.99, -1, 399)])
    A, _ = planted_matrix(spectrum, dtype=torch.float32)
    solution = solve(DenseOperator(A), rtol=2e-5, max_basis=10, max_matvecs=6000)
    check_pairs(A, solution, 2e-5)
    assert solution.num_restarts > 15


def test_cold_start_needs_no_more_products_than_scipy() -> None:
    for name, rtol in (("network", 1e-3), ("indefinite", 1e-4), ("negative", 1e-4)):
        A, _ = planted_matrix(SPECTRA[name])
        ours = solve(DenseOperator(A), rtol=rtol)
        calls: list[int] = []

        def count(x: Any, A: Tensor = A, calls: list[int] = calls) -> Any:
            calls.append(1)
            return A.numpy() @ x

        start = torch.randn(P, generator=rng(), dtype=torch.float64).numpy()
        eigsh(ScipyOperator((P, P), matvec=count, dtype=float), k=1, which="LA", tol=rtol, v0=start)
        assert ours.num_matvecs <= len(calls), name


def test_products_counted_and_reproducible_from_the_generator() -> None:
    A, _ = planted_matrix(SPECTRA["network"])

    class Counting(DenseOperator):
        columns = 0

        def matmat(self, V: Tensor) -> Tensor:
            self.columns += V.shape[1]
            return super().matmat(V)

    operator = Counting(A)
    before = torch.get_rng_state()
    first = solve(operator, 2, num_random=3)
    assert operator.columns == first.num_matvecs
    again = solve(operator, 2, num_random=3)
    assert torch.equal(first.eigenvectors, again.eigenvectors)
    assert not torch.equal(first.eigenvectors, solve(operator, 2, num_random=3, seed=1).eigenvectors)
    assert torch.equal(before, torch.get_rng_state())


def test_reduced_precision_of_the_user_does_not_spoil_the_basis() -> None:
    A, _ = planted_matrix(SPECTRA["network"])

    class Through64(DenseOperator):
        def matmat(self, V: Tensor) -> Tensor:
            return (A @ V.double()).float()

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        solution = solve(Through64(A.float()), rtol=1e-5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    check_pairs(A, solution, 1e-5)
