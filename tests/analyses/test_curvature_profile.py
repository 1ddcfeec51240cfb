"""The fused profile against dense float64 oracles."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tests.known_matrix import Known, use
from tests.operators.cases import CASES, ggn_of, hessian_of
from tests.solvers.planted import planted, scattered
from torch import Tensor

from thalweg.analyses.curvature_profile import CurvatureProfile, curvature_profile
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import Measurement
from thalweg.measures.curvature.layer_traces import layer_indices
from thalweg.objective.folds import random_folds
from thalweg.objective.objective import Objective


def layer_traces(H: Tensor, indices: dict[str, Tensor]) -> Tensor:
    return torch.stack([H.diagonal()[index].sum() for index in indices.values()])


def check(found: CurvatureProfile, H: Tensor, indices: dict[str, Tensor]) -> None:
    values = torch.linalg.eigvalsh(H)
    # A bound of nought, by the matrix's form, is nearer the truth than the dense oracle's rounding.
    assert found.lambda_min_lower <= float(values[0]) + 1e-15 <= found.lambda_min + 1e-12
    assert found.lambda_max - 1e-12 <= float(values[-1]) <= found.lambda_max_upper
    d = 0.1 * float(values.abs().max()) - float(values[0])
    for estimate, exact in (
        (found.trace, values.sum()),
        (found.frobenius_norm, values.norm()),
        (found.effective_rank, values.sum() ** 2 / values.square().sum()),
        (found.negative_mass, (values < -1e-12).double().mean()),
        (found.log_det(d), torch.log(values + d).sum()),
        (found.effective_dimension(d), (values / (values + d)).sum()),
    ):
        low, high = estimate.interval(0.999)
        assert float(low) - 1e-9 <= float(exact) <= float(high) + 1e-9
    low, high = found.interval(0.999)
    assert low - 1e-9 <= float(values.sum()) <= high + 1e-9
    assert found.layers == tuple(indices)
    wide = {3: 13.0, 4: 8.7, 7: 5.5, 1: 640.0}[found.num_probes - 1]
    away = (found.layer_traces - layer_traces(H, indices)).abs()
    assert bool((away <= wide * found.layer_trace_errors + 1e-9).all())
    # The layers' traces sum to the trace: the same probes, the same counted eigenvalues.
    assert float(found.layer_traces.sum()) == pytest.approx(found.value, rel=1e-9)
    # So does the diagonal, whose stated error is that of its entries.
    assert found.diagonal.dtype == H.dtype
    assert float(found.diagonal.sum()) == pytest.approx(found.value, rel=1e-9)
    deviation = float((found.diagonal - H.diagonal()).square().mean().sqrt())
    assert deviation <= 2 * found.diagonal_error + 1e-9


@pytest.mark.parametrize(
    "name", ["residual-running", "residual-recalibrated", "residual-batch", "attention", "tied"]
)
def test_networks(name: str) -> None:
    objective = CASES[name].objective()
    found = curvature_profile(objective, max_matvecs=80, seed=0)
    assert found.num_probes == 4
    assert found.num_matvecs == min(80, objective.space.dim)
    assert found.num_steps == math.ceil(found.num_matvecs / 4)
    check(found, hessian_of(name), layer_indices(objective.space))
    assert found.provenance["objective"]["batch_norm"] == CASES[name].mode


def test_gauss_newton_of_some_parameters() -> None:
    objective, G = CASES["residual-running"].objective(), ggn_of("residual-running")
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer != "head"])
    chosen = ["conv2", "norm*"]
    found = curvature_profile(objective, max_matvecs=40, of="ggn", params=chosen, seed=0)
    check(found, G[index][:, index], layer_indices(objective.restrict(chosen).space))
    assert set(found.layers) == {"conv2", "norm1", "norm2", "norm3"}


def test_a_budget_that_spans_the_space_is_exact() -> None:
    objective, H = CASES["residual-batch"].objective(), hessian_of("residual-batch")
    found = curvature_profile(objective, max_matvecs=1000, seed=0)
    values = torch.linalg.eigvalsh(H)
    assert found.num_matvecs == len(H)
    assert found.confidence == 1
    assert found.converged
    assert found.lambda_max <= found.lambda_max_upper <= found.lambda_max + 1e-9
    assert found.lambda_min - 1e-9 <= found.lambda_min_lower <= found.lambda_min
    torch.testing.assert_close(found.density.nodes.flip(0), values, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.layer_traces, layer_traces(H, layer_indices(objective.space)))
    assert found.value == pytest.approx(float(values.sum()))
    assert float(found.layer_trace_errors.max()) < 1e-9
    torch.testing.assert_close(found.diagonal, H.diagonal())
    assert found.diagonal_error < 1e-9


@pytest.mark.parametrize("num", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_layer_traces_have_the_errors_they_state(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    use(Known(objective, H), monkeypatch)
    exact = layer_traces(H, layer_indices(objective.space))
    runs = [curvature_profile(objective, max_matvecs=100, seed=seed) for seed in range(num)]
    found = torch.stack([r.layer_traces for r in runs])
    stated = torch.stack([r.layer_trace_errors for r in runs]).square().mean(0).sqrt()
    assert bool(((found.mean(0) - exact).abs() < 4 * found.std(0) / num**0.5).all())
    ratio = found.std(0) / stated
    assert bool(((ratio > 0.6) & (ratio < 1.5)).all())
    away = torch.stack([r.diagonal - H.diagonal() for r in runs]).square().mean().sqrt()
    said = torch.tensor([r.diagonal_error for r in runs]).square().mean().sqrt()
    assert 0.7 < float(away / said) < 1.4


def test_the_zero_matrix_has_no_negative_mass() -> None:
    case = CASES["mlp-mse"]
    flat = Objective(case.model(), case.data(), loss=lambda outputs, _: 0 * outputs.sum(1))
    found = curvature_profile(flat, max_matvecs=16, seed=0)
    assert (float(found.negative_mass), float(found.effective_rank), found.value) == (0, 0, 0)


def test_bounds_hold_where_the_ends_have_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    use(Known(objective, H), monkeypatch)
    values = torch.linalg.eigvalsh(H)
    lowest, highest = float(values[0]), float(values[-1])
    for seed in range(20):
        found = curvature_profile(objective, max_matvecs=4, seed=seed)
        assert found.lambda_max < highest - 1e-3
        assert found.lambda_min > lowest + 1e-3
        assert found.lambda_min_lower <= lowest
        assert found.lambda_max_upper >= highest
        assert found.confidence == 0.99


def test_too_small_a_budget_is_flagged_or_raised() -> None:
    objective = CASES["residual-running"].objective()
    found = curvature_profile(objective, max_matvecs=8, seed=0)
    assert not found.converged
    assert found.num_matvecs == 8
    assert curvature_profile(objective, max_matvecs=100, seed=0).converged
    with pytest.raises(ConvergenceError, match="8 products were spent before both ends converged") as caught:
        curvature_profile(objective, max_matvecs=8, require_convergence=True, seed=0)
    assert caught.value.partial.value == found.value


def test_json(tmp_path) -> None:
    found = curvature_profile(CASES["tied"].objective(), max_matvecs=12, seed=0)
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(tmp_path), allow_nan=False)), tmp_path)
    assert back == found
    assert isinstance(back, CurvatureProfile)
    assert float(back.log_det(10.0)) == float(found.log_det(10.0))


@pytest.mark.parametrize("budget", [3, 0, 12.5, True])
def test_bad_budgets(budget) -> None:
    with pytest.raises(ValueError, match="`max_matvecs` must be a whole number of at least 4"):
        curvature_profile(CASES["tied"].objective(), max_matvecs=budget, seed=0)


@pytest.mark.parametrize(("vectors", "split"), [(120, (5, 21)), (30, (2, 12))])
def test_a_budget_left_open_fits_into_the_memory(vectors: int, split: tuple[int, int]) -> None:
    objective = CASES["residual-running"].objective()
    entry = objective.params.element_size() * objective.space.dim
    found = curvature_profile(objective, max_memory_bytes=vectors * entry, seed=0)
    assert found.provenance["split"] == {"num_probes": split[0], "num_steps": split[1]}
    assert (found.num_probes, found.num_steps) == split
    assert found.num_matvecs == split[0] * split[1]
    same = curvature_profile(objective, max_matvecs=split[0] * split[1], seed=0)
    assert same.value == found.value
    with pytest.raises(ValueError, match=r"`max_memory_bytes` must hold 40 steps of 8 probes, got .* bytes"):
        curvature_profile(objective, max_matvecs=320, max_memory_bytes=30 * entry, seed=0)
    with pytest.raises(
        ValueError, match=rf"must hold 2 steps of 2 probes, .* they need {10 * entry:,} bytes"
    ):
        curvature_profile(objective, max_memory_bytes=10 * entry - 1, seed=0)


def test_bad_tolerance_and_memory() -> None:
    with pytest.raises(ValueError, match=r"`rtol` must lie in \(0, 1\), got 2"):
        curvature_profile(CASES["tied"].objective(), rtol=2, seed=0)
    with pytest.raises(ValueError, match="`max_memory_bytes` must hold 20 steps of 2 probes, got 100"):
        curvature_profile(CASES["tied"].objective(), max_matvecs=40, max_memory_bytes=100, seed=0)


# -- the data's error -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual-running", "residual-batch", "attention"])
@pytest.mark.parametrize("of", ["hessian", "ggn"])
def test_folds_change_nothing_but_what_is_said_of_the_data(name: str, of: str) -> None:
    objective = CASES[name].objective(weight_decay=0.5)
    whole = curvature_profile(objective, max_matvecs=80, of=of, seed=0)
    found = curvature_profile(objective, max_matvecs=80, of=of, population=True, num_folds=3, seed=0)
    assert whole.error.data is None
    assert whole.fold_traces is None
    assert found.error.data is not None
    assert found.error.data.dof == 2
    assert found.error.data.value > 0
    assert found.fold_traces is not None
    assert found.num_matvecs == whole.num_matvecs
    for key in ("value", "lambda_max", "lambda_min", "lambda_max_upper", "lambda_min_lower"):
        assert getattr(found, key) == pytest.approx(getattr(whole, key), rel=1e-7, abs=1e-9)
    assert found.error.probe is not None
    assert whole.error.probe is not None
    assert found.error.probe.value == pytest.approx(whole.error.probe.value, rel=1e-6)
    sizes = [fold.num_examples for fold in random_folds(objective, 3, 0)]
    mean = sum(n * t for n, t in zip(sizes, found.fold_traces.tolist(), strict=True)) / sum(sizes)
    assert mean == pytest.approx(found.value, rel=1e-9)


def test_folds_of_a_spanned_space_are_exact() -> None:
    curvatures = scattered(torch.linspace(0, 1, 10).double(), 40)
    found = curvature_profile(planted(curvatures), population=True, num_folds=40, seed=0)
    # One example a fold: the textbook standard error of the mean.
    assert found.error.data is not None
    assert found.error.data.value == pytest.approx(float(curvatures.sum(1).std()) / math.sqrt(40), rel=1e-9)
    assert found.fold_traces is not None
    torch.testing.assert_close(
        found.fold_traces.sort().values, curvatures.sum(1).sort().values, rtol=0, atol=1e-9
    )


def test_matrices_that_are_no_means_have_no_folds() -> None:
    with pytest.raises(ValueError, match="`population` takes a mean over examples"):
        curvature_profile(CASES["mlp-mse"].objective(), of="gradient_covariance", population=True, seed=0)
    with pytest.raises(ValueError, match="`num_folds` must lie between 2 and the 21 examples"):
        curvature_profile(CASES["mlp-mse"].objective(), population=True, num_folds=22, seed=0)
