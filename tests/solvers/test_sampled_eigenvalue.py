"""The sampled eigenvalue: what it covers, what it says where it cannot, and what it does not miss."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.solvers.curved_logits import curved, noisy_labels
from tests.solvers.curved_logits import hessian as curved_hessian
from tests.solvers.known_hessian import KnownHessian
from tests.solvers.planted import orthogonal, planted
from tests.solvers.softmax_regression import examples, hessian, regression
from torch import nn

from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget
from thalweg.linalg.linear_operator import DenseOperator
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers import sampled_eigenvalue as module
from thalweg.solvers import sampling_design
from thalweg.solvers.sampled_eigenvalue import AllExamples, SampledEigenvalue, sampled_eigenvalue
from thalweg.solvers.sampled_trace import SampledTrace, sampled_trace
from thalweg.solvers.sampling_design import SamplingDesign


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Groups of 16, so that 6,000 examples are many; one thread, for matrices of 12 rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(sampling_design, "GROUP_SIZE", 16)
    yield
    torch.set_num_threads(threads)


def coverage(
    monkeypatch: pytest.MonkeyPatch, operator: KnownHessian, true: float, num_repeats: int, **options: object
) -> dict[str, float]:
    """How often the interval and each limit hold, and the mean and spread of the errors in their own unit."""
    # The look at all the data is the same for every seed.
    design, found = SamplingDesign.of(operator.objective), []
    monkeypatch.setattr(SamplingDesign, "of", lambda *_, **__: design)
    for seed in range(num_repeats):
        result = sampled_eigenvalue(operator, confidence=0.95, seed=seed, **options)  # type: ignore[arg-type]
        assert isinstance(result, SampledEigenvalue)
        found.append(result)
    assert all(r.error.data is not None for r in found)
    z = torch.tensor([(r.value - true) / r.error.data.value for r in found if r.error.data])
    return {
        "interval": sum(abs(r.value - true) <= r.error.half_width(0.95) for r in found) / num_repeats,
        "lower": sum(r.lower <= true for r in found) / num_repeats,
        "upper": sum(r.upper >= true for r in found) / num_repeats,
        "bias": float(z.mean()),
        "spread": float(z.std()),
        "width": sum(r.upper - r.lower for r in found) / num_repeats / abs(true),
    }


# The interval adds a bound on the bias, half the distance of the inner from the outer values, which a rough
# tolerance leaves room for: it then covers more.
MOST = {0.1: 0.98, 0.04: 0.965}


def check(name: str, counted: dict[str, float], num_repeats: int, rtol: float = 0.1) -> None:
    """93.5 to `MOST` and at least 95 per cent, of fewer repetitions within three standard errors; no bias."""
    for reading in ("interval", "lower", "upper"):
        print(
            f"top_eigenvalues, sampled, {name}, {reading}", num_repeats, round(counted[reading] * num_repeats)
        )
    slack = 0 if num_repeats == 2000 else 3 * (0.05 * 0.95 / num_repeats) ** 0.5
    assert 0.935 - slack <= counted["interval"] <= MOST[rtol] + slack, counted
    assert counted["lower"] >= 0.95 - slack, counted
    assert counted["upper"] >= 0.95 - slack, counted
    assert abs(counted["bias"]) < 0.5, counted
    # Groups show the spread to first order; samples of 160 examples turn the eigenvector by a little more.
    assert 0.85 < counted["spread"] < 1.3, counted


@pytest.mark.parametrize("labels", ["right", "wrong"])
def test_intervals_and_limits_cover(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tenth of the labels wrong, of a classifier whose Hessian hangs on them."""
    operator = KnownHessian(
        regression(*examples(6000)) if labels == "right" else noisy_labels(6000, wrong=0.1)
    )
    true = float(torch.linalg.eigvalsh(operator.matrix)[-1])
    counted = coverage(monkeypatch, operator, true, 40, rtol=0.1, certify_rtol=0.1)
    check(labels, counted, 40)
    assert counted["width"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["right", "wrong"])
@pytest.mark.parametrize("rtol", [0.1, 0.04])
def test_intervals_and_limits_cover_in_two_thousand_repetitions(
    labels: str, rtol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = KnownHessian(
        regression(*examples(20_000, seed=1)) if labels == "right" else noisy_labels(20_000, 0.1, seed=1)
    )
    true = float(torch.linalg.eigvalsh(operator.matrix)[-1])
    counted = coverage(monkeypatch, operator, true, 2000, rtol=rtol, certify_rtol=0.1)
    check(f"{labels} labels, {rtol}", counted, 2000, rtol)


class _Batches(nn.Module):
    """Curvatures under a batch norm that is only passed: the loss is whole batches', the Hessian known."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(dim, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(dim, affine=False).double()


def _batch_loss(model: _Batches, batch: tuple[torch.Tensor]) -> torch.Tensor:
    model.norm(batch[0])
    return 0.5 * batch[0] @ model.theta.square()


class _KnownBatches(DenseOperator):
    """The weighted mean of the examples' matrices, whose eigenvectors are no axes."""

    def __init__(self, objective: Objective) -> None:
        (curvatures,), weights = objective._examples.batch, objective._examples.weights  # type: ignore[misc]
        w = torch.ones(len(curvatures), dtype=torch.float64) if weights is None else weights
        Q = orthogonal(curvatures.shape[1])
        matrix = Q * (w @ curvatures / len(curvatures)) @ Q.T
        super().__init__((matrix + matrix.T) / 2)
        self.objective, self.check = objective, None

    def over(self, objective: Objective) -> _KnownBatches:
        return _KnownBatches(objective)

    def counting(self, _on_examples: object) -> _KnownBatches:
        return self


def batches(num_examples: int = 16_006, size: int = 16) -> _KnownBatches:
    """What a batch has in common, and what each example has of its own; the last batch is a short one."""
    rng = torch.Generator().manual_seed(0)
    eigenvalues = torch.cat([torch.tensor([1.0]), torch.linspace(0, 0.5, 9)]).double()
    common = torch.randn(num_examples // size + 1, 10, generator=rng, dtype=torch.float64)
    own = torch.randn(num_examples, 10, generator=rng, dtype=torch.float64)
    curvatures = eigenvalues + 0.1 * common.repeat_interleave(size, 0)[:num_examples] + 0.3 * own
    objective = Objective(_Batches(10), (curvatures,), loss=_batch_loss, batch_norm="batch", batch_size=size)
    assert SamplingDesign.of(objective).unit_size == size
    return _KnownBatches(objective)


@pytest.mark.parametrize("num_repeats", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_whole_batches_cover(num_repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = batches()
    true = float(torch.linalg.eigvalsh(operator.matrix)[-1])
    counted = coverage(monkeypatch, operator, true, num_repeats, rtol=0.1, certify_rtol=0.1)  # type: ignore[arg-type]
    check("whole batches", counted, num_repeats)


@pytest.mark.parametrize("num_repeats", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_trace_from_whole_batches_covers(num_repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = batches()
    true = float(operator.matrix.trace())
    design = SamplingDesign.of(operator.objective)
    monkeypatch.setattr(SamplingDesign, "of", lambda *_, **__: design)
    covered = 0
    for seed in range(num_repeats):
        found = sampled_trace(
            operator,  # type: ignore[arg-type]
            rtol=0.05,
            decay=0.0,
            groups=torch.zeros(10, dtype=torch.int64),
            max_matvecs=2000,
            seed=seed,
        )
        assert isinstance(found, SampledTrace)
        budget = ErrorBudget(probe=found.estimate.error, data=found.data)
        covered += abs(found.estimate.value - true) <= budget.half_width(0.95)
    print("hessian_trace, sampled, whole batches", num_repeats, covered)
    slack = 0 if num_repeats == 2000 else 3 * (0.05 * 0.95 / num_repeats) ** 0.5
    assert 0.935 - slack <= covered / num_repeats <= 0.965 + slack


def test_the_bottom_is_the_top_mirrored() -> None:
    """Curvatures of either sign under a loss of the model: uniform draws."""
    rng = torch.Generator().manual_seed(0)
    eigenvalues = torch.linspace(-2, 1, 12, dtype=torch.float64)
    curvatures = eigenvalues + 0.5 * torch.randn(4000, 12, generator=rng, dtype=torch.float64)
    mean = curvatures.mean(0)
    objective = planted(curvatures)
    bottom = sampled_eigenvalue(Hessian(objective), which="bottom", rtol=0.1, certify_rtol=0.1, seed=0)
    top = sampled_eigenvalue(Hessian(objective), which="top", rtol=0.1, certify_rtol=0.1, seed=0)
    assert isinstance(bottom, SampledEigenvalue)
    assert isinstance(top, SampledEigenvalue)
    for result, true in ((bottom, float(mean.min())), (top, float(mean.max()))):
        assert abs(result.value - true) <= result.error.half_width(0.999)
        assert result.lower <= true <= result.upper
        assert result.upper - result.lower < 0.5 * abs(true)
    assert float((bottom.inner - bottom.outer).min()) > -1e-12
    assert float((top.outer - top.inner).min()) > -1e-12


@pytest.mark.parametrize("num_rare", [8, 40])
def test_examples_that_are_fitted_to_the_wrong_class_with_certainty_are_not_missed(num_rare: int) -> None:
    """A few of 4,000 make the top direction alone: the curvature of their loss in the outputs is nought."""
    b = torch.full((4000,), 1.0, dtype=torch.float64)
    c = torch.zeros(4000, 6, dtype=torch.float64)
    c[:, 0], y = 1.0, torch.zeros(4000, dtype=torch.int64)
    rare = torch.arange(0, 4000, 4000 // num_rare)
    b[rare], c[rare, 0], c[rare, 1], y[rare] = 20.0, 0.0, 8000 / num_rare, 1
    objective = curved(b, c, y)
    true = float(torch.linalg.eigvalsh(curved_hessian(objective))[-1])
    assert true == pytest.approx(2, rel=1e-3)
    for seed in range(5):
        result = sampled_eigenvalue(KnownHessian(objective), rtol=0.3, certify_rtol=0.1, seed=seed)  # type: ignore[arg-type]
        # Either too rare for samples to tell, and all the data are taken, or the limits hold.
        assert isinstance(result, AllExamples) or result.lower <= true <= result.upper


def test_a_second_eigenvalue_that_is_close_is_solved_for_more_tightly() -> None:
    """Not by larger samples, which do not bring them apart."""
    rng = torch.Generator().manual_seed(0)
    eigenvalues = torch.cat([torch.tensor([1.0, 0.97]), torch.linspace(0, 0.3, 10)]).double()
    curvatures = eigenvalues + 0.1 * torch.randn(6000, 12, generator=rng, dtype=torch.float64)
    result = sampled_eigenvalue(Hessian(planted(curvatures)), rtol=0.1, seed=0)
    assert isinstance(result, SampledEigenvalue)
    assert result.sample_size == 16 * module.GROUPS
    assert result.residual < 0.5 * module.SAMPLE_RTOL
    assert abs(result.value - 1) <= result.error.half_width(0.99)


def test_samples_grow_until_the_tolerance_is_met() -> None:
    operator = KnownHessian(regression(*examples(20_000)))
    rough, fine, finest = (sampled_eigenvalue(operator, rtol=r, seed=0) for r in (0.2, 0.13, 0.05))
    for result, rtol in ((rough, 0.2), (fine, 0.13), (finest, 0.05)):
        assert isinstance(result, SampledEigenvalue)
        assert result.error.data is not None
        assert result.error.half_width(0.99) <= 1.001 * rtol * result.value
        # The first stage's, however many samples followed.
        groups = result.sample_size // 16
        assert result.error.data.dof == module.FIRST_STAGE * (groups - 1)
        assert groups in (module.GROUPS, module.GROUPS * module.GROWTH)
    assert isinstance(rough, SampledEigenvalue)
    assert isinstance(fine, SampledEigenvalue)
    assert isinstance(finest, SampledEigenvalue)
    assert len(rough.inner) == module.FIRST_STAGE < len(fine.inner)
    assert finest.sample_size > rough.sample_size, "small samples turn the eigenvector too far"


def test_where_samples_would_be_the_data_the_data_are_to_be_taken() -> None:
    few = sampled_eigenvalue(KnownHessian(regression(*examples(700))), seed=0)  # type: ignore[arg-type]
    assert few == AllExamples(None, 0, 0)  # the first stage alone is 960
    objective = regression(*examples(3000))
    tight = sampled_eigenvalue(KnownHessian(objective), rtol=1e-4, seed=0)  # type: ignore[arg-type]
    assert isinstance(tight, AllExamples)
    assert tight.num_columns > 0
    assert tight.vector is not None
    form = (tight.vector.T @ hessian(objective) @ tight.vector).item()
    assert form == pytest.approx(float(torch.linalg.eigvalsh(hessian(objective))[-1]), rel=0.1)


def test_products_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proved operator and the closed form give the same numbers."""
    objective = regression(*examples(3000))
    known, proved = (
        sampled_eigenvalue(o, rtol=0.2, seed=0) for o in (KnownHessian(objective), Hessian(objective))
    )
    assert isinstance(known, SampledEigenvalue)
    assert isinstance(proved, SampledEigenvalue)
    assert known.value == pytest.approx(proved.value, rel=1e-9)
    assert known.upper == pytest.approx(proved.upper, rel=1e-6)
    assert (proved.vector.T @ hessian(objective) @ proved.vector).item() == pytest.approx(
        proved.value, rel=0.1
    )


def test_a_budget_that_is_spent() -> None:
    operator = KnownHessian(regression(*examples(6000)))
    with pytest.raises(ConvergenceError, match="max_matvecs"):
        sampled_eigenvalue(operator, certify_rtol=1e-6, max_matvecs=4, seed=0)


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    operator = Hessian(regression(*examples(3000)))
    result = sampled_eigenvalue(
        operator, rtol=0.2, seed=0, progress=lambda done, all_: seen.append((done, all_))
    )
    assert isinstance(result, SampledEigenvalue)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1] == (result.num_multiplied, result.num_multiplied)
    assert all(done <= total for done, total in seen)
