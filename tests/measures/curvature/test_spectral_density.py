"""Spectral densities of networks against dense float64 oracles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.operators.cases import CASES, ggn_of, hessian_of
from torch import Tensor

from thalweg.measures.curvature.spectral_density import SpectralDensity, spectral_density

NAMES = ["residual-running", "residual-recalibrated", "residual-batch", "attention", "tied", "mlp-mse"]


def dense(name: str) -> Tensor:
    return torch.linalg.eigvalsh(hessian_of(name))


def measured(name: str, steps: int = 6, **kwargs: Any) -> SpectralDensity:
    """Four probes: far from the whole space of some 200 parameters."""
    return spectral_density(CASES[name].objective(), num_probes=4, num_steps=steps, seed=1, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_networks(name: str) -> None:
    values, found = dense(name), measured(name)
    assert found.dim == len(values)
    assert found.num_matvecs == 24
    assert float(values[0]) - 1e-12 <= found.lambda_min <= found.lambda_max <= float(values[-1]) + 1e-12
    torch.testing.assert_close(found.weights.sum(), torch.tensor(1.0).double())
    # Student's quantile at 0.9995 with three degrees of freedom is 13.
    d = 0.1 * float(values.abs().max()) - float(values[0])
    for estimate, exact in (
        (found.trace, values.sum()),
        (found.frobenius_norm, values.square().sum().sqrt()),
        (found.effective_rank, values.sum() ** 2 / values.square().sum()),
        (found.log_det(d), torch.log(values + d).sum()),
        (found.effective_dimension(d), (values / (values + d)).sum()),
        (found.negative_mass, (values < -1e-12).double().mean()),
    ):
        low, high = estimate.interval(0.999)
        assert float(low) <= float(exact) <= float(high)
    assert found.value == pytest.approx(float(found.trace) / found.dim)
    assert found.error.probe is not None
    assert found.error.probe.dof == 3
    assert found.provenance["objective"]["batch_norm"] == CASES[name].mode


@pytest.mark.parametrize("name", ["residual-running", "residual-batch"])
def test_all_steps_are_exact(name: str) -> None:
    """As many products as parameters: the dense spectrum itself, and no error left."""
    values, found = dense(name), measured(name, steps=80)
    n = len(values)
    assert found.num_matvecs == n
    torch.testing.assert_close(found.nodes.sort().values, values, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.weights, torch.full((n,), 1 / n).double())
    assert found.error.half_width() < 1e-12
    d = torch.tensor([1.0, 10.0]).double() - values[0]
    log_det = found.log_det(d)
    torch.testing.assert_close(log_det.value, torch.log(values + d[:, None]).sum(1))
    assert float(log_det.standard_error.abs().max()) < 1e-9
    assert float(found.negative_mass) == pytest.approx(float((values < -1e-10).double().mean()), abs=2 / n)


def test_gauss_newton() -> None:
    found, values = measured("mlp-mse", 30, of="ggn"), torch.linalg.eigvalsh(ggn_of("mlp-mse"))
    assert float(found.negative_mass.value) == 0
    assert float(found.trace) == pytest.approx(float(values.sum()), rel=1e-9)
    assert found.provenance["arguments"]["of"] == "ggn"


def test_some_parameters() -> None:
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    found = spectral_density(objective, params="head", num_probes=3, seed=0)
    torch.testing.assert_close(
        found.nodes.sort().values, torch.linalg.eigvalsh(H[index][:, index]), rtol=0, atol=1e-11
    )


def test_density_integrates_to_one_at_every_width() -> None:
    found = measured("residual-running")
    assert found.width == pytest.approx(0.01 * (found.lambda_max - found.lambda_min))
    for width in (None, 0.3 * found.width, 50 * found.width):
        grid = found.grid(40_001, width)
        total = torch.trapezoid(found.density(grid, width), grid)
        assert float(total) == pytest.approx(1, abs=1e-6)
    estimate = found.density_estimate(found.grid(11))
    assert estimate.value.shape == estimate.standard_error.shape == (11,)
    torch.testing.assert_close(found.density([0.0]), found.density_estimate([0.0]).value)
    with pytest.raises(ValueError, match="`width` must be a finite number above nought, got 0"):
        found.density([0.0], width=0)


def test_density_is_that_of_the_eigenvalues() -> None:
    values = dense("residual-running")
    found = measured("residual-running", steps=80)
    grid = found.grid(301)
    z = (grid[:, None] - values) / found.width
    exact = torch.exp(-0.5 * z.square()).mean(1) / (found.width * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found.density(grid), exact, rtol=1e-6, atol=1e-9)


def test_mass_is_not_smoothed() -> None:
    found = measured("residual-running")
    assert float(found.mass()) == pytest.approx(1)
    low, high = found.mass(high=0.0), found.mass(low=math.nextafter(0.0, 1.0))
    assert float(low) + float(high) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"`low` must not exceed `high`, got 1\.0 and 0\.0"):
        found.mass(1.0, 0.0)


def test_damping_must_make_the_matrix_definite() -> None:
    found = measured("residual-running")
    assert found.lambda_min < 0
    with pytest.raises(ValueError, match=r"`damping` must exceed .*\(the smallest Ritz value is -"):
        found.log_det([1e3, -found.lambda_min])
    with pytest.raises(ValueError, match="`damping` must exceed"):
        found.effective_dimension(-1.0)
    assert found.log_det(1e3).value.shape == ()
    assert found.log_det([1e3, 1e4]).value.shape == (2,)


def test_weight_decay_shifts_everything() -> None:
    plain = measured("mlp-mse")
    shifted = spectral_density(
        CASES["mlp-mse"].objective(weight_decay=2.0), num_probes=4, num_steps=6, seed=1
    )
    torch.testing.assert_close(shifted.nodes, plain.nodes + 2, rtol=0, atol=1e-8)
    torch.testing.assert_close(shifted.raw_weights, plain.raw_weights, rtol=0, atol=1e-6)


def test_bounded_memory_takes_the_probes_in_turn() -> None:
    objective = CASES["residual-running"].objective()
    n = objective.space.dim
    together = spectral_density(objective, num_probes=4, num_steps=6, seed=1)
    apart = spectral_density(objective, num_probes=4, num_steps=6, max_memory_bytes=18 * n * 8, seed=1)
    assert apart.num_matvecs == together.num_matvecs == 24
    assert bool((apart.probe_weights > 0).sum(1).max() <= 12)
    torch.testing.assert_close(apart.weights.sum(), torch.tensor(1.0).double())
    with pytest.raises(ValueError, match="`max_memory_bytes` must hold 6 steps of 1 probes"):
        spectral_density(objective, num_probes=4, num_steps=6, max_memory_bytes=1000, seed=1)


@pytest.mark.parametrize("argument", ["num_probes", "num_steps"])
def test_counts(argument: str) -> None:
    bad: dict[str, Any] = {argument: 0}
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        spectral_density(CASES["mlp-mse"].objective(), **bad, seed=0)
    with pytest.raises(ValueError, match="`of` must be one of"):
        spectral_density(CASES["mlp-mse"].objective(), of="hesian", seed=0)
