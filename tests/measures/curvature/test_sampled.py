"""`sampled=True` of the eigenvalue and the trace: what the results say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.networks import cnn, images, mlp, residual, vectors
from tests.solvers.planted import Vector

import thalweg as tw
from thalweg.solvers import sampled_eigenvalue, sampled_trace, sampling_design


@pytest.fixture(autouse=True)
def _few_and_small_samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that 300 examples are many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(sampling_design, "GROUP_SIZE", 8)
    monkeypatch.setattr(sampled_eigenvalue, "GROUPS", 4)
    monkeypatch.setattr(sampled_eigenvalue, "FIRST_STAGE", 4)
    monkeypatch.setattr(sampled_trace, "FIRST_STAGE", 12)
    yield
    torch.set_num_threads(threads)


MEASURES: list[tuple[Callable[..., tw.Measurement], dict[str, Any]]] = [
    (tw.top_eigenvalues, {"rtol": 0.6, "certify_rtol": None}),
    (tw.hessian_trace, {"rtol": 0.4}),
]


@pytest.mark.parametrize(("measure", "arguments"), MEASURES)
@pytest.mark.parametrize("mode", ["running", "recalibrated"])
def test_the_interval_holds_the_value_over_all_the_data(
    measure: Callable[..., tw.Measurement], arguments: dict[str, Any], mode: Any
) -> None:
    objective = tw.Objective(residual(0), images(300), batch_norm=mode)
    exact = measure(objective, rtol=0.02, seed=0)
    for seed in range(2):
        result = measure(objective, sampled=True, **arguments, seed=seed)
        assert result.provenance["sampling"]["taken"] == "samples"
        assert result.error.data is not None
        assert result.error.data.value > 0
        low, high = result.interval(0.999)
        assert low <= exact.value <= high
        assert "\n" not in repr(result)
        assert tw.Measurement.from_dict(json.loads(json.dumps(result.to_dict()))).error == result.error
    assert measure(objective, sampled=True, **arguments, seed=1) == result


def test_an_l2_term_is_in_it_and_exact() -> None:
    plain, decayed = (tw.Objective(mlp(0), vectors(300), weight_decay=decay) for decay in (0.0, 0.5))
    # Solutions of samples end where their residuals are small beside the norm, which the term adds to.
    for measure, dim, rtol in ((tw.top_eigenvalues, 1, 1e-2), (tw.hessian_trace, plain.space.dim, 1e-9)):
        a, b = (measure(o, sampled=True, rtol=0.6, seed=0) for o in (plain, decayed))
        assert a.provenance["sampling"]["taken"] == "samples"
        assert b.value == pytest.approx(a.value + 0.5 * dim, rel=rtol)


@pytest.mark.parametrize(("measure", "arguments"), MEASURES)
def test_whole_batches_are_drawn_in_batch_mode(
    measure: Callable[..., tw.Measurement], arguments: dict[str, Any]
) -> None:
    """Batches of 16 and a last one of 3."""
    objective = tw.Objective(cnn(), images(403), batch_norm="batch", batch_size=16)
    exact = measure(objective, rtol=0.05, seed=0)
    # Four batches turn the eigenvector of an untrained network far.
    result = measure(objective, sampled=True, **{**arguments, "rtol": 0.95}, seed=0)
    assert result.provenance["sampling"]["taken"] == "samples"
    low, high = result.interval(0.999)
    assert low <= exact.value <= high


@pytest.mark.parametrize(("measure", "arguments"), MEASURES)
def test_few_examples_are_all_taken(
    measure: Callable[..., tw.Measurement], arguments: dict[str, Any]
) -> None:
    objective = tw.Objective(mlp(0), vectors(21))
    sampled = measure(objective, sampled=True, **arguments, seed=0)
    plain = measure(objective, **arguments, seed=0)
    assert sampled.provenance["sampling"]["taken"] == "all examples"
    assert sampled.value == plain.value
    assert sampled.error == plain.error
    assert "all examples, as samples" in repr(sampled)
    assert "all examples, as samples" not in repr(plain)


def test_all_examples_are_certified_as_tightly_as_samples_would_have_been() -> None:
    objective = tw.Objective(mlp(0), vectors(300))
    result = tw.top_eigenvalues(objective, sampled=True, rtol=1e-3, confidence=0.95, seed=0)
    assert result.provenance["sampling"]["taken"] == "all examples"
    assert result.provenance["sampling"]["num_multiplied"] > 0
    low, high = result.interval(0.95)
    assert high - low <= 2.1e-3 * result.value
    assert result.num_subset_matvecs > 0


@pytest.mark.parametrize("required", [True, False])
def test_a_sample_that_spends_the_budget_has_no_result_for_the_data(required: bool) -> None:
    objective = tw.Objective(mlp(0), vectors(300))
    with pytest.raises(tw.ConvergenceError, match="Of a sample: ") as caught:
        tw.top_eigenvalues(
            objective,
            sampled=True,
            rtol=0.5,
            certify_rtol=1e-7,
            max_matvecs=5,
            require_convergence=required,
            seed=0,
        )
    assert caught.value.partial is None


def test_samples_are_solved_in_the_memory_there_is() -> None:
    objective = tw.Objective(mlp(0), vectors(300))
    entry = objective.params.element_size() * objective.space.dim
    sampled: dict[str, Any] = {"sampled": True, "rtol": 0.5, "certify_rtol": None, "seed": 0}
    wide = tw.top_eigenvalues(objective, **sampled)
    assert wide.is_sampled
    narrow = tw.top_eigenvalues(objective, max_memory_bytes=14 * entry, **sampled)
    assert abs(narrow.value - wide.value) <= 0.05 * wide.value
    with pytest.raises(ValueError, match="`max_memory_bytes` must hold the smallest basis"):
        tw.top_eigenvalues(objective, max_memory_bytes=3 * entry, **sampled)


def test_the_limits_and_the_repr_of_an_eigenvalue() -> None:
    objective = tw.Objective(mlp(0), vectors(300))
    result = tw.top_eigenvalues(objective, sampled=True, rtol=0.6, confidence=0.9, seed=0)
    assert result.is_sampled
    assert result.num_matvecs == 0 < result.num_subset_matvecs
    assert result.lower_bound < result.value < result.upper_bound
    assert result.confidence == 0.9
    low, high = result.interval(0.5)
    assert high - result.value == pytest.approx(result.error.half_width(0.5))
    assert low < high
    assert "(90 %)" in repr(result)
    assert "if none was missed), in any case at least" in repr(result)
    bottom = tw.top_eigenvalues(objective, sampled=True, which="bottom", rtol=0.5, seed=0)
    exact = tw.top_eigenvalues(objective, which="bottom", seed=0)
    assert bottom.lower_bound <= exact.value <= bottom.upper_bound


def test_the_default_tolerance_is_rougher_for_samples() -> None:
    objective = tw.Objective(mlp(0), vectors(21))
    for sampled, rtol in ((False, 1e-3), (True, 0.02)):
        result = tw.top_eigenvalues(objective, sampled=sampled, seed=0)
        assert result.provenance["arguments"]["rtol"] == rtol


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        (tw.top_eigenvalues, {"k": 2}, "`sampled` estimates one eigenvalue at one end, got k=2"),
        (tw.top_eigenvalues, {"which": "both"}, "got k=1, which='both'"),
        (tw.top_eigenvalues, {"levels": (5,)}, "`levels` are subsets of an exact solution"),
        (tw.top_eigenvalues, {"of": "fisher"}, "`sampled` takes of='hessian' or 'ggn', got 'fisher'"),
        (tw.top_eigenvalues, {"rtol": 2.0}, r"`rtol` must lie in \(0, 1\)"),
        (tw.hessian_trace, {"population": True}, "and no `population`"),
        (tw.hessian_trace, {"method": "xtrace"}, "method='auto'"),
        (tw.hessian_trace, {"of": "empirical_fisher"}, "`sampled` takes of='hessian' or 'ggn'"),
    ],
)
def test_what_samples_cannot_tell(
    measure: Callable[..., tw.Measurement], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(tw.Objective(mlp(0), vectors(300)), sampled=True, **arguments, seed=0)


def test_a_zero_hessian_is_nought_with_no_error() -> None:
    """A loss that is linear in the parameters: every sample's matrix is nought."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 5, generator=rng, dtype=torch.float64)
    linear = tw.Objective(Vector(torch.ones(5, dtype=torch.float64)), (rows,), loss=along)
    for measure, _ in MEASURES:
        found = measure(linear, sampled=True, seed=0)
        assert found.value == 0
        assert found.interval(0.95) == pytest.approx((0, 0), abs=1e-12)


def along(model: Vector, batch: tuple[torch.Tensor]) -> torch.Tensor:
    return batch[0] @ model.theta


def test_a_function_of_the_users_own_is_not_taken_for_the_named_loss() -> None:
    def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    own = tw.Objective(mlp(0), vectors(300), loss=cross_entropy)
    found = tw.top_eigenvalues(own, sampled=True, rtol=0.6, certify_rtol=None, seed=0)
    assert found.provenance["sampling"]["in_proportion_to"] == "uniform"


def test_a_broken_network_is_named() -> None:
    objective = tw.Objective(mlp(0), vectors(300))
    broken = objective.at(torch.full_like(objective.params, torch.nan))
    for measure, _ in MEASURES:
        with pytest.raises(tw.NonFiniteLossError, match="not finite"):
            measure(broken, sampled=True, seed=0)
