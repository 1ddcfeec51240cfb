"""The sampled trace: coverage, probe and data error apart, layers and norm unbiased."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.solvers.known_hessian import KnownHessian
from tests.solvers.softmax_regression import examples, hessian, regression

from thalweg.core.measurement import ErrorBudget
from thalweg.operators.hessian import Hessian
from thalweg.solvers import sampled_trace as module
from thalweg.solvers import sampling_design
from thalweg.solvers.sampled_trace import NotSampled, SampledTrace, sampled_trace
from thalweg.solvers.sampling_design import SamplingDesign, group_size

LAYERS = torch.arange(12) // 4


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(sampling_design, "GROUP_SIZE", 16)
    yield
    torch.set_num_threads(threads)


def repeated(
    monkeypatch: pytest.MonkeyPatch, operator: KnownHessian, num_repeats: int, rtol: float
) -> list[SampledTrace]:
    """Estimates with as many seeds, from one design, for that has no chance in it."""
    design = SamplingDesign.of(operator.objective)
    monkeypatch.setattr(SamplingDesign, "of", lambda *_, **__: design)
    found = []
    for seed in range(num_repeats):
        result = sampled_trace(operator, rtol=rtol, decay=0.0, groups=LAYERS, max_matvecs=2000, seed=seed)  # type: ignore[arg-type]
        assert isinstance(result, SampledTrace)
        found.append(result)
    return found


def budget(result: SampledTrace) -> ErrorBudget:
    return ErrorBudget(probe=result.estimate.error, data=result.data)


def check_coverage(
    operator: KnownHessian, found: list[SampledTrace], slack: float = 0.0, rtol: float = 0.05
) -> None:
    true = float(operator.matrix.trace())
    covered = sum(abs(r.estimate.value - true) <= budget(r).half_width(0.95) for r in found) / len(found)
    print(f"hessian_trace, sampled, {rtol}", len(found), round(covered * len(found)))
    assert 0.935 - slack <= covered <= 0.965 + slack, covered
    values = torch.tensor([r.estimate.value for r in found])
    assert abs(float(values.mean()) - true) < 4 * float(values.std()) / len(found) ** 0.5


def test_intervals_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = KnownHessian(regression(*examples(3000)))
    found = repeated(monkeypatch, operator, 50, 0.1)
    check_coverage(operator, found, 3 * (0.05 * 0.95 / 50) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [0.2, 0.05, 0.02])
def test_intervals_cover_in_two_thousand_repetitions(rtol: float, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = KnownHessian(regression(*examples(20_000, seed=1)))
    check_coverage(operator, repeated(monkeypatch, operator, 2000, rtol), rtol=rtol)


def test_probe_and_data_error_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 sum of squares off the diagonal for the probes, what groups of four scatter besides for the data."""
    monkeypatch.setattr(sampling_design, "GROUP_SIZE", 4)
    objective = regression(*examples(3000))
    operator = KnownHessian(objective)
    found = repeated(monkeypatch, operator, 60, 0.5)  # the first stage alone
    off = operator.matrix - torch.diag(operator.matrix.diagonal())
    probes = 2 * float(off.square().sum())
    estimated = torch.tensor(
        [[b.probe.value**2, b.data.value**2] for b in map(budget, found) if b.probe and b.data]
    )
    total = module.FIRST_STAGE * estimated.mean(0)
    values = torch.tensor([r.estimate.value for r in found])
    assert float(total.sum()) == pytest.approx(module.FIRST_STAGE * float(values.var()), rel=0.5)
    assert float(total[0]) == pytest.approx(probes, rel=0.35)
    assert 0.2 * probes < float(total[1])


@pytest.mark.parametrize("num", [80, pytest.param(400, marks=pytest.mark.slow)])
def test_layers_sum_and_the_norm_is_unbiased(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_design, "GROUP_SIZE", 4)
    operator = KnownHessian(regression(*examples(3000)))
    found = repeated(monkeypatch, operator, num, 0.5)
    for result in found[:5]:
        assert float(result.estimate.parts.sum()) == pytest.approx(result.estimate.value)
    squares = torch.tensor([r.estimate.square for r in found])
    true = float(operator.matrix.square().sum())
    assert abs(float(squares.mean()) - true) < 4 * float(squares.std()) / num**0.5
    # The square of one group's product would be too large, and far more so than that.
    design, rng = SamplingDesign.of(operator.objective), torch.Generator().manual_seed(0)
    biased = [float(hessian(design.group(rng)).square().sum()) for _ in range(num)]
    assert sum(biased) / num - true > 5 * float(squares.std()) / num**0.5
    parts = torch.stack([r.estimate.parts for r in found])
    blocks = torch.stack([operator.matrix.diagonal()[i == LAYERS].sum() for i in range(3)])
    assert float(((parts.mean(0) - blocks) / (parts.std(0) / num**0.5)).abs().max()) < 4
    errors = torch.stack([r.estimate.part_errors for r in found]).square().mean(0).sqrt()
    torch.testing.assert_close(errors, parts.std(0), rtol=0.3, atol=0)


def test_pairs_grow_until_the_tolerance_is_met() -> None:
    operator = KnownHessian(regression(*examples(6000)))
    rough, fine = (
        sampled_trace(operator, rtol=r, decay=0.0, groups=LAYERS, max_matvecs=2000, seed=0)  # type: ignore[arg-type]
        for r in (0.2, 0.03)
    )
    assert isinstance(rough, SampledTrace)
    assert isinstance(fine, SampledTrace)
    assert len(rough.estimate.samples) == module.FIRST_STAGE < len(fine.estimate.samples)
    both = fine.data.value**2 + (fine.estimate.error.value if fine.estimate.error else 0) ** 2
    assert both**0.5 <= 1.001 * 0.03 * fine.estimate.value


def test_it_is_left_to_all_the_data_where_these_cost_no_more() -> None:
    operator = KnownHessian(regression(*examples(50)))
    found = sampled_trace(operator, rtol=0.1, decay=0.0, groups=LAYERS, max_matvecs=2000, seed=0)  # type: ignore[arg-type]
    assert found == NotSampled(0)
    objective = regression(*examples(3000))
    operator = Hessian(objective)  # which counts its products
    found = sampled_trace(operator, rtol=1e-3, decay=0.0, groups=LAYERS, max_matvecs=2000, seed=0)
    # What it took to see that: scores, and the first stage.
    assert found == NotSampled(3000 + module.FIRST_STAGE * 2 * group_size(objective))


def test_products_are_those_of_the_network() -> None:
    objective = regression(*examples(3000))
    known, proved = (
        sampled_trace(o, rtol=0.2, decay=0.0, groups=LAYERS, max_matvecs=2000, seed=0)  # type: ignore[arg-type]
        for o in (KnownHessian(objective), Hessian(objective))
    )
    assert isinstance(known, SampledTrace)
    assert isinstance(proved, SampledTrace)
    assert known.estimate.value == pytest.approx(proved.estimate.value, rel=1e-9)
