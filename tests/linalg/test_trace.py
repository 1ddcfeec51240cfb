"""Traces of planted spectra: right on average, with standard errors and intervals that are right too."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.rng import generator
from thalweg.linalg.linear_operator import DenseOperator, LinearOperator
from thalweg.linalg.sum_operator import SumOperator
from thalweg.linalg.trace import LEAST, estimate_trace
from thalweg.linalg.trace_estimate import TraceEstimate, satterthwaite

METHODS = ["hutchinson", "hutch++", "xtrace"]
P = 120
RANKS = torch.arange(1, P + 1, dtype=torch.float64)
BULK = torch.rand(P - 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SPECTRA = {
    "flat": torch.linspace(1, 2, P).double(),
    "indefinite": torch.linspace(-1, 3, P).double(),
    "1/k": 1 / RANKS,
    "geometric": 0.9**RANKS,
    "outliers": torch.cat([torch.tensor([100.0, 80, 60, 50, 40, 30, 20, 15, 10]).double(), 2 * BULK - 0.4]),
    "negative": -(0.8**RANKS),
}


def operator(eigenvalues: Tensor, dtype: torch.dtype = torch.float64) -> DenseOperator:
    return DenseOperator(planted_matrix(eigenvalues, dtype=dtype)[0])


@dataclass
class Repeated:
    """Many estimates of one trace."""

    errors: Tensor
    standard_errors: Tensor
    covered: float
    methods: Counter[str]
    parts: Tensor
    part_errors: Tensor
    squares: Tensor
    square_errors: Tensor
    diagonals: Tensor
    diagonal_errors: Tensor

    def z(self, errors: Tensor) -> Tensor:
        """Of the mean error, nought if unbiased."""
        return errors.mean(0) / errors.std(0) * math.sqrt(len(errors))

    def ratio(self, errors: Tensor, standard_errors: Tensor) -> Tensor:
        """True standard deviation over the root mean square of those stated."""
        return errors.std(0) / standard_errors.square().mean(0).sqrt()


def repeat(spectrum: Tensor, num_repeats: int, **options: Any) -> Repeated:
    A, true = operator(spectrum), float(spectrum.sum())
    groups = torch.arange(P) % 3
    results = [
        estimate_trace(A, rng=generator(i, "repeat"), groups=groups, **options) for i in range(num_repeats)
    ]
    # An exact result is right to rounding.
    halves = [r.error.half_width(0.95) if r.error else 1e-9 * abs(true) for r in results]
    hits = [abs(r.value - true) <= half for r, half in zip(results, halves, strict=True)]
    diagonal = A.matrix.diagonal()
    true_parts = torch.zeros(3, dtype=torch.float64).index_add_(0, groups, diagonal)

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return Repeated(
        errors=column([r.value - true for r in results]),
        standard_errors=column([r.error.value if r.error else 0.0 for r in results]),
        covered=sum(hits) / num_repeats,
        methods=Counter(r.method for r in results),
        parts=torch.stack([r.parts - true_parts for r in results]),
        part_errors=torch.stack([r.part_errors for r in results]),
        squares=column([r.square - float(spectrum.square().sum()) for r in results]),
        square_errors=column([r.square_error for r in results]),
        diagonals=torch.stack([r.diagonal - diagonal for r in results]),
        diagonal_errors=column([r.diagonal_error for r in results]),
    )


# -- right on average -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_unbiased_with_the_right_standard_error(method: str, name: str) -> None:
    """At a number of probes that does not depend on them, so that nothing but the estimator is seen."""
    found = repeat(SPECTRA[name], 400, method=method, rtol=0.999)
    assert set(found.methods) == {method}
    assert abs(found.z(found.errors)) < 3.5
    assert bool((found.z(found.parts).abs() < 3.8).all())
    assert abs(found.z(found.squares)) < 3.5
    # One in a thousand of 120 entries.
    assert float(found.z(found.diagonals).abs().max()) < 4.5
    # XTrace's is right where its probes interact in pairs, else too large (it never covers too little).
    low, high = (0.65, 1.12) if method == "xtrace" else (0.9, 1.12)
    assert low < found.ratio(found.errors, found.standard_errors) < high
    assert bool((found.ratio(found.parts, found.part_errors) > low).all())
    assert bool((found.ratio(found.parts, found.part_errors) < 1.15).all())
    assert low < found.ratio(found.squares, found.square_errors) < 1.2
    rms = found.diagonals.square().mean().sqrt() / found.diagonal_errors.square().mean().sqrt()
    assert low < rms < high


def coverage(name: str, num_repeats: int, **options: Any) -> float:
    return repeat(SPECTRA[name], num_repeats, **options).covered


# Each stops by `rtol` after its first stage; what is left of the target is all of the methods' own doing.
COVERAGE = [
    ("indefinite", "hutchinson", 0.02),
    ("geometric", "hutchinson", 0.05),
    ("indefinite", "hutch++", 0.02),
    ("geometric", "hutch++", 0.02),
    ("1/k", "hutch++", 0.02),
    ("geometric", "xtrace", 0.05),
    ("geometric", "auto", 0.05),
    ("geometric", "auto", 0.02),
    ("indefinite", "auto", 0.02),
    ("1/k", "auto", 0.03),
    ("outliers", "auto", 0.1),
]


@pytest.mark.parametrize(("name", "method", "rtol"), COVERAGE)
def test_intervals_cover(name: str, method: str, rtol: float) -> None:
    # 400 repetitions have a standard deviation of 1.1 %.
    assert 0.92 <= coverage(name, 400, method=method, rtol=rtol) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method", "rtol"), COVERAGE)
def test_intervals_cover_at_length(name: str, method: str, rtol: float) -> None:
    covered = coverage(name, 2000, method=method, rtol=rtol)
    print("trace", name, method, rtol, covered)
    assert 0.935 <= covered <= 0.965


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rtol", [0.1, 0.02])
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_intervals_never_cover_too_little(method: str, rtol: float, name: str) -> None:
    """XTrace's cover too much where its probes hardly interact; nothing covers less than it says."""
    assert coverage(name, 1000, method=method, rtol=rtol) >= 0.93


# -- exact ----------------------------------------------------------------------------------------------


def check_exact(found: TraceEstimate, A: Tensor) -> None:
    torch.testing.assert_close(found.diagonal, A.diagonal(), rtol=1e-12, atol=1e-12)
    assert found.value == pytest.approx(float(A.trace()), rel=1e-12, abs=1e-12)
    assert found.square == pytest.approx(float(A.square().sum()), rel=1e-12)
    assert found.samples.tolist() == [found.value]
    assert float(found.parts.sum()) == pytest.approx(found.value, rel=1e-12, abs=1e-12)
    assert found.error is None
    assert found.square_error == found.diagonal_error == float(found.part_errors.abs().max()) == 0
    assert found.converged


@pytest.mark.parametrize("dim", [1, 2, LEAST])
def test_exact_where_probes_would_cost_as_much(dim: int) -> None:
    A = operator(torch.linspace(-1, 2, dim).double())
    found = estimate_trace(A, rng=generator(0), groups=torch.arange(dim) % min(dim, 2))
    assert found.method == "exact"
    assert found.num_matvecs == dim
    check_exact(found, A.matrix)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize("name", ["indefinite", "1/k"])
def test_exact_once_the_probes_reach_the_dimension(name: str, method: str) -> None:
    A = operator(SPECTRA[name])
    found = estimate_trace(A, rng=generator(0), rtol=1e-6, method=method)
    assert found.method == "exact"
    assert found.num_matvecs <= 2 * P
    check_exact(found, A.matrix)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_nought(method: str) -> None:
    found = estimate_trace(DenseOperator(torch.zeros(P, P)), rng=generator(0), method=method)
    assert found.value == found.square == found.diagonal_error == 0
    assert found.converged
    assert found.error is None or found.error.half_width(0.95) == 0


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_multiple_of_the_identity(method: str) -> None:
    found = estimate_trace(operator(torch.full((P,), 3.0).double()), rng=generator(0), method=method)
    assert abs(found.value - 3 * P) <= 1e-9 + (found.error.half_width(0.999) if found.error else 0)
    if method != "hutch++":  # whose complement has vectors of other lengths
        assert found.value == pytest.approx(3 * P, rel=1e-12)


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
@pytest.mark.parametrize("rank", [1, 5, 10])
def test_low_rank_is_exact_to_rounding(rank: int, method: str) -> None:
    spectrum = torch.cat([torch.linspace(-2, 5, rank), torch.zeros(P - rank)]).double()
    A = operator(spectrum)
    found = estimate_trace(A, rng=generator(0), method=method)
    assert found.value == pytest.approx(float(spectrum.sum()), rel=1e-10, abs=1e-10)
    torch.testing.assert_close(found.diagonal, A.matrix.diagonal(), atol=1e-9, rtol=0)
    assert found.square == pytest.approx(float(spectrum.square().sum()), rel=1e-9)
    assert found.error is not None
    assert found.error.value < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_single_precision(method: str) -> None:
    spectrum = SPECTRA["outliers"]
    double, single = (
        estimate_trace(operator(spectrum, dtype), rng=generator(4), method=method, rtol=0.1)
        for dtype in (torch.float64, torch.float32)
    )
    assert single.value == pytest.approx(double.value, rel=1e-4)
    assert single.diagonal.dtype == torch.float32
    assert single.samples.dtype == single.parts.dtype == torch.float64
    assert single.num_matvecs == double.num_matvecs


# -- which method, how many probes ----------------------------------------------------------------------


def test_auto_takes_what_the_spectrum_asks_for() -> None:
    def chosen(name: str, rtol: float) -> str:
        return estimate_trace(operator(SPECTRA[name]), rng=generator(0), rtol=rtol).method

    assert chosen("flat", 0.05) == "hutchinson"
    assert chosen("indefinite", 0.05) == "hutchinson"
    assert chosen("1/k", 0.02) == "hutch++"
    assert chosen("outliers", 0.02) == "hutch++"
    assert chosen("indefinite", 0.001) == "exact"


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize("name", ["1/k", "outliers", "negative"])
def test_standard_error_is_what_was_asked_for(name: str, method: str) -> None:
    for seed in range(5):
        found = estimate_trace(operator(SPECTRA[name]), rng=generator(seed), rtol=0.03, method=method)
        assert found.converged
        if found.error:
            assert found.error.value <= 0.03 * abs(found.value) * (1 + 1e-12)
            assert found.error.dof >= 11


def test_deflation_saves_products() -> None:
    A = operator(SPECTRA["outliers"])
    costs = {
        method: estimate_trace(A, rng=generator(0), rtol=0.05, method=method).num_matvecs
        for method in [*METHODS, "auto"]
    }
    assert costs["auto"] <= 1.1 * costs["hutch++"] < 0.8 * costs["hutchinson"]


def test_the_offset_counts_towards_the_value() -> None:
    A = operator(SPECTRA["indefinite"])
    alone, beside = (
        estimate_trace(A, rng=generator(0), rtol=0.01, offset=x, method="hutchinson") for x in (0, 5e3)
    )
    assert beside.num_matvecs < alone.num_matvecs
    assert beside.error is not None
    assert beside.error.value <= 0.01 * (5e3 + beside.value)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_budget_spent(method: str) -> None:
    planned: list[int] = []
    found = estimate_trace(
        operator(SPECTRA["indefinite"]),
        rng=generator(0),
        rtol=1e-4,
        method=method,
        max_matvecs=60,
        on_plan=planned.append,
    )
    assert not found.converged
    assert found.num_matvecs <= 60
    assert found.error is not None
    assert found.error.value > 1e-4 * abs(found.value)
    assert max(planned) <= 60
    assert abs(found.value - float(SPECTRA["indefinite"].sum())) < found.error.half_width(0.9999)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_a_trace_of_nought_has_no_relative_error(method: str) -> None:
    A = operator(torch.cat([torch.ones(P // 2), -torch.ones(P // 2)]).double())
    assert not estimate_trace(A, rng=generator(0), method=method, max_matvecs=P - 1).converged
    assert estimate_trace(A, rng=generator(0), method=method).method == "exact"


def test_little_memory_takes_a_smaller_sketch() -> None:
    A = operator(SPECTRA["1/k"])
    wide = estimate_trace(A, rng=generator(0), rtol=0.005, method="hutch++")
    least = 8 * 12 * P * 8  # the pilot's columns, in float64
    narrow = estimate_trace(
        A, rng=generator(0), rtol=0.005, method="xtrace", max_memory_bytes=least, max_matvecs=100
    )
    assert wide.converged
    assert len(narrow.samples) == 12
    for method in ("xtrace", "hutch++"):
        with pytest.raises(ValueError, match=rf"`max_memory_bytes` must hold 12 columns, .* {least:,} bytes"):
            estimate_trace(A, rng=generator(0), method=method, max_memory_bytes=least - 1)


@pytest.mark.parametrize("dim", [P, 20])
def test_less_memory_than_a_pilot_takes_fewer_probes_together(dim: int) -> None:
    widths: list[int] = []

    class Counted(LinearOperator):
        def matmat(self, V: Tensor) -> Tensor:
            widths.append(V.shape[1])
            return inner @ V

    inner = DenseOperator(planted_matrix(SPECTRA["1/k"][:dim], seed=0)[0])
    A = Counted(dim, torch.float64)
    full = estimate_trace(A, rng=generator(0), rtol=0.1, method="hutchinson")
    assert max(widths) == 8
    for columns in (1, 3):
        widths.clear()
        small = estimate_trace(A, rng=generator(0), rtol=0.1, max_memory_bytes=(8 * columns + 3) * dim * 8)
        assert max(widths) == columns
        assert small.method == ("hutchinson" if dim == P else "exact")
        assert len(small.samples) == len(full.samples)
        assert small.value == pytest.approx(full.value, rel=1e-12)
    needed = f"{11 * dim * 8:,}"
    with pytest.raises(ValueError, match=rf"`max_memory_bytes` must hold a single probe, .* {needed} bytes"):
        estimate_trace(A, rng=generator(0), max_memory_bytes=11 * dim * 8 - 1)


def test_same_generator_same_numbers_and_blocks_do_not_matter() -> None:
    class Counted(LinearOperator):
        widths: tuple[int, ...] = ()

        def matmat(self, V: Tensor) -> Tensor:
            self.widths += (V.shape[1],)
            return inner @ V

    inner = operator(SPECTRA["1/k"])
    A = Counted(P, torch.float64)
    first, second, other = (estimate_trace(A, rng=generator(s), rtol=0.1) for s in (0, 0, 1))
    assert first.value == second.value
    assert first.value != other.value
    assert max(A.widths) == 8
    assert sum(A.widths) == first.num_matvecs + second.num_matvecs + other.num_matvecs


# -- sums -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "auto"])
@pytest.mark.parametrize("dim", [P, 20])
def test_summands_are_estimated_by_the_same_probes(dim: int, method: str) -> None:
    spectra = [SPECTRA["1/k"][:dim], SPECTRA["geometric"][:dim], SPECTRA["indefinite"][:dim] / 10]
    parts = [DenseOperator(planted_matrix(s, seed=i)[0]) for i, s in enumerate(spectra)]
    weights, shift = [0.5, 0.3, 0.2], 0.25
    A = SumOperator(parts, weights, shift)
    whole = sum(w * p.matrix for w, p in zip(weights, parts, strict=True)) + shift * torch.eye(dim)
    V = torch.randn(dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(A @ V, whole @ V)
    found = estimate_trace(A, rng=generator(1), method=method, rtol=0.1)
    assert found.forms.shape == (3, len(found.samples))
    torch.testing.assert_close(torch.tensor(weights).double() @ found.forms, found.samples)
    assert float(found.parts.sum()) == pytest.approx(found.value, rel=1e-12)
    for i, spectrum in enumerate(spectra):
        forms, true = found.forms[i], float(spectrum.sum()) + shift * dim
        spread = float(forms.std()) / math.sqrt(len(forms)) if len(forms) > 1 else 1e-12
        assert abs(float(forms.mean()) - true) < 5 * spread + 1e-9


def test_degrees_of_freedom_of_a_mean_of_variances() -> None:
    chi = torch.distributions.Chi2(torch.tensor(7.0).double())
    torch.manual_seed(0)
    # The mean of 500 variances with 7 degrees of freedom has 3,500.
    assert satterthwaite(chi.sample((500,))) == pytest.approx(3500, rel=0.2)
    assert satterthwaite(torch.ones(12)) == 1e6
    assert satterthwaite(torch.tensor([0.0] * 11 + [1.0])) == 11


# -- refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": 0.0}, r"`rtol` must lie in \(0, 1\), got 0.0"),
        ({"rtol": 1.0}, r"`rtol` must lie in \(0, 1\), got 1.0"),
        ({"method": "hutch"}, "`method` must be one of auto, hutchinson"),
        ({"max_matvecs": 35}, "`max_matvecs` must be at least 36, got 35"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_trace(operator(SPECTRA["flat"]), rng=generator(0), **arguments)


def test_xtrace_does_not_tell_summands_apart() -> None:
    A = operator(SPECTRA["flat"])
    with pytest.raises(ValueError, match="`method` = 'xtrace' does not tell summands apart"):
        estimate_trace(SumOperator([A, A], [0.5, 0.5]), rng=generator(0), method="xtrace")


@pytest.mark.parametrize("method", METHODS)
def test_products_that_are_not_finite(method: str) -> None:
    class Broken(LinearOperator):
        def matmat(self, V: Tensor) -> Tensor:
            return V / 0

    with pytest.raises(NonFiniteLossError, match="a product of the operator is not finite"):
        estimate_trace(Broken(P, torch.float32), rng=generator(0), method=method)
