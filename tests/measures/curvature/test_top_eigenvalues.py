"""Extreme eigenvalues against dense float64 oracles and planted spectra."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from tests import networks
from tests.operators.cases import CASES, ggn_of, hessian_of
from tests.solvers.planted import chosen, orthogonal, planted, scattered
from torch import Tensor

import thalweg as tw
from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.core.measurement import Measurement, hash_tensors
from thalweg.core.rounding import at_most
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues, top_eigenvalues
from thalweg.objective.objective import Objective
from thalweg.operators.registry import OPERATORS, operator_named


def expected(A: Tensor, k: int, which: str) -> Tensor:
    """The wanted eigenvalues of a dense matrix, in the promised order."""
    ascending = torch.linalg.eigvalsh(A)
    top, bottom = ascending.flip(0)[:k], ascending[:k]
    return {"top": top, "bottom": bottom, "both": torch.cat([top, bottom])}[which]


def check(result: TopEigenvalues, A: Tensor, k: int, which: str, rtol: float) -> None:
    """Everything that a result promises, against the dense matrix."""
    true = expected(A, k, which)
    norm = float(torch.linalg.eigvalsh(A).abs().max())
    assert result.eigenvalues.shape == true.shape
    assert result.eigenvalues.dtype == torch.float64
    assert float((result.eigenvalues - true).abs().max()) <= rtol * norm
    assert result.value == float(result.eigenvalues[0])
    # Residuals are no underestimates, and small enough.
    X = result.eigenvectors
    assert X is not None
    remainder = (A @ X.double() - X.double() * result.eigenvalues).norm(dim=0)
    assert bool((remainder <= result.residuals * (1 + 1e-6) + 1e-14 * norm).all())
    assert float(result.residuals.max()) <= rtol * norm * (1 + 1e-9) + 1e-14 * norm
    torch.testing.assert_close(X.norm(dim=0), torch.ones_like(X[0]))
    assert result.error.solver == float(result.residuals[0])
    assert abs(result.value - float(true[0])) <= float(result.residuals[0]) + 1e-14 * norm
    # The bounds hold for the extreme eigenvalue itself.
    assert result.lower_bound <= float(true[0]) + 1e-14 * norm
    assert result.upper_bound >= float(true[0]) - 1e-14 * norm
    assert result.interval(0.95) == (result.lower_bound, result.upper_bound)


# -- networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["top", "bottom", "both"])
@pytest.mark.parametrize("name", ["residual-running", "residual-recalibrated", "residual-batch", "attention"])
def test_networks(name: str, which: Any) -> None:
    result = top_eigenvalues(CASES[name].objective(), 3, which=which, rtol=1e-4, seed=0)
    check(result, hessian_of(name), 3, which, 1e-4)
    assert result.provenance["operator"]["composition"] == "vmap_jvp_grad"
    assert result.provenance["objective"]["batch_norm"] == CASES[name].mode


@pytest.mark.parametrize("which", ["top", "bottom", "both"])
def test_every_k(which: Any) -> None:
    objective, H = CASES["tied"].objective(), hessian_of("tied")
    most = len(H) // 2 if which == "both" else len(H)
    for k in (1, 2, 7, most - 1, most):
        check(top_eigenvalues(objective, k, which=which, rtol=1e-6, seed=k), H, k, which, 1e-6)


def test_single_precision() -> None:
    result = top_eigenvalues(CASES["residual-running"].objective(torch.float32), 2, seed=0)
    assert result.eigenvectors is not None
    assert result.eigenvectors.dtype == torch.float32
    assert result.provenance["operator"]["checked_in"] == "float64"
    check(result, hessian_of("residual-running"), 2, "top", 1e-3)


@pytest.mark.parametrize("name", ["residual-batch", "mlp-mse"])
def test_gauss_newton(name: str) -> None:
    result = top_eigenvalues(CASES[name].objective(), 2, of="ggn", rtol=1e-4, seed=0)
    check(result, ggn_of(name), 2, "top", 1e-4)
    assert result.provenance["arguments"]["of"] == "ggn"
    assert result.provenance["operator"]["composition"] == "vmap_jvp_vjp"
    smallest = top_eigenvalues(CASES[name].objective(), of="ggn", which="bottom", rtol=1e-6, seed=0)
    assert abs(smallest.value) <= 1e-6 * result.value


@pytest.mark.parametrize("of", OPERATORS)
@pytest.mark.parametrize("name", ["attention", "mlp-mse"])
def test_every_matrix(name: str, of: str) -> None:
    objective = CASES[name].objective()
    A = operator_named(of, objective, seed=5) @ torch.eye(objective.space.dim, dtype=torch.float64)
    result = top_eigenvalues(objective, 2, of=of, rtol=1e-6, seed=5)
    check(result, A, 2, "top", 1e-6)
    assert result.provenance["operator"]["checked_in"] == "float64"


def test_gauss_newton_of_a_loss_of_the_model() -> None:
    with pytest.raises(ValueError, match=r"`of='ggn'` needs a loss of \(outputs, targets\)"):
        top_eigenvalues(CASES["own-loss"].objective(), of="ggn", seed=0)


def test_some_parameters() -> None:
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    result = top_eigenvalues(objective, params="head", rtol=1e-5, seed=0)
    check(result, H[index][:, index], 1, "top", 1e-5)
    assert result.eigenvectors is not None
    assert result.eigenvectors.shape == (15, 1)
    with pytest.raises(ValueError, match="`params` must match trainable parameters, but 'hed'"):
        top_eigenvalues(objective, params="hed", seed=0)


def test_composition_by_hand() -> None:
    objective = CASES["mlp-mse"].objective()
    result = top_eigenvalues(objective, composition="double_backward", seed=0)
    assert result.provenance["operator"]["composition"] == "double_backward"
    check(result, hessian_of("mlp-mse"), 1, "top", 1e-3)
    with pytest.raises(ValueError, match="`composition` must be 'auto' or one of"):
        top_eigenvalues(objective, composition="magic", seed=0)


def test_weight_decay() -> None:
    result = top_eigenvalues(CASES["mlp-mse"].objective(weight_decay=2.0), which="bottom", rtol=1e-5, seed=0)
    H = hessian_of("mlp-mse")
    check(result, H + 2 * torch.eye(len(H), dtype=H.dtype), 1, "bottom", 1e-5)


# -- planted spectra ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["top", "bottom", "both"])
@pytest.mark.parametrize(
    "eigenvalues",
    [
        torch.linspace(-3, 5, 40),
        -torch.linspace(1, 9, 40),
        torch.tensor([7.0] * 3 + [1.0] * 37),
        torch.tensor([5.0] * 20 + [-5.0] * 20),
        torch.tensor([1.0] + [0.0] * 39),
        torch.full((40,), 2.0),
        torch.logspace(-8, 2, 40),
    ],
    ids=["indefinite", "negative", "triple", "two-valued", "rank-one", "multiple-of-one", "decades"],
)
def test_planted(eigenvalues: Tensor, which: Any) -> None:
    eigenvalues = eigenvalues.double()
    objective = planted(scattered(eigenvalues, spread=0.1), micro_batch=16)
    Q = orthogonal(40)
    check(
        top_eigenvalues(objective, 3, which=which, rtol=1e-6, seed=1), (Q * eigenvalues) @ Q.T, 3, which, 1e-6
    )


@pytest.mark.parametrize("which", ["top", "bottom", "both"])
def test_zero_hessian(which: Any) -> None:
    result = top_eigenvalues(planted(torch.zeros(13, 10)), 2, which=which, seed=0)
    assert not bool(result.eigenvalues.any())
    assert result.interval() == (0.0, 0.0)
    assert result.error.solver == 0


def test_one_parameter_and_one_example() -> None:
    result = top_eigenvalues(planted(torch.tensor([[-4.0]])), seed=0)
    assert result.value == pytest.approx(-4)
    assert result.interval(0.999) == pytest.approx((-4, -4))
    assert result.confidence == 1


def rare(bulk: float, levels: tuple[int, ...], num_examples: int = 400, dim: int = 60) -> Objective:
    """One example outside all the subsets makes the top direction (100); the second is everybody's (90)."""
    rng = torch.Generator().manual_seed(0)
    eigenvalues = torch.cat([torch.tensor([0.0, 90.0]), bulk * torch.rand(dim - 2, generator=rng)]).double()
    curvatures = scattered(eigenvalues, num_examples, spread=0.05)
    curvatures[:, 0] = 1e-6 * torch.arange(num_examples)
    objective = planted(curvatures)
    taken = set.union(*(chosen(objective, n, seed=i) for i, n in enumerate(levels)))
    outside = next(i for i in range(num_examples) if i not in taken)
    curvatures[outside, 0] = 100 * num_examples - float(curvatures[:, 0].sum() - curvatures[outside, 0])
    return planted(curvatures, micro_batch=64)


@pytest.mark.parametrize("bulk", [1.0, 30.0, 80.0])
def test_direction_of_a_rare_example(bulk: float) -> None:
    """The subsets' top eigenvector is the second of the whole data: a lure that a residual cannot see."""
    levels = (20, 60)
    objective = rare(bulk, levels)
    for i, n in enumerate(levels):
        seen = top_eigenvalues(objective.subset(n, seed=i), levels=(), seed=0)
        assert seen.value == pytest.approx(90, abs=1)
    result = top_eigenvalues(objective, levels=levels, seed=0)
    assert result.value == pytest.approx(100, rel=1e-3)
    assert result.provenance["levels"] == [20, 60]
    assert result.num_subset_matvecs > 0
    both = top_eigenvalues(objective, 2, levels=levels, seed=0)
    assert both.eigenvalues.tolist() == pytest.approx([100, 90], rel=1e-2)
    # Without a certificate the value may be the second; the bound is then what tells.
    unsure = top_eigenvalues(objective, levels=levels, certify_rtol=None, seed=0)
    assert unsure.lower_bound <= 100 <= unsure.upper_bound


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("bulk", [1.0, 60.0])
def test_start_that_lures(seed: int, bulk: float) -> None:
    """In many dimensions, where a random vector has little of anything: 100, 90, bulk, from the second."""
    dim = 300
    rng = torch.Generator().manual_seed(seed)
    eigenvalues = torch.cat([torch.tensor([100.0, 90.0]), bulk * torch.rand(dim - 2, generator=rng)]).double()
    objective = planted(scattered(eigenvalues, 31), seed=seed)
    Q = orthogonal(dim, seed)
    start = Q[:, 1:2] + 1e-4 * Q[:, 2:].sum(1, keepdim=True)
    result = top_eigenvalues(objective, start=start, seed=seed)
    assert result.value == pytest.approx(100, rel=1e-3)
    assert result.lower_bound <= 100 <= result.upper_bound <= 100 * 1.1


def test_without_a_certificate_the_bound_still_tells() -> None:
    """A dense bulk hides the top from three products; the value is then the second, and says so."""
    eigenvalues = torch.cat([torch.tensor([100.0, 90.0]), torch.linspace(0, 80, 498)]).double()
    objective = planted(scattered(eigenvalues, 31))
    start = orthogonal(500)[:, 1:2]
    for seed in range(5):
        result = top_eigenvalues(objective, start=start, certify_rtol=None, seed=seed)
        assert result.lower_bound <= 100 <= result.upper_bound


def test_certificate_as_tight_as_asked() -> None:
    objective = planted(scattered(torch.linspace(0, 10, 80).double() ** 2 / 10))
    loose, tight = (top_eigenvalues(objective, certify_rtol=c, seed=0) for c in (0.3, 0.003))
    assert loose.num_matvecs < tight.num_matvecs
    for result, asked in ((loose, 0.3), (tight, 0.003)):
        assert 10 <= result.upper_bound <= result.value + asked * 10 + 1e-9


# -- budget, starts and errors --------------------------------------------------------------------------


def test_budget_spent_and_not_required() -> None:
    objective = planted(scattered(torch.linspace(1, 2, 300).double()), micro_batch=16)
    spent: dict[str, Any] = {"rtol": 1e-9, "max_matvecs": 20, "levels": (12, 30), "seed": 0}
    reports: list[tuple[int, int]] = []
    result = top_eigenvalues(
        objective, 2, require_convergence=False, progress=lambda *r: reports.append(r), **spent
    )
    with pytest.raises(ConvergenceError) as caught:
        top_eigenvalues(objective, 2, **spent)
    assert torch.equal(result.eigenvalues, caught.value.partial.eigenvalues)
    assert result.provenance["converged"] is False
    assert "not converged" in repr(result)
    assert reports[-1][0] == reports[-1][1]
    met = top_eigenvalues(objective, rtol=0.1, require_convergence=False, seed=0)
    assert met.provenance["converged"] is True
    assert "not converged" not in repr(met)


def test_little_memory_restarts_smaller() -> None:
    spectrum = torch.cat([torch.linspace(0, 1, 299), torch.tensor([1.1])]).double()
    objective = planted(scattered(spectrum))
    entry = objective.params.element_size() * objective.space.dim
    cold: dict[str, Any] = {"rtol": 1e-5, "certify_rtol": None, "levels": (), "seed": 0}
    wide = top_eigenvalues(objective, **cold)
    narrow = top_eigenvalues(objective, max_memory_bytes=11 * entry, **cold)
    assert narrow.provenance["arguments"]["max_memory_bytes"] == 11 * entry
    assert narrow.num_matvecs > wide.num_matvecs
    for result in (wide, narrow):
        assert abs(result.value - 1.1) <= 1e-5 * 1.1
        assert result.provenance["converged"] is True
    with pytest.raises(ValueError, match=f"`max_memory_bytes` must hold the smallest .* {7 * entry:,} bytes"):
        top_eigenvalues(objective, max_memory_bytes=7 * entry - 1, seed=0)


def test_budget_spent() -> None:
    objective = planted(scattered(torch.linspace(1, 2, 300).double()), micro_batch=16)
    with pytest.raises(ConvergenceError, match=r"20 products were spent .* Raise `max_matvecs`") as caught:
        top_eigenvalues(objective, 2, rtol=1e-9, max_matvecs=20, levels=(12, 30), seed=0)
    partial = caught.value.partial
    assert isinstance(partial, TopEigenvalues)
    assert partial.num_matvecs <= 20
    assert partial.num_subset_matvecs > 0
    assert partial.provenance["converged"] is False
    assert partial.provenance["levels"] == [12, 30]
    assert partial.provenance["operator"]["composition"] == "vmap_jvp_grad"
    # What it has is still true: an eigenvalue within each residual.
    distance = (partial.eigenvalues[:, None] - torch.linspace(1, 2, 300).double()).abs().min(1).values
    assert bool((distance <= partial.residuals + 1e-9).all())
    assert partial.lower_bound <= 2 <= partial.upper_bound
    assert Measurement.from_dict(partial.to_dict()).provenance["converged"] is False


def test_less_confidence_gives_a_tighter_bound() -> None:
    objective = planted(scattered(torch.linspace(0, 1, 300).double()))
    bounds = []
    for confidence in (0.99, 0.9, 0.5):
        result = top_eigenvalues(objective, rtol=0.3, certify_rtol=None, confidence=confidence, seed=0)
        assert result.confidence == result.provenance["arguments"]["confidence"] == confidence
        bounds.append(result.upper_bound)
    assert bounds[0] > bounds[1] > bounds[2] >= result.value


def test_warm_start_saves_products() -> None:
    case = CASES["residual-running"]
    cold = top_eigenvalues(case.objective(), rtol=1e-6, certify_rtol=None, seed=0)
    nearby = case.objective().at(case.objective().params * 1.001)
    again = top_eigenvalues(nearby, rtol=1e-3, certify_rtol=None, start=cold.eigenvectors, seed=0)
    assert again.num_matvecs < cold.num_matvecs
    assert again.provenance["levels"] == []
    assert again.provenance["arguments"]["start"] == hash_tensors(cold.eigenvectors)  # type: ignore[arg-type]
    assert again.value == pytest.approx(cold.value, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 41}, ValueError, r"`k` = 41 with which='top' asks for 41 eigenpairs .* P = 40"),
        ({"k": 21, "which": "both"}, ValueError, r"`k` = 21 with which='both' asks for 42 eigenpairs"),
        ({"k": 0}, ValueError, "`k` must be a whole number of at least 1"),
        ({"k": 1.5}, ValueError, "`k` must be a whole number"),
        ({"which": "largest"}, ValueError, "`which` must be 'top', 'bottom' or 'both', got 'largest'"),
        ({"of": "jacobian"}, ValueError, "`of` must be one of hessian, ggn, fisher, .*, got 'jacobian'"),
        ({"rtol": 0.0}, ValueError, r"`rtol` must lie in \["),
        ({"rtol": 1.0}, ValueError, r"`rtol` must lie in \["),
        ({"certify_rtol": 0.0}, ValueError, "`certify_rtol` must be a finite number above nought"),
        ({"certify_rtol": math.nan}, ValueError, "`certify_rtol` must be a finite number above nought"),
        ({"confidence": 1.0}, ValueError, r"`confidence` must lie in \(0, 1\), got 1.0"),
        ({"levels": (30, 20)}, ValueError, "`levels` must ascend and stay below the 61 examples"),
        ({"levels": (20, 20)}, ValueError, "`levels` must ascend"),
        ({"levels": (61,)}, ValueError, "`levels` must ascend and stay below"),
        ({"levels": (0,)}, ValueError, "`levels` must be a whole number of at least 1, got 0"),
        ({"max_matvecs": 0}, ValueError, "`max_matvecs` must allow the first block"),
        ({"start": torch.ones(39, 1)}, ValueError, r"`start` must have shape \(40, W\)"),
        ({"start": torch.full((40, 1), math.nan)}, ValueError, "`start` must be finite"),
        ({"start": torch.zeros(40, 1)}, ValueError, "`start` must not be nought"),
        ({"seed": "x"}, TypeError, "`seed` must be an integer"),
        ({"rtol": "1e-3"}, ValueError, r"`rtol` must lie in \[.*, got '1e-3'"),
        (
            {"certify_rtol": "a"},
            ValueError,
            "`certify_rtol` must be a finite number .* got 'a'",
        ),
        ({"confidence": "high"}, ValueError, r"`confidence` must lie in \(0, 1\), got 'high'"),
        ({"levels": 50}, TypeError, "`levels` must be a sequence of subset sizes, .* got 50"),
        ({"params": 5}, TypeError, "`params` must be a pattern or a list of patterns, got 5"),
        ({"params": [5]}, TypeError, r"`params` must be a pattern or a list of patterns, got \[5\]"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    objective = planted(scattered(torch.linspace(0, 1, 40).double()))
    with pytest.raises(error, match=message):
        top_eigenvalues(objective, **{"seed": 0, **arguments})


def test_non_finite_loss() -> None:
    curvatures = scattered(torch.linspace(0, 1, 10).double())
    curvatures[44, 3] = math.inf
    with pytest.raises(NonFiniteLossError, match="example 44"):
        top_eigenvalues(planted(curvatures), seed=0)


# -- contract -------------------------------------------------------------------------------------------


def test_same_seed_same_result_other_seed_other_random_vectors() -> None:
    objective = CASES["residual-running"].objective()
    first, second, other = (top_eigenvalues(objective, 2, levels=(9,), seed=s) for s in (5, 5, 6))
    assert first == second
    assert first.upper_bound != other.upper_bound
    assert first.value == pytest.approx(other.value, rel=1e-3)


def test_state_is_untouched(unchanged: Callable[..., AbstractContextManager[None]]) -> None:
    case = CASES["residual-batch"]
    model, data = case.model(), case.data()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    objective = Objective(model, data, batch_norm="batch", batch_size=8)
    with unchanged(model, data):
        top_eigenvalues(objective, levels=(8,), seed=0)
        top_eigenvalues(objective, of="ggn", seed=0)


def test_survives_json(tmp_path: Any) -> None:
    result = top_eigenvalues(CASES["tied"].objective(), 2, which="both", seed=0)
    assert Measurement.from_dict(result.to_dict(tmp_path), tmp_path) == result
    start = result.eigenvectors
    assert start is not None
    assert top_eigenvalues(CASES["tied"].objective(), start=start[:, :1], seed=0).to_dict()["provenance"]


def test_says_its_uncertainty() -> None:
    result = top_eigenvalues(CASES["residual-batch"].objective(), rtol=1e-3, seed=0)
    assert result.error.solver is not None
    residual = at_most(result.error.solver, 2)
    found = re.fullmatch(
        rf"TopEigenvalues\({result.value:.6g} ± {residual}, at most (\S+) \(99 %\), batch norm batch\)",
        repr(result),
    )
    assert found, repr(result)
    # Rounded away from the value.
    assert result.upper_bound <= float(found[1]) <= result.upper_bound * (1 + 1e-5)
    bottom = top_eigenvalues(CASES["residual-batch"].objective(), which="bottom", seed=0)
    found = re.search(r"at least (\S+) \(99 %\)", repr(bottom))
    assert found, repr(bottom)
    assert bottom.lower_bound - 1e-5 * abs(bottom.lower_bound) <= float(found[1]) <= bottom.lower_bound
    assert result.interval(0.999) == (result.lower_bound, math.inf)
    assert bottom.interval(0.999) == (-math.inf, bottom.upper_bound)
    with pytest.raises(ValueError, match=r"`level` must lie in \(0, 1\)"):
        result.interval(1.0)


@pytest.mark.parametrize("k", [1, 3])
def test_both_ends_have_bounds_of_their_own(k: int) -> None:
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    true = torch.linalg.eigvalsh(H)
    result = top_eigenvalues(objective, k, which="both", seed=0)
    assert result.smallest_lower_bound is not None
    assert result.smallest_upper_bound is not None
    assert result.num_top == k
    assert result.smallest_lower_bound <= float(true[0]) <= result.smallest_upper_bound
    # The Ritz value bounds it from above, to rounding; the certificate from below, within a tenth.
    assert result.smallest_upper_bound == pytest.approx(float(result.eigenvalues[k]), abs=1e-9)
    assert float(result.eigenvalues[k]) - result.smallest_lower_bound <= 0.1 * float(true.abs().max())
    for i, words in (
        (
            0,
            "(",
        ),
        (k, "smallest "),
    ):
        value, residual = float(result.eigenvalues[i]), float(result.residuals[i])
        said = f"± {at_most(residual, 2)}" if residual > 1e-12 * abs(value) else "exact"
        assert f"{words}{value:.6g} {said}, at " in repr(result)
    one = top_eigenvalues(objective, seed=0)
    assert one.smallest_lower_bound is None
    assert "smallest" not in repr(one)


def test_a_matrix_without_negative_eigenvalues_is_bounded_by_nought() -> None:
    objective = CASES["mlp-mse"].objective()
    found = top_eigenvalues(objective, of="ggn", which="bottom", seed=0)
    assert found.lower_bound == min(0.0, found.value)
    both = top_eigenvalues(objective, of="ggn", which="both", seed=0)
    assert both.smallest_lower_bound == min(0.0, float(both.eigenvalues[1]))
    shifted = top_eigenvalues(CASES["mlp-mse"].objective(weight_decay=2.0), of="ggn", which="bottom", seed=0)
    assert shifted.lower_bound == pytest.approx(2.0, abs=1e-9)
    # Of the Hessian nothing of the kind is known.
    assert top_eigenvalues(objective, which="bottom", seed=0).lower_bound < 0


@pytest.mark.parametrize("rtol", [0.3, 0.1, 0.05])
def test_a_copy_of_an_eigenvalue_is_found_at_rough_tolerances(rtol: float) -> None:
    """One random vector sees one of two equal eigenvalues, and all it sees has converged."""
    eigenvalues = torch.cat([torch.ones(2), torch.linspace(0, 0.2, 10)]).double()
    result = top_eigenvalues(planted(scattered(eigenvalues)), 2, rtol=rtol, seed=0)
    assert float((result.eigenvalues - 1).abs().max()) <= rtol


def test_progress_rises_and_ends() -> None:
    seen: list[tuple[int, int]] = []
    objective = planted(scattered(torch.linspace(0, 1, 40).double()), micro_batch=8)
    top_eigenvalues(
        objective, levels=(9, 20), seed=0, progress=lambda done, total: seen.append((done, total))
    )
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert all(0 < d <= t for d, t in seen)
    assert seen[-1][0] == seen[-1][1]


def test_interrupt_leaves_nothing_behind(unchanged: Callable[..., AbstractContextManager[None]]) -> None:
    model, data = networks.mlp(), networks.vectors()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with unchanged(model, data), pytest.raises(KeyboardInterrupt):
        top_eigenvalues(Objective(model, data), seed=0, progress=stop)


@pytest.mark.parametrize("seed", range(3))
def test_bound_fails_no_more_often_than_it_says(seed: int) -> None:
    """400 cold solves that stop early in all; `tests/linalg` recounts the certificate at length."""
    eigenvalues = torch.cat([torch.tensor([10.0]), torch.linspace(0, 9, 59)]).double()
    objective = planted(scattered(eigenvalues, 3))
    misses = 0
    for i in range(20):
        result = top_eigenvalues(objective, rtol=0.3, certify_rtol=None, seed=100 * seed + i)
        misses += not result.lower_bound <= 10 <= result.upper_bound
    assert misses <= 2


def test_is_among_the_measures() -> None:
    assert tw.MEASURES["top_eigenvalues"] is top_eigenvalues
