"""What the measures are made of, on every device there is, against the same in float64 on the CPU."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from tests.devices import DEVICES
from tests.networks import cnn, images
from tests.operators.cases import CASES, SPLIT_CASES, deviation, hessian_of
from tests.oracles import planted_matrix
from torch import Tensor

import thalweg as tw
from thalweg.core.rng import generator, normal
from thalweg.linalg.lanczos import lanczos_eigenpairs
from thalweg.linalg.linear_operator import DenseOperator
from thalweg.linalg.quadrature import lanczos_quadrature
from thalweg.linalg.sum_operator import SumOperator
from thalweg.linalg.trace import estimate_trace
from thalweg.objective import examples
from thalweg.operators.registry import OPERATORS, operator_named
from thalweg.operators.unit_gradients import UnitGradients

DTYPES = [torch.float64, torch.float32]
ON_DEVICES = [(d, t) for d in DEVICES for t in DTYPES if (d, t) != ("mps", torch.float64)]
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}

on_devices = pytest.mark.parametrize(("device", "dtype"), ON_DEVICES)


def objective(name: str, device: str = "cpu", dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A problem's, with the network on the device and the data where they were."""
    case = CASES[name]
    return dataclasses.replace(case, model=lambda: case.model().to(dtype).to(device)).objective(
        dtype, **options
    )


def block(dim: int, like: Tensor, columns: int = 3) -> Tensor:
    return normal(generator(0, "a block"), dim, columns, like=like)


@cache
def numbers(name: str, device: str = "cpu", dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Everything an objective gives that is no derivative twice over."""
    o = objective(name, device, dtype, micro_batch=5)
    points = [(o.params, o.buffers), (1.1 * o.params, o.buffers)]
    found = o.evaluate_points(points)
    parts = {"losses": found.losses, "examples": found.example_losses, "gradient": o.gradient()}
    return {k: v.cpu().double() for k, v in (parts | o.effective_buffers).items()}


@pytest.mark.parametrize("device", DEVICES)
def test_small_data_live_on_the_device_and_fill_its_passes(device, monkeypatch):
    x, y = images(21, dtype=torch.float32)
    data = (x, y)
    o = tw.Objective(cnn(dtype=torch.float32).to(device), data)
    there = {t.device.type for t in o._examples.batch}
    assert there == {device}
    assert o.micro_batch == (128 if device == "cpu" else 4096)
    monkeypatch.setattr(examples, "RESIDENT_BYTES", 21 * 36 * 4)
    elsewhere = tw.Objective(cnn(dtype=torch.float32).to(device), data)
    assert {t.device.type for t in elsewhere._examples.batch} == {"cpu"}
    assert elsewhere.describe() == o.describe()
    assert elsewhere.value() == o.value()
    assert torch.equal(elsewhere.gradient(), o.gradient())


@on_devices
@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_statistics(name, device, dtype):
    true = numbers(name)
    for key, value in numbers(name, device, dtype).items():
        assert deviation(value, true[key]) < CLOSE[dtype], key


@cache
def products(of: str, name: str, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
    o = objective(name, device, dtype)
    A = operator_named(of, o, seed=0)
    V = block(A.dim, o.params)
    together, alone = A @ V, A @ V[:, 0]
    assert deviation(alone.cpu(), together[:, 0].cpu().double()) < CLOSE[dtype]
    return together.cpu().double()


@on_devices
@pytest.mark.parametrize("name", SPLIT_CASES)
@pytest.mark.parametrize("of", OPERATORS)
def test_products(of, name, device, dtype):
    if of in ("empirical_fisher", "gradient_covariance") and CASES[name].mode == "batch":
        pytest.skip("there an example has no gradient of its own")
    true = products(of, name)
    assert deviation(products(of, name, device, dtype), true) < CLOSE[dtype]
    if of == "hessian":
        H = hessian_of(name)
        assert deviation(products(of, name, device, dtype), H @ block(len(H), H)) < max(CLOSE[dtype], 1e-6)


@on_devices
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.mode != "batch"])
def test_gradients_of_examples(name, device, dtype):
    def found(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        o = objective(name, device, dtype, micro_batch=5)
        return UnitGradients(o).squares(o.params)

    for ours, true in zip(found(device, dtype), found("cpu", torch.float64), strict=True):
        assert deviation(ours, true) < 10 * CLOSE[dtype]


@on_devices
def test_linear_algebra(device, dtype):
    spectrum = torch.cat([torch.tensor([90.0, 60, 45, 28, 20, -30]), torch.linspace(5, -2, 114)]).double()
    A, _ = planted_matrix(spectrum)
    A = A.to(dtype).to(device)
    operator = SumOperator([DenseOperator(A), DenseOperator(A)], [0.5, 0.5])
    pairs = lanczos_eigenpairs(operator, 3, rng=generator(0), which="both", rtol=1e-4, max_basis=24)
    ordered = spectrum.sort().values
    torch.testing.assert_close(
        pairs.eigenvalues.cpu(), torch.cat([ordered[-3:].flip(0), ordered[:3]]), rtol=1e-4, atol=1e-3
    )
    for method in ("hutchinson", "hutch++", "auto"):
        trace = estimate_trace(operator, rng=generator(0), rtol=0.03, method=method, max_matvecs=110)
        assert abs(trace.value - float(spectrum.sum())) < 6 * (trace.error.value if trace.error else 1e-3)
    xtrace = estimate_trace(DenseOperator(A), rng=generator(0), rtol=0.03, method="xtrace")
    assert abs(xtrace.value - float(spectrum.sum())) < 6 * (xtrace.error.value if xtrace.error else 1e-3)
    here, there = (
        lanczos_quadrature(DenseOperator(M), 4, 8, rng=generator(0)).mean(torch.square)
        for M in (A.cpu().double(), A)
    )
    assert float(there.value) == pytest.approx(float(here.value), rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_training_goes_on_where_it_was_killed(device, tmp_path):
    from tests.training.test_resume import CONFIG, TEST, TRAIN, KilledError, Net, kill_at

    def trained(folder: Any, **options: Any) -> Tensor:
        model = Net().to(device)
        tw.train(model, TRAIN, TEST, CONFIG, checkpoint_dir=folder, **options)
        return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])

    whole = trained(tmp_path / "whole")
    with pytest.raises(KilledError):
        trained(tmp_path / "killed", checkpoint_every=5, callbacks=[kill_at(13)])
    resumed = trained(tmp_path / "killed")
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0 if device == "cpu" else 1e-6)
