"""The sampled eigenvalue: what it covers, what it says where it cannot, and what it does not miss."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.solvers.planted import planted
from tests.solvers.softmax_regression import KnownHessian, examples, hessian, regression

from thalweg.core.errors import ConvergenceError
from thalweg.operators.hessian import Hessian
from thalweg.solvers import sampled_eigenvalue as module
from thalweg.solvers import sampling_design
from thalweg.solvers.sampled_eigenvalue import SampledEigenvalue, sampled_eigenvalue
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
        assert result is not None
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


def check(counted: dict[str, float], num_repeats: int) -> None:
    """Within three standard errors of a count of at least 93.5 and 95 per cent; no bias worth the name."""
    slack = 3 * (0.05 * 0.95 / num_repeats) ** 0.5
    assert counted["interval"] >= 0.935 - slack, counted
    assert counted["lower"] >= 0.95 - slack, counted
    assert counted["upper"] >= 0.95 - slack, counted
    assert abs(counted["bias"]) < 0.5, counted
    # Groups show the spread to first order; samples of 160 examples turn the eigenvector by a little more.
    assert 0.85 < counted["spread"] < 1.3, counted


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_intervals_and_limits_cover(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = KnownHessian(regression(*examples(6000, wrong=wrong)))
    true = float(torch.linalg.eigvalsh(operator.matrix)[-1])
    counted = coverage(monkeypatch, operator, true, 80, rtol=0.1, certify_rtol=0.1)
    check(counted, 80)
    assert counted["width"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.0, 0.1])
@pytest.mark.parametrize("rtol", [0.1, 0.04])
def test_intervals_and_limits_cover_in_two_thousand_repetitions(
    wrong: float, rtol: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = KnownHessian(regression(*examples(20_000, wrong=wrong, seed=1)))
    true = float(torch.linalg.eigvalsh(operator.matrix)[-1])
    check(coverage(monkeypatch, operator, true, 2000, rtol=rtol, certify_rtol=0.1), 2000)


def test_the_bottom_is_the_top_mirrored() -> None:
    """Curvatures of either sign under a loss of the model: uniform draws."""
    rng = torch.Generator().manual_seed(0)
    eigenvalues = torch.linspace(-2, 1, 12, dtype=torch.float64)
    curvatures = eigenvalues + 0.5 * torch.randn(4000, 12, generator=rng, dtype=torch.float64)
    mean = curvatures.mean(0)
    objective = planted(curvatures)
    bottom = sampled_eigenvalue(Hessian(objective), which="bottom", rtol=0.1, certify_rtol=0.1, seed=0)
    top = sampled_eigenvalue(Hessian(objective), which="top", rtol=0.1, certify_rtol=0.1, seed=0)
    assert bottom is not None
    assert top is not None
    for result, true in ((bottom, float(mean.min())), (top, float(mean.max()))):
        assert abs(result.value - true) <= result.error.half_width(0.999)
        assert result.lower <= true <= result.upper
        assert result.upper - result.lower < 0.5 * abs(true)
    assert float((bottom.inner - bottom.outer).min()) > -1e-12
    assert float((top.outer - top.inner).min()) > -1e-12


def test_a_direction_of_few_examples_is_not_missed() -> None:
    """Eight of 4,000 examples, fitted to the wrong class with certainty, make the top direction alone.

    Their scores are nought; the floor draws them, and a sample that has one is worth looking at.
    """
    curvatures = torch.zeros(4000, 10, dtype=torch.float64)
    curvatures[:, 0] = 1.0
    curvatures[torch.arange(0, 4000, 500), 1] = 1000.0
    objective = planted(curvatures)  # the mean: 2 along the second direction, 1 along the first
    missed = 0
    for seed in range(5):
        result = sampled_eigenvalue(
            Hessian(objective), rtol=0.5, certify_rtol=0.1, confidence=0.95, seed=seed
        )
        # Too rare for samples to tell: all the data are taken, or the limits hold.
        missed += result is not None and not result.lower <= 2.0 <= result.upper
    assert missed == 0


def test_samples_grow_until_the_tolerance_is_met() -> None:
    operator = KnownHessian(regression(*examples(20_000)))
    rough, fine, finest = (sampled_eigenvalue(operator, rtol=r, seed=0) for r in (0.2, 0.13, 0.05))
    for result, rtol in ((rough, 0.2), (fine, 0.13), (finest, 0.05)):
        assert result is not None
        assert result.error.data is not None
        assert result.error.half_width(0.99) <= 1.001 * rtol * result.value
        # The first stage's, however many samples followed.
        groups = result.sample_size // 16
        assert result.error.data.dof == module.FIRST_STAGE * (groups - 1)
        assert groups in (module.GROUPS, module.GROUPS * module.GROWTH)
    assert rough
    assert fine
    assert finest
    assert len(rough.inner) == module.FIRST_STAGE < len(fine.inner)
    assert finest.sample_size > rough.sample_size, "small samples turn the eigenvector too far"


def test_where_samples_would_be_the_data_the_data_are_to_be_taken() -> None:
    objective = regression(*examples(700))
    assert sampled_eigenvalue(KnownHessian(objective), seed=0) is None  # the first stage alone is 960
    objective = regression(*examples(3000))
    assert sampled_eigenvalue(KnownHessian(objective), rtol=1e-4, seed=0) is None


def test_products_are_those_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proved operator and the closed form give the same numbers."""
    objective = regression(*examples(3000))
    known, proved = (
        sampled_eigenvalue(o, rtol=0.2, seed=0) for o in (KnownHessian(objective), Hessian(objective))
    )
    assert known is not None
    assert proved is not None
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
