"""Coverage and tightness of the probabilistic bound, on spectra whose extremes are known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from functools import cache
from itertools import islice, pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor

from thalweg.core.rng import normal
from thalweg.linalg.block_krylov import BlockKrylov
from thalweg.linalg.certificate import RandomStartCertificate
from thalweg.linalg.linear_operator import LinearOperator

P, REPEATS = 40, 2000

# The spectrum that lures a start near the second eigenvector: 100, 90, a bulk.
LURE = torch.cat([torch.tensor([100.0, 90.0]), torch.linspace(-1, 1, P - 2)]).double()


class Diagonal(LinearOperator):
    """A random start does not care for the basis, so the diagonal stands for every matrix of its spectrum."""

    def __init__(self, diagonal: Tensor) -> None:
        super().__init__(len(diagonal), diagonal.dtype)
        self.diagonal = diagonal

    def matmat(self, V: Tensor) -> Tensor:
        return self.diagonal[:, None] * V


def warm_rows(*columns: tuple[int, float]) -> Tensor:
    """Unit vectors, each with noise of the given length."""
    noise = torch.randn(len(columns), P, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = torch.zeros(len(columns), P, dtype=torch.float64)
    for i, (index, size) in enumerate(columns):
        rows[i] = size * noise[i] / noise[i].norm()
        rows[i, index] += 1
    return rows


STARTS = {
    "cold": warm_rows(),
    "lure": warm_rows((1, 0.0)),
    "lure, noisy": warm_rows((1, 0.05)),
    "good": warm_rows((0, 0.05)),
    "several": warm_rows((1, 0.05), (0, 0.3), (7, 0.0)),
}


def certificates(
    diagonal: Tensor, warm: Tensor, num_random: int, seed: int, confidence: float = 0.99
) -> Iterator[RandomStartCertificate]:
    """One certificate, lengthened by a block product each time it is yielded."""
    rng = torch.Generator().manual_seed(seed)
    process = BlockKrylov(Diagonal(diagonal), warm.to(diagonal.dtype), num_random, len(diagonal), rng)
    certificate = RandomStartCertificate(
        process.num_warm,
        process.directions,
        len(diagonal),
        confidence,
        random_shares=process.random_shares,
    )
    while True:
        process.step()
        process.ritz()
        certificate.extend(process.H, process.noise)
        yield certificate


def upper_bound(start: str, num_random: int, seed: int, steps: int, confidence: float = 0.99) -> float:
    """Upper bound for the lure's spectrum after that many block products, over its largest eigenvalue."""
    after = islice(certificates(LURE, STARTS[start], num_random, seed, confidence), steps - 1, None)
    return next(after).upper_bound() / 100


@cache
def repeated(start: str, num_random: int) -> Tensor:
    """Upper bounds after three products, at confidence 0.9: there, failures can be counted.

    With `num_random` 0 the random vectors share the warm ones' columns.
    """
    count = REPEATS if num_random == 1 and start in ("cold", "lure") else REPEATS // 10
    uppers = [upper_bound(start, num_random, seed, 3, 0.9) for seed in range(count)]
    return torch.tensor(uppers, dtype=torch.float64)


def num_misses(uppers: Tensor) -> int:
    return int((uppers < 1 - 1e-12).sum())


@pytest.mark.parametrize("num_random", [0, 1, 2])
@pytest.mark.parametrize("start", STARTS)
def test_the_bound_holds_as_often_as_it_says(start: str, num_random: int) -> None:
    uppers = repeated(start, num_random)
    # Not more failures than 10 %, but for what a binomial count would show once in 1,000 times.
    assert num_misses(uppers) <= stats.binom.ppf(0.999, len(uppers), 0.1)


def test_the_bound_is_not_vacuous() -> None:
    # Once it bites, a cold start fails at three quarters of the stated rate: the last quarter is a margin.
    assert 0.06 < num_misses(repeated("cold", 1)) / REPEATS < 0.09
    assert float(repeated("cold", 1).median()) < 1.25
    # With the lure taken out of the problem the first eigenvalue is the largest by far, and the bound closes.
    assert float(repeated("lure", 1).median()) < 1.01
    medians = [
        float(torch.tensor([upper_bound("cold", 1, seed, steps) for seed in range(20)]).median())
        for steps in (2, 3, 4, 5)
    ]
    assert medians == pytest.approx([3.0, 1.8, 1.1, 1.002], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["cold", "lure", "good"])
def test_coverage_at_99_per_cent(start: str) -> None:
    uppers = [upper_bound(start, 1, 10**6 + seed, 3) for seed in range(4000)]
    assert num_misses(torch.tensor(uppers, dtype=torch.float64)) <= 40


def test_a_shared_column_is_as_good_as_two_with_one_product_more() -> None:
    for start in ("lure, noisy", "good"):
        own, shared = (
            [upper_bound(start, num_random, seed, steps) for seed in range(20)]
            for num_random, steps in ((1, 3), (0, 5))
        )
        assert statistics.median(shared) < 1.1 * statistics.median(own)


def test_a_start_that_cancels_the_random_vector_is_no_lure() -> None:
    """The component along the first eigenvector is missed as often as stated, whatever the warm one holds."""
    # Its part along the first eigenvector is what random vectors have, with either sign: the worst there is.
    size = P**-0.5
    for sign in (1, -1):
        warm = warm_rows((1, 0.0))
        warm[0, 0] = sign * size
        misses = 0
        for seed in range(400):
            after = islice(certificates(LURE, warm, 0, seed, 0.9), 3, None)
            misses += next(after).upper_bound() < 100 * (1 - 1e-12)
        assert misses <= stats.binom.ppf(0.999, 400, 0.1)


def test_random_shares_are_lengths_before_orthogonalisation() -> None:
    dim, warm = 500, torch.eye(2, 500, dtype=torch.float64)
    process = BlockKrylov(Diagonal(torch.ones(dim).double()), warm, 0, dim, torch.Generator().manual_seed(0))
    random = normal(torch.Generator().manual_seed(0), 2, dim, like=warm) / dim**0.5
    expected = random.norm(dim=1) / (random + warm).norm(dim=1)
    torch.testing.assert_close(process.random_shares, expected)
    assert bool((process.random_shares < 0.8).all())


def test_two_dimensions_say_nothing_of_a_shared_column() -> None:
    process = BlockKrylov(
        Diagonal(torch.tensor([2.0, 1.0]).double()),
        torch.tensor([[0.0, 1.0]]).double(),
        0,
        2,
        torch.Generator().manual_seed(0),
    )
    certificate = RandomStartCertificate(
        process.num_warm, process.directions, 2, random_shares=process.random_shares
    )
    process.step()
    certificate.extend(process.H, process.noise)
    assert certificate.upper_bound() == math.inf


def test_a_second_random_vector_tightens_it() -> None:
    one, two = (
        float(torch.tensor([upper_bound("cold", num_random, seed, 3) for seed in range(20)]).median())
        for num_random in (1, 2)
    )
    assert two < 1.4 < one


def test_the_smallest_eigenvalue_is_the_mirror_image() -> None:
    for warm in STARTS.values():
        for one, mirrored in zip(
            islice(certificates(LURE, warm, 2, 0), 4), islice(certificates(-LURE, warm, 2, 0), 4), strict=True
        ):
            assert one.lower_bound() == pytest.approx(-mirrored.upper_bound(), rel=1e-6)
            assert one.upper_bound() == pytest.approx(-mirrored.lower_bound(), rel=1e-6)


def test_more_steps_never_loosen_it() -> None:
    # Even long after the Ritz value has converged, where a recurrence run afresh would have drifted.
    diagonal = torch.linspace(-1, 1, 60, dtype=torch.float64)
    uppers = [c.upper_bound() for c in islice(certificates(diagonal, torch.zeros(0, 60), 1, 1), 50)]
    assert all(later <= earlier * (1 + 1e-7) for earlier, later in pairwise(uppers))
    assert 1 <= uppers[-1] < 1.001


def test_two_ends_share_the_probability() -> None:
    process = BlockKrylov(Diagonal(LURE), STARTS["cold"], 1, P, torch.Generator().manual_seed(0))
    both = RandomStartCertificate(0, process.directions, P, confidence=0.99, num_ends=2)
    once = RandomStartCertificate(0, process.directions, P, confidence=0.995)
    process.step()
    for certificate in (both, once):
        certificate.extend(process.H, 0.0)
    assert both.upper_bound() == pytest.approx(once.upper_bound(), rel=1e-9)


def test_float32_noise_widens_it_little() -> None:
    exact, rounded = (islice(certificates(d, STARTS["good"], 1, 0), 4) for d in (LURE, LURE.float()))
    for narrow, wide in zip(exact, rounded, strict=True):
        assert wide.upper_bound() == pytest.approx(narrow.upper_bound(), rel=2e-3)


def test_noise_in_the_products_is_allowed_for() -> None:
    process = BlockKrylov(Diagonal(LURE), STARTS["cold"], 1, P, torch.Generator().manual_seed(0))
    quiet, loud = (RandomStartCertificate(0, process.directions, P) for _ in range(2))
    for _ in range(3):
        process.step()
        quiet.extend(process.H, 0.0)
        loud.extend(process.H, 1e-2)
    assert quiet.upper_bound() < loud.upper_bound() < 3 * quiet.upper_bound()


def test_wrong_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`confidence` must lie in \(0, 1\), got 1"):
        RandomStartCertificate(0, torch.ones(1, 1, dtype=torch.float64), 1, confidence=1)
