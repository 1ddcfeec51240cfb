"""Intervals and bounds of the curvature measures: as often right as they say, over 2,000 seeds each.

The measures are called as a user calls them; only the products are those of a matrix in memory, so that the
truth is known and a repetition takes about ten milliseconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from scipy import stats
from tests.known_matrix import Known, Planted, use
from tests.solvers.planted import Vector, orthogonal, planted
from torch import Tensor, nn

import thalweg as tw
from thalweg.core.measurement import Measurement, StandardError
from thalweg.linalg.estimate import Estimate
from thalweg.objective.objective import Objective

SIZES = (60, 40, 20)
P = sum(SIZES)

# Few outliers, a bulk of either sign, nothing near nought, where the sign of an eigenvalue would be in doubt.
OUTLIERS = [40.0, 15.0, 8.0]
BULK = torch.linspace(0.5, 4.0, P - 3 - 40).tolist() + torch.linspace(-2.0, -1.0, 40).tolist()
SPECTRUM = torch.tensor(OUTLIERS + BULK, dtype=torch.float64)
DAMPING = 3.0


def objective() -> Objective:
    """Three layers of parameters that are all one, so that a matrix relative to them is the matrix itself."""
    model = nn.Sequential(*(Vector(torch.ones(size, dtype=torch.float64)) for size in SIZES))

    def loss(model: nn.Sequential, batch: tuple[Tensor]) -> Tensor:
        return batch[0] * sum(part.theta.square().sum() for part in model)  # type: ignore[union-attr]

    return Objective(model, (torch.ones(4, dtype=torch.float64),), loss=loss)


def known(spectrum: Tensor, monkeypatch: pytest.MonkeyPatch) -> Known:
    """A matrix of these eigenvalues, whatever matrix a measure asks for."""
    Q = orthogonal(P, 1)
    return use(Known(objective(), Q * spectrum @ Q.T), monkeypatch)


# -- what is counted ------------------------------------------------------------------------------------

Interval = tuple[float, float]


@dataclass(frozen=True)
class Count:
    """A measure at some arguments, and readings of its result: an interval and a truth each.

    `stated` is what the docstrings say of readings, by the beginning of the name,
    that do not cover 93.5 to 96.5 per cent.
    """

    measure: Callable[..., Any]
    arguments: dict[str, Any]
    readings: Callable[[Any, Known], dict[str, tuple[Interval, float]]]
    stated: dict[str, tuple[float, float]] = field(default_factory=dict)

    def limits(self, reading: str) -> tuple[float, float]:
        """Least and largest part of the intervals that should hold the truth."""
        return next((v for k, v in self.stated.items() if reading.startswith(k)), (0.935, 0.965))


def student(value: float, error: float, dof: float) -> Interval:
    half = StandardError(error, dof).half_width(0.95)
    return value - half, value + half


def ends(estimate: Estimate) -> Interval:
    low, high = estimate.interval(0.95)
    return float(low), float(high)


def blocks(matrix: Tensor) -> list[list[Tensor]]:
    return [list(rows.split(SIZES, 1)) for rows in matrix.split(SIZES)]


def by_layer(estimate: Estimate, matrix: Tensor) -> dict[str, tuple[Interval, float]]:
    low, high = estimate.interval(0.95)
    return {
        f"trace of layer {i}": ((float(low[i]), float(high[i])), float(blocks(matrix)[i][i].trace()))
        for i in range(len(SIZES))
    }


def of_trace(found: Any, known: Known) -> dict[str, tuple[Interval, float]]:
    return {
        "trace": (found.interval(0.95), float(SPECTRUM.sum())),
        **by_layer(found.layer_trace_estimate, known.matrix),
        "norm": (
            student(found.frobenius_norm, found.frobenius_error, len(found.samples) - 1),
            float(SPECTRUM.norm()),
        ),
    }


def of_density(found: Any, _known: Known) -> dict[str, tuple[Interval, float]]:
    s = SPECTRUM
    return {
        "mean eigenvalue": (found.interval(0.95), float(s.mean())),
        "norm": (ends(found.frobenius_norm), float(s.norm())),
        "effective rank": (ends(found.effective_rank), float(s.sum() ** 2 / s.square().sum())),
        "effective dimension": (ends(found.effective_dimension(DAMPING)), float((s / (s + DAMPING)).sum())),
        "log det": (ends(found.log_det(DAMPING)), float(torch.log(s + DAMPING).sum())),
        "negative mass": (ends(found.negative_mass), 40 / P),
        "mass": (ends(found.mass(0.0, 4.5)), 77 / P),
    }


def of_profile(found: Any, known: Known) -> dict[str, tuple[Interval, float]]:
    return {
        "trace": (found.interval(0.95), float(SPECTRUM.sum())),
        **by_layer(found.layer_trace_estimate, known.matrix),
    }


def of_blocks(found: Any, known: Known) -> dict[str, tuple[Interval, float]]:
    parts = blocks(known.matrix)
    norms = {
        f"norm of block {i}{j}": (
            student(float(found.block_norms[i, j]), float(found.block_norm_errors[i, j]), 7),
            float(parts[i][j].norm()),
        )
        for i, j in ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2))
    }
    inner = sum(float(parts[i][i].square().sum()) for i in range(len(SIZES)))
    return {
        "share": (found.interval(0.95), 1 - inner / float(SPECTRUM.square().sum())),
        **norms,
        **by_layer(found.trace_estimate, known.matrix),
    }


# Samples that are squares of few normal numbers are skewed; of a dozen, Student intervals cover less.
SKEWED = {"trace of layer": (0.915, 0.965), "norm": (0.87, 0.955)}

# What is between the nodes is added to the interval of a share.
SHARES = {"mass": (0.935, 1.0), "negative mass": (0.935, 1.0)}

COUNTS = {
    "hessian_trace, hutchinson": Count(
        tw.hessian_trace, {"method": "hutchinson", "rtol": 0.2}, of_trace, SKEWED
    ),
    "hessian_trace, hutch++": Count(tw.hessian_trace, {"method": "hutch++", "rtol": 0.1}, of_trace, SKEWED),
    "hessian_trace, auto": Count(tw.hessian_trace, {"rtol": 0.1}, of_trace, SKEWED),
    "spectral_density": Count(tw.spectral_density, {"num_probes": 5, "num_steps": 10}, of_density, SHARES),
    "curvature_profile": Count(tw.curvature_profile, {"max_matvecs": 60}, of_profile),
    # Two steps, so that no eigenvalue is counted: the worst case.
    "block_curvature": Count(
        tw.block_curvature,
        {"num_probes": 8, "num_steps": 2},
        of_blocks,
        {"norm": (0.865, 0.945), "trace": (0.905, 0.96)},
    ),
}


def repeated(count: Count, operator: Known, num_repeats: int) -> dict[str, int]:
    """How many intervals hold the truth."""
    held: dict[str, int] = {}
    for seed in range(num_repeats):
        found: Measurement = count.measure(operator.objective, **count.arguments, seed=seed)
        for name, ((low, high), true) in count.readings(found, operator).items():
            held[name] = held.get(name, 0) + (low <= true <= high)
    return held


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_intervals_cover_in_two_thousand_repetitions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = repeated(COUNTS[name], known(SPECTRUM, monkeypatch), 2000)
    for reading, h in held.items():
        print(f"{name}, {reading}", 2000, h)
    for reading, h in held.items():
        least, most = COUNTS[name].limits(reading)
        assert least <= h / 2000 <= most, (reading, h)


@pytest.mark.parametrize("name", COUNTS)
def test_intervals_cover(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = repeated(COUNTS[name], known(SPECTRUM, monkeypatch), 60)
    for reading, h in held.items():
        # Once in a thousand the count is lower, or higher.
        (least, _), (_, most) = (stats.binom.ppf((0.001, 0.999), 60, p) for p in COUNTS[name].limits(reading))
        assert least <= h <= most, (reading, h)


# -- probes and data together -----------------------------------------------------------------------------

NUM_EXAMPLES = 40

# Module, function, arguments, and as many eigenvalues as leave the probes an error: a basis of 5 x 20 vectors
# is no whole space of 150.
POPULATION: dict[str, tuple[str, Callable[..., Any], dict[str, Any], int]] = {
    "hessian_trace": ("thalweg.measures.curvature.hessian_trace", tw.hessian_trace, {"rtol": 0.1}, 60),
    "curvature_profile": (
        "thalweg.analyses.curvature_profile",
        tw.curvature_profile,
        {"max_matvecs": 100, "rtol": 0.1},
        150,
    ),
}


@pytest.mark.parametrize("num_repeats", [25, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("name", POPULATION)
def test_both_errors_of_a_trace_cover(
    name: str, spread: float, num_repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other examples every time, from little scatter beside the probes' error to far more."""
    module, measure, arguments, dim = POPULATION[name]
    monkeypatch.setattr(
        importlib.import_module(module), "operator_named", lambda _of, target, *_, **__: Planted(target)
    )
    eigenvalues = torch.linspace(-1, 4, dim).double()
    held = 0
    for seed in range(num_repeats):
        rng = torch.Generator().manual_seed(seed)
        common = torch.randn(NUM_EXAMPLES, 1, generator=rng, dtype=torch.float64)
        own = torch.randn(NUM_EXAMPLES, dim, generator=rng, dtype=torch.float64)
        drawn = planted(eigenvalues + spread * (common + own), micro_batch=NUM_EXAMPLES)
        found = measure(drawn, **arguments, population=True, num_folds=10, seed=seed)
        assert found.error.probe is not None
        assert found.error.data is not None
        low, high = found.interval(0.95)
        held += low <= float(eigenvalues.sum()) <= high
    print(f"{name}, population, {spread}", num_repeats, held)
    # Where both matter the interval may be wider than it says, for it adds Student quantiles in quadrature.
    most = 0.965 if name == "hessian_trace" else 0.985
    few, many = stats.binom.ppf((0.001, 0.999), num_repeats, (0.935, most))
    least, most = (0.935 * 2000, most * 2000) if num_repeats == 2000 else (few, many)
    assert least <= held <= most, held


# -- bounds on extreme eigenvalues ------------------------------------------------------------------------

# A second eigenvalue near the first at either end, a lure for what is solved roughly.
LURE = torch.cat([torch.tensor([100.0, 90.0, -55.0, -60.0]), torch.linspace(-1, 1, P - 4)]).double()


def top(known: Known, seed: int, **arguments: Any) -> Any:
    return tw.top_eigenvalues(
        known.objective, **{"rtol": 0.1, "certify_rtol": 0.3, "confidence": 0.95, "seed": seed, **arguments}
    )


def both(known: Known, seed: int) -> bool:
    found = top(known, seed, which="both")
    assert found.smallest_lower_bound is not None
    return found.upper_bound >= 100 * (1 - 1e-12) and found.smallest_lower_bound <= -60 * (1 - 1e-12)


def other(measure: Callable[..., Any], **arguments: Any) -> Callable[[Known, int], bool]:
    def holds(known: Known, seed: int) -> bool:
        found = measure(known.objective, rtol=0.1, certify_rtol=0.3, confidence=0.95, seed=seed, **arguments)
        return found.upper_bound >= 100 * (1 - 1e-12)

    return holds


BOUNDS: dict[str, Callable[[Known, int], bool]] = {
    "top_eigenvalues": lambda k, s: top(k, s).upper_bound >= 100 * (1 - 1e-12),
    "top_eigenvalues, started at the second": lambda k, s: (
        top(k, s, start=orthogonal(P, 1)[:, 1:2]).upper_bound >= 100 * (1 - 1e-12)
    ),
    "top_eigenvalues, without certify_rtol": lambda k, s: (
        top(k, s, start=orthogonal(P, 1)[:, 1:2], certify_rtol=None).upper_bound >= 100 * (1 - 1e-12)
    ),
    "top_eigenvalues, bottom": lambda k, s: top(k, s, which="bottom").lower_bound <= -60 * (1 - 1e-12),
    "top_eigenvalues, both": both,
    "normalized_curvature": other(tw.normalized_curvature, trace_rtol=None),
    "preconditioned_sharpness": other(tw.preconditioned_sharpness),
}


@pytest.mark.parametrize("num_repeats", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_hold(name: str, num_repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lured = known(LURE, monkeypatch)
    held = sum(BOUNDS[name](lured, seed) for seed in range(num_repeats))
    print(f"{name}, bound", num_repeats, held)
    assert held >= (0.95 * 2000 if num_repeats == 2000 else stats.binom.ppf(0.001, num_repeats, 0.95)), held
