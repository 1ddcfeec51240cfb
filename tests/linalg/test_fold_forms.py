"""What a process's products say of each summand, against dense matrices."""

from __future__ import annotations

import math

import pytest
import torch
from tests.linalg.test_certificate import Diagonal
from tests.oracles import planted_matrix

from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.linalg.estimate import Estimate
from thalweg.linalg.fold_forms import FoldForms
from thalweg.linalg.linear_operator import DenseOperator
from thalweg.linalg.quadrature import ProbeProcess
from thalweg.stats.crossed_means import fold_standard_error

P = 50


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("num_steps", [1, 5, 30])
def test_forms_of_each_summand(num_steps: int, dtype: torch.dtype) -> None:
    matrices = [planted_matrix(torch.linspace(-1, 5 + f, P), seed=f, dtype=dtype)[0] for f in range(3)]
    operator = FoldForms([DenseOperator(A) for A in matrices], [0.5, 0.3, 0.2])
    process = ProbeProcess(operator, 3, num_steps, torch.Generator().manual_seed(0))
    operator.basis = process.krylov.basis
    process.run()
    n = process.krylov.num_multiplied
    assert n == min(P, 3 * num_steps)
    Q = operator.basis.rows(0, n).double()
    rng = torch.Generator().manual_seed(1)
    X, Y = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    forms = operator.forms(X, Y)
    exact = torch.stack([((Q.T @ X) * (A.double() @ Q.T @ Y)).sum(0) for A in matrices])
    torch.testing.assert_close(forms, exact, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-11)
    # Their mean is what the process itself holds.
    H = process.krylov.H[:n]
    torch.testing.assert_close(operator.weights @ forms, (X * (H @ Y)).sum(0), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("num_repeats", "spread"),
    [(200, 0.3), *(pytest.param(2000, s, marks=pytest.mark.slow) for s in (0.03, 0.3, 1.0))],
)
def test_probe_and_data_error_apart(num_repeats: int, spread: float) -> None:
    """Forty matrices drawn from a distribution, in eight folds: both errors are seen alone, and covered."""
    num_examples, num_folds = 40, 8
    mean = torch.cat([torch.tensor([60.0, 40, 25]), torch.linspace(-1, 4, 97)]).double()
    probes, data, stated_probes, stated_data, hits = [], [], [], [], 0
    for seed in range(num_repeats):
        rng = torch.Generator().manual_seed(seed)
        common = torch.randn(num_examples, 1, generator=rng, dtype=torch.float64)
        own = torch.randn(num_examples, len(mean), generator=rng, dtype=torch.float64)
        drawn = (mean + spread * (common + own)).view(num_folds, -1, len(mean)).mean(1)
        operator = FoldForms([Diagonal(d) for d in drawn], [1 / num_folds] * num_folds)
        process = ProbeProcess(operator, 8, 6, rng)
        operator.basis = process.krylov.basis
        process.run()
        traces = operator.traces(process)
        samples = operator.weights @ traces
        quadrature = process.quadrature()
        torch.testing.assert_close(samples, quadrature.samples(lambda nodes: len(mean) * nodes))
        assert quadrature.num_counted >= 3
        probe = Estimate.of(samples).budget.probe
        assert probe is not None
        assert probe.dof == 7
        budget = ErrorBudget(
            probe=probe, data=StandardError(*fold_standard_error(traces.numpy(), operator.weights.numpy()))
        )
        value, sample, true = float(samples.mean()), float(drawn.sum(1).mean()), float(mean.sum())
        probes.append(value - sample)
        data.append(sample - true)
        stated_probes.append(probe.value)
        assert budget.data is not None
        stated_data.append(budget.data.value)
        hits += abs(value - true) <= budget.half_width(0.95)

    def rms(values: list[float]) -> float:
        return math.sqrt(sum(v * v for v in values) / len(values))

    # Four standard deviations of a standard deviation; what is left of the folds is small where they differ
    # less than the probes.
    tolerance = 4 / math.sqrt(2 * num_repeats)
    assert rms(stated_probes) == pytest.approx(rms(probes), rel=tolerance)
    # Var of sum_i (common + own_i) over the examples.
    true_error = spread * math.sqrt((len(mean) ** 2 + len(mean)) / num_examples)
    assert rms(data) == pytest.approx(true_error, rel=tolerance)
    assert rms(stated_data) == pytest.approx(true_error, rel=tolerance)
    print(num_repeats, spread, rms(probes), rms(data), rms(stated_data), hits / num_repeats)
    assert hits / num_repeats >= (0.935 if num_repeats > 1000 else 0.91)
