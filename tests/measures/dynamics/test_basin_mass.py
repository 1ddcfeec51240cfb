"""Free energies against dense eigenvalues, the rule for negative ones, and how often intervals hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.measures.conftest import convnet, images, quadratic
from tests.oracles import planted_matrix
from torch import Tensor

import thalweg as tw
from thalweg.core.rng import generator
from thalweg.linalg.linear_operator import DenseOperator
from thalweg.linalg.quadrature import lanczos_quadrature
from thalweg.measures.dynamics.basin_mass import _log_det
from thalweg.operators.hessian import Hessian

LAMBDAS = (50.0, 8.0, 1.0, 0.2, 1e-3, 0.0, -0.02, -3.0)


def planted(values: tuple[float, ...] = LAMBDAS, **kwargs: object) -> tw.Objective:
    """A quadratic of these curvatures, turned, with loss nought at its point."""
    H = planted_matrix(values, seed=1)[0]
    return quadratic(torch.zeros(len(values), dtype=torch.float64), H, **kwargs)


def by_hand(values: Tensor, d: float, rule: str) -> float:
    sizes = values.abs() if rule == "absolute" else values.clamp(min=0)
    return float(torch.log(sizes + d).sum())


@pytest.mark.parametrize("rule", ["clip", "absolute"])
def test_few_parameters_are_exact(rule: str) -> None:
    found = tw.basin_mass(planted(), temperature=0.3, damping=[1.0, 0.01, 0.1], negative=rule, seed=0)  # type: ignore[arg-type]
    values = torch.tensor(LAMBDAS, dtype=torch.float64)
    assert found.dampings.tolist() == [0.01, 0.1, 1.0]
    for d, log_det, free in zip(found.dampings.tolist(), found.log_dets, found.free_energies, strict=True):
        assert float(log_det) == pytest.approx(by_hand(values, d, rule), abs=1e-9)
        assert float(free) == pytest.approx(0.15 * by_hand(values, d, rule), abs=1e-9)
    assert found.damping == 0.1
    assert found.value == float(found.free_energies[1])
    assert found.negative_share == pytest.approx(2 / 8)
    assert (found.lambda_max, found.lambda_min) == pytest.approx((50.0, -3.0))
    assert "exact" in repr(found)
    assert "25 % of eigenvalues below nought" in repr(found)
    shift = [0.15 * (by_hand(values, d, "absolute") - by_hand(values, d, "clip")) for d in (0.01, 0.1, 1.0)]
    torch.testing.assert_close(found.rule_shift, (1 if rule == "clip" else -1) * torch.tensor(shift).double())


def test_the_mass_is_the_integral() -> None:
    """-T log of the Gaussian integral, by SciPy, is the free energy less (P / 2) T log 2 pi T."""
    H = planted_matrix((4.0, 0.5), seed=2)[0]
    T, d = 0.2, 1e-9
    found = tw.basin_mass(quadratic(torch.zeros(2, dtype=torch.float64), H), temperature=T, damping=d, seed=0)
    x = torch.linspace(-8, 8, 801, dtype=torch.float64)
    X = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)
    mass = torch.exp(-torch.einsum("abi,ij,abj->ab", X, H, X) / 2 / T).sum() * (x[1] - x[0]) ** 2
    assert found.value - T * math.log(2 * math.pi * T) == pytest.approx(-T * math.log(float(mass)), abs=1e-7)


def dense_eigenvalues(objective: tw.Objective) -> Tensor:
    """By plain double backward through the objective's own loss, row by row."""
    params = objective.params.clone().requires_grad_()

    def total(p: Tensor) -> Tensor:
        named = objective.space.unflatten(p)
        return objective.reduce(lambda micro: micro.loss_sum(named)) / objective.num_examples

    (g,) = torch.autograd.grad(total(params), params, create_graph=True)
    rows = [torch.autograd.grad(entry, params, retain_graph=True)[0] for entry in g]
    return torch.linalg.eigvalsh(torch.stack(rows)) + objective.weight_decay


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_a_network_against_double_backward(mode: str) -> None:
    o = tw.Objective(convnet(), images(), batch_norm=mode, batch_size=8, weight_decay=0.01)  # type: ignore[arg-type]
    values = dense_eigenvalues(o)
    P = len(values)
    exact = tw.basin_mass(o, num_probes=8, num_steps=P, damping=[0.01, 0.1], seed=0)
    assert exact.temperature == 1 / 37
    assert exact.loss == o.value()
    for i, d in enumerate((0.01, 0.1)):
        assert float(exact.log_dets[i]) == pytest.approx(by_hand(values, d, "clip"), abs=1e-6)
    estimate = tw.basin_mass(o, num_probes=6, num_steps=12, damping=[0.01, 0.1], seed=1)
    assert estimate.num_matvecs < P
    assert estimate.error.probe is not None
    assert estimate.error.probe.dof == 5
    low, high = estimate.log_det.interval(0.999)
    assert bool(((low < exact.log_dets) & (exact.log_dets < high)).all())
    assert float(estimate.log_det_errors[1]) < 0.1 * abs(float(exact.log_dets[1]))


def test_another_temperature_afterwards() -> None:
    o = tw.Objective(convnet(), images())
    first, other = (tw.basin_mass(o, temperature=T, num_probes=3, num_steps=8, seed=0) for T in (0.01, 0.5))
    torch.testing.assert_close(first.free_energy(0.5).value, other.free_energies)
    torch.testing.assert_close(first.free_energy(0.5).standard_error, other.free_energy().standard_error)
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        first.free_energy(0.0)


def test_single_precision_has_a_bound_of_its_own() -> None:
    double = tw.Objective(convnet(), images())
    few: dict[str, Any] = {"temperature": 1.0, "damping": 0.1, "num_probes": 8, "num_steps": 40, "seed": 0}
    exact, rounded = (tw.basin_mass(o, **few) for o in (double, double.to_dtype(torch.float32)))
    assert rounded.error.solver is not None
    assert abs(rounded.value - exact.value) <= rounded.error.solver + abs(rounded.loss - exact.loss)
    assert rounded.error.solver < 1e-2


@pytest.mark.slow
def test_coverage_of_the_probes() -> None:
    """Of 1,000 estimates at 32 products of 60, how many 95 % intervals hold log det by the rule."""
    values = (*np.geomspace(0.3, 20, 54).tolist(), *[-0.02] * 6)
    operator = DenseOperator(planted_matrix(values, seed=3)[0])
    dampings = torch.tensor([0.3], dtype=torch.float64)
    truth, held = by_hand(torch.tensor(values, dtype=torch.float64), 0.3, "clip"), 0
    for seed in range(1000):
        quadrature = lanczos_quadrature(operator, 4, 8, rng=generator(seed, "coverage"))
        low, high = _log_det(quadrature, dampings, "clip", False).interval(0.95)
        held += float(low) <= truth <= float(high)
    assert 930 <= held <= 985


def test_the_hessian_is_that_of_the_objective() -> None:
    o = tw.Objective(convnet(), images(), weight_decay=0.3)
    found = tw.basin_mass(o, num_probes=8, num_steps=o.space.dim, damping=1.0, seed=0)
    dense = Hessian(o) @ torch.eye(o.space.dim, dtype=torch.float64)
    values = torch.linalg.eigvalsh((dense + dense.T) / 2)
    assert float(found.log_dets[0]) == pytest.approx(by_hand(values, 1.0, "clip"), abs=1e-7)
    assert found.loss == pytest.approx(o.evaluate().loss + o.evaluate().penalty)


def test_all_eigenvalues_mind_the_memory() -> None:
    with pytest.raises(ValueError, match="`max_memory_bytes` must hold the whole matrix of 8 rows"):
        tw.basin_mass(planted(), max_memory_bytes=1000, seed=0)


def test_what_is_refused() -> None:
    o = planted()
    for argument, value, message in (
        ("temperature", 0.0, "`temperature` must be positive"),
        ("damping", 0.0, "`damping` must be positive"),
        ("damping", [], "`damping` must hold at least one"),
        ("headline", 0.5, r"`headline` must be one of the dampings, 0.0001, .* got 0.5"),
        ("negative", "drop", "`negative` must be one of clip, absolute, got 'drop'"),
        ("num_probes", 0, "`num_probes` must be a whole number of at least 1"),
        ("num_steps", 1.5, "`num_steps` must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            tw.basin_mass(o, seed=0, **{argument: value})
    assert tw.basin_mass(o, damping=0.5, headline=0.5, seed=0).damping == 0.5
