"""Traces against dense float64 oracles, and probe and data errors against known components."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from scipy import stats
from tests.known_matrix import Planted
from tests.operators.cases import CASES, ggn_of, hessian_of
from tests.solvers.planted import planted, scattered
from torch import Tensor

import thalweg as tw
from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.curvature.hessian_trace import HessianTrace, hessian_trace
from thalweg.objective.objective import Objective


def parts(objective: Objective, H: Tensor) -> dict[str, float]:
    """Trace of each layer's block of a dense matrix."""
    found: dict[str, float] = {}
    for s in objective.space:
        name = s.layer or s.name
        found[name] = found.get(name, 0.0) + float(H.diagonal()[s.start : s.stop].sum())
    return found


def check(result: HessianTrace, objective: Objective, H: Tensor) -> None:
    """All that a result says, against the dense matrix, within four and a half standard errors."""
    scale = 1e-9 * float(H.norm())
    error = result.error.probe.value if result.error.probe else 0.0
    assert abs(result.value - float(H.trace())) <= 4.5 * error + scale
    assert result.value == pytest.approx(float(result.samples.mean()), rel=1e-12)
    true = parts(objective, H)
    assert result.layers == tuple(true)
    for name, value, spread in zip(
        result.layers, result.layer_traces, result.layer_trace_errors, strict=True
    ):
        assert abs(float(value) - true[name]) <= 4.5 * float(spread) + scale, name
    assert float(result.layer_traces.sum()) == pytest.approx(result.value, rel=1e-9, abs=scale)
    assert abs(result.frobenius_norm - float(H.norm())) <= 4.5 * result.frobenius_error + scale
    assert result.diagonal is not None
    deviation = (result.diagonal.double() - H.diagonal()).square().mean().sqrt()
    assert float(deviation) <= 2 * result.diagonal_error + scale
    if result.method != "exact":
        assert 0.5 * result.diagonal_error <= float(deviation)
        assert float(result.layer_trace_errors.max()) > 0


@pytest.mark.parametrize("name", CASES)
def test_networks(name: str) -> None:
    objective, H = CASES[name].objective(), hessian_of(name)
    result = hessian_trace(objective, rtol=0.2, seed=0)
    check(result, objective, H)
    assert result.provenance["operator"]["composition"]
    assert result.provenance["converged"] is True
    exact = hessian_trace(objective, rtol=1e-9, seed=0)
    assert exact.method == "exact"
    check(exact, objective, H)
    assert exact.interval() == (exact.value, exact.value)
    assert "exact" in repr(exact)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
@pytest.mark.parametrize("name", ["residual-batch", "attention"])
def test_every_method(name: str, method: str) -> None:
    objective = CASES[name].objective()
    result = hessian_trace(objective, method=method, rtol=0.5, seed=1)
    assert result.method == method
    check(result, objective, hessian_of(name))


def test_single_precision() -> None:
    objective = CASES["residual-recalibrated"].objective(torch.float32)
    result = hessian_trace(objective, rtol=0.2, seed=0)
    assert result.diagonal is not None
    assert result.diagonal.dtype == torch.float32
    H = hessian_of("residual-recalibrated")
    error = result.error.probe
    assert error is not None
    assert abs(result.value - float(H.trace())) <= 4 * error.value


@pytest.mark.parametrize("name", ["residual-batch", "mlp-mse"])
def test_gauss_newton(name: str) -> None:
    objective = CASES[name].objective()
    check(hessian_trace(objective, of="ggn", rtol=0.2, seed=0), objective, ggn_of(name))


def test_some_parameters() -> None:
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    result = hessian_trace(objective, params="head", seed=0)
    assert result.layers == ("head",)
    check(result, objective.restrict("head"), H[index][:, index])


def test_layers_have_intervals_by_their_own_degrees_of_freedom() -> None:
    """K - 1 of the samples' spread, not those of the trace's own standard error, which is known better."""
    objective = CASES["residual-running"].objective()
    result = hessian_trace(objective, method="hutchinson", rtol=0.2, seed=0)
    num_probes = len(result.samples)
    low, high = result.layer_trace_estimate.interval(0.9)
    half = float(stats.t.ppf(0.95, num_probes - 1)) * result.layer_trace_errors
    torch.testing.assert_close(low, result.layer_traces - half, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high, result.layer_traces + half, rtol=1e-12, atol=1e-12)
    exact = hessian_trace(objective, params="head", rtol=1e-6, seed=0)
    assert exact.method == "exact"
    assert all(torch.equal(end, exact.layer_traces) for end in exact.layer_trace_estimate.interval())


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace", "auto"])
def test_the_l2_term_is_exact(method: str) -> None:
    """It changes neither the probes' errors nor, to rounding, what they say of the data's part."""
    rtol = 0.9
    bare, decayed = (
        hessian_trace(CASES["residual-running"].objective(weight_decay=w), method=method, rtol=rtol, seed=0)
        for w in (0.0, 3.0)
    )
    H = hessian_of("residual-running")
    whole = H + 3 * torch.eye(len(H), dtype=H.dtype)
    check(decayed, CASES["residual-running"].objective(), whole)
    if bare.method == decayed.method:
        assert decayed.value - bare.value == pytest.approx(3 * len(H), rel=1e-9)
        assert bare.error.probe is not None
        assert decayed.error.probe is not None
        assert decayed.error.probe.value == pytest.approx(bare.error.probe.value, rel=1e-9)
    check(
        hessian_trace(CASES["residual-running"].objective(weight_decay=3.0), rtol=1e-9, seed=0),
        CASES["residual-running"].objective(),
        whole,
    )


def test_the_l2_term_counts_towards_the_value() -> None:
    curvatures = scattered(torch.linspace(-1, 1.5, 200).double(), 3)
    alone = hessian_trace(planted(curvatures), rtol=0.05, method="hutchinson", seed=0)
    decayed = hessian_trace(planted(curvatures, weight_decay=1.0), rtol=0.05, method="hutchinson", seed=0)
    assert decayed.num_matvecs < alone.num_matvecs
    assert decayed.error.probe is not None
    assert decayed.error.probe.value <= 0.05 * decayed.value


def test_frozen_and_tied_parameters_count_once() -> None:
    frozen = hessian_trace(CASES["residual-running"].objective(), rtol=0.3, seed=0)
    assert "conv1" not in frozen.layers
    tied = hessian_trace(CASES["tied"].objective(), seed=0)
    assert tied.layers == ("embed", "inner")
    assert tied.diagonal is not None
    assert len(tied.diagonal) == 7 * 4 + 4 * 4 + 4


def test_a_tied_parameter_is_chosen_by_its_second_name() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Linear(3, 3, bias=False)
            self.decoder = torch.nn.Linear(3, 3)
            self.decoder.weight = self.encoder.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(torch.tanh(self.encoder(x)))

    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = tw.Objective(Tied().double(), (x, x.flip(1)), loss="mse")
    whole, chosen = (hessian_trace(objective, params=p, seed=0) for p in ("*", "decoder"))
    assert (whole.method, chosen.method) == ("exact", "exact")
    assert chosen.value == pytest.approx(whole.value, rel=1e-12)
    assert hessian_trace(objective, params="decoder.bias", seed=0).value != pytest.approx(whole.value)


def test_a_parameter_of_the_root_is_a_layer_by_its_own_name() -> None:
    result = hessian_trace(planted(scattered(torch.linspace(0, 1, 9).double())), seed=0)
    assert result.layers == ("theta",)


# -- planted --------------------------------------------------------------------------------------------


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted matrices are computed at once: that automatic differentiation finds them is shown elsewhere."""
    module = importlib.import_module("thalweg.measures.curvature.hessian_trace")
    monkeypatch.setattr(module, "operator_named", lambda _of, objective, *_, **__: Planted(objective))


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "auto"])
def test_intervals_cover(method: str, known: None) -> None:
    eigenvalues = 0.9 ** torch.arange(80).double()
    objective = planted(scattered(eigenvalues, 5), micro_batch=5)
    hits = 0
    for seed in range(100):
        result = hessian_trace(objective, method=method, rtol=0.05, seed=seed)
        low, high = result.interval(0.95)
        hits += low - 1e-9 <= float(eigenvalues.sum()) <= high + 1e-9
        if result.error.probe:
            assert result.error.probe.value <= 0.05 * result.value * (1 + 1e-12)
    assert hits / 100 >= 0.87


def population(seed: int, num_examples: int, spread: float, dim: int = 60) -> Objective:
    """Examples drawn from a distribution whose Hessian has the trace sum(1 ... 2) = 1.5 dim."""
    rng = torch.Generator().manual_seed(seed)
    eigenvalues = torch.linspace(-1, 4, dim).double()
    common = torch.randn(num_examples, 1, generator=rng, dtype=torch.float64)
    own = torch.randn(num_examples, dim, generator=rng, dtype=torch.float64)
    return planted(eigenvalues + spread * (common + own), micro_batch=num_examples)


@pytest.mark.parametrize(
    ("num_repeats", "spread", "method"),
    [
        (80, 0.05, "auto"),
        (80, 1.0, "hutch++"),
        *(
            pytest.param(500, s, m, marks=pytest.mark.slow)
            for s in (0.05, 0.3, 1.0)
            for m in ("auto", "hutch++")
        ),
    ],
)
def test_probe_and_data_error_apart(num_repeats: int, spread: float, method: str, known: None) -> None:
    """The true trace of each sample is known, so that both errors are seen alone."""
    dim, n = 60, 40
    probes, data, stated_probes, stated_data, hits = [], [], [], [], 0
    for seed in range(num_repeats):
        objective = population(seed, n, spread)
        sample = float(objective.reduce(lambda micro: micro.batch[0].sum())) / n
        result = hessian_trace(objective, rtol=0.1, method=method, population=True, num_folds=8, seed=seed)
        assert result.error.probe is not None
        assert result.error.data is not None
        assert result.error.data.dof == 7
        probes.append(result.value - sample)
        data.append(sample - 1.5 * dim)
        stated_probes.append(result.error.probe.value)
        stated_data.append(result.error.data.value)
        low, high = result.interval(0.95)
        hits += low <= 1.5 * dim <= high

    def rms(values: list[float]) -> float:
        return math.sqrt(sum(v * v for v in values) / len(values))

    # Four standard deviations of a standard deviation.
    tolerance = 4 / math.sqrt(2 * num_repeats)
    assert rms(stated_probes) == pytest.approx(rms(probes), rel=tolerance)
    # Var of sum_i (common + own_i) over n examples.
    true = spread * math.sqrt((dim**2 + dim) / n)
    assert rms(data) == pytest.approx(true, rel=tolerance)
    assert rms(stated_data) == pytest.approx(true, rel=tolerance)
    assert hits / num_repeats >= (0.93 if num_repeats > 100 else 0.89)


def test_the_crossed_design_costs_what_the_whole_does() -> None:
    objective = CASES["residual-batch"].objective()
    alone = hessian_trace(objective, rtol=0.3, method="hutchinson", seed=0)
    crossed = hessian_trace(objective, rtol=0.3, method="hutchinson", population=True, num_folds=3, seed=0)
    assert crossed.num_matvecs == alone.num_matvecs
    assert crossed.value == pytest.approx(alone.value, rel=1e-9)
    assert crossed.error.probe is not None
    assert alone.error.probe is not None
    assert crossed.error.probe.value == pytest.approx(alone.error.probe.value, rel=1e-9)
    assert crossed.fold_traces is not None
    assert alone.fold_traces is None
    sizes = torch.tensor([8.0, 8.0, 5.0]).double()
    orders = [sizes[list(p)] for p in ([0, 1, 2], [0, 2, 1], [2, 0, 1])]
    means = [float((crossed.fold_traces * s).sum() / 21) for s in orders]
    assert min(abs(m - crossed.value) for m in means) < 1e-9 * abs(crossed.value)


def test_exact_folds() -> None:
    curvatures = scattered(torch.linspace(0, 1, 10).double(), 40)
    result = hessian_trace(planted(curvatures), population=True, num_folds=40, seed=0)
    assert result.method == "exact"
    assert result.error.probe is None
    assert result.error.data is not None
    # One example a fold: the textbook standard error of the mean.
    assert result.error.data.value == pytest.approx(float(curvatures.sum(1).std()) / math.sqrt(40), rel=1e-9)
    assert result.error.data.dof == 39


# -- budget and errors ----------------------------------------------------------------------------------


def test_budget_spent() -> None:
    objective = planted(scattered(torch.linspace(-1, 1.5, 200).double(), 3))
    with pytest.raises(ConvergenceError, match=r"40 products were spent .* Raise `max_matvecs` or") as caught:
        hessian_trace(objective, rtol=0.001, method="hutchinson", max_matvecs=40, seed=0)
    partial = caught.value.partial
    assert isinstance(partial, HessianTrace)
    assert partial.num_matvecs == 40
    assert partial.provenance["converged"] is False
    assert partial.error.probe is not None
    assert abs(partial.value - 50) < 4 * partial.error.probe.value


def test_budget_spent_and_not_required() -> None:
    objective = planted(scattered(torch.linspace(-1, 1.5, 200).double(), 3))
    spent: dict[str, Any] = {"rtol": 0.001, "method": "hutchinson", "max_matvecs": 40, "seed": 0}
    reports: list[tuple[int, int]] = []
    result = hessian_trace(
        objective, require_convergence=False, progress=lambda *r: reports.append(r), **spent
    )
    with pytest.raises(ConvergenceError) as caught:
        hessian_trace(objective, **spent)
    assert result.value == caught.value.partial.value
    assert result.provenance["converged"] is False
    assert "not converged" in repr(result)
    assert reports[-1][0] == reports[-1][1]
    met = hessian_trace(objective, require_convergence=False, rtol=0.3, seed=0)
    assert met.provenance["converged"] is True
    assert "not converged" not in repr(met)


def test_memory_is_bounded() -> None:
    objective = planted(scattered(torch.linspace(0, 1.5, 200).double(), 3))
    entry = objective.params.element_size() * objective.space.dim
    with pytest.raises(ValueError, match=f"must hold a single probe, .* {11 * entry:,} bytes. Raise it"):
        hessian_trace(objective, max_memory_bytes=11 * entry - 1, seed=0)
    with pytest.raises(ValueError, match=f"which method='hutch\\+\\+' starts from, .* {96 * entry:,} bytes"):
        hessian_trace(objective, method="hutch++", max_memory_bytes=96 * entry - 1, seed=0)
    little = hessian_trace(objective, max_memory_bytes=11 * entry, seed=0)
    full = hessian_trace(objective, method="hutchinson", seed=0)
    assert little.method == "hutchinson"
    assert little.provenance["arguments"]["max_memory_bytes"] == 11 * entry
    assert little.value == pytest.approx(full.value, rel=1e-9)


def test_zero_hessian() -> None:
    result = hessian_trace(planted(torch.zeros(13, 50)), seed=0)
    assert result.value == result.frobenius_norm == result.frobenius_error == 0
    assert result.interval() == (0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rtol": 0.0}, ValueError, r"`rtol` must lie in \(0, 1\)"),
        ({"method": "magic"}, ValueError, "`method` must be one of auto, hutchinson, hutch"),
        ({"of": "magic"}, ValueError, "`of` must be one of hessian, ggn"),
        ({"params": "nothing"}, ValueError, "`params` must match trainable parameters"),
        ({"max_matvecs": 0}, ValueError, "`max_matvecs` must be a whole number of at least 1"),
        ({"max_matvecs": 20}, ValueError, "`max_matvecs` must be at least 36, got 20"),
        ({"max_memory_bytes": 0}, ValueError, "`max_memory_bytes` must be a whole number"),
        ({"require_convergence": "no"}, ValueError, "`require_convergence` must be True or False"),
        ({"num_folds": 0}, ValueError, "`num_folds` must be a whole number"),
        ({"population": True, "num_folds": 62}, ValueError, "`num_folds` must lie between 2 and the 61 ex"),
        ({"population": True, "method": "xtrace"}, ValueError, "'xtrace' does not tell summands apart"),
        ({"population": True, "of": "gradient_covariance"}, ValueError, "`population` takes a mean over"),
        ({"seed": "x"}, TypeError, "`seed` must be an integer"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    objective = planted(scattered(torch.linspace(0, 1, 40).double()))
    with pytest.raises(error, match=message):
        hessian_trace(objective, **{"seed": 0, **arguments})


def test_non_finite_loss() -> None:
    curvatures = scattered(torch.linspace(0, 1, 10).double())
    curvatures[44, 3] = math.inf
    with pytest.raises(NonFiniteLossError, match="example 44"):
        hessian_trace(planted(curvatures), seed=0)


# -- contract -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("population", [False, True])
def test_state_is_untouched(population: bool, unchanged: Callable[..., AbstractContextManager[None]]) -> None:
    case = CASES["residual-batch"]
    model, data = case.model(), case.data()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    objective = Objective(model, data, batch_norm="batch", batch_size=8)
    with unchanged(model, data):
        hessian_trace(objective, rtol=0.5, population=population, num_folds=3, seed=0)


@pytest.mark.parametrize("population", [False, True])
def test_survives_json(population: bool, tmp_path: Any) -> None:
    result = hessian_trace(
        CASES["attention"].objective(), rtol=0.3, population=population, num_folds=4, seed=0
    )
    assert Measurement.from_dict(result.to_dict(tmp_path), tmp_path) == result


@pytest.mark.parametrize("population", [False, True])
def test_progress_rises_and_ends(population: bool) -> None:
    seen: list[tuple[int, int]] = []
    objective = planted(scattered(torch.linspace(0, 1, 60).double()), micro_batch=8)
    result = hessian_trace(
        objective, rtol=0.05, population=population, seed=0, progress=lambda d, t: seen.append((d, t))
    )
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert all(0 < d <= t for d, t in seen)
    assert seen[-1] == (61 * result.num_matvecs, 61 * result.num_matvecs)


def test_is_among_the_measures() -> None:
    assert tw.MEASURES["hessian_trace"] is hessian_trace
