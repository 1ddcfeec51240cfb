"""Intervals and bounds on a real network: a small CNN with batch norm on Fashion-MNIST, 100 seeds a measure.

What is measured over the objective's own data has its truth from the dense Hessian, from gradients of single
examples or from very many more samples; what is meant for a population, from 20,000 examples, of which each
repetition sees others. Measures that take products with one and the same Hessian are repeated on the dense
matrix; that by differentiation they give the same is tested once each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import torch
from scipy import stats
from tests.known_matrix import Known, use
from torch import Tensor, nn

import thalweg as tw
from thalweg.core.measurement import StandardError
from thalweg.data import fashion_mnist
from thalweg.measures.curvature.layer_traces import layer_indices
from thalweg.operators.hessian import Hessian
from thalweg.solvers.sampling_design import SamplingDesign

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

NUM_REPEATS = 100

# A count of 95 per cent is lower once in a thousand.
FEWEST = int(stats.binom.ppf(0.001, NUM_REPEATS, 0.95))

# Examples of the population, of an objective, and of a sample from the population.
POPULATION, EXAMPLES, DRAWN = 20_000, 1000, 600

Interval = tuple[float, float]
Readings = dict[str, tuple[Interval, float]]


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 10),
        )


def exact_trace(model: nn.Module, x: Tensor) -> float:
    """tr(H) by gradients of single examples in float64 and nothing of the package's.

    Outputs are linear in each single parameter, piece by piece: the diagonal is the Gauss-Newton matrix's.
    """
    model = copy.deepcopy(model).double().eval()
    params = {k: p.detach() for k, p in model.named_parameters()}

    def log_p(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, params, (x[None],)).log_softmax(1)[0]

    gradients = torch.func.vmap(torch.func.jacrev(log_p), in_dims=(None, 0))
    total = 0.0
    for part in x.double().split(200):
        with torch.no_grad():
            p = model(part).softmax(1)
        squares = sum(t.square().flatten(2).sum(2) for t in gradients(params, part).values())
        total += float((p * squares).sum())
    return total / len(x)


class Real:
    """Two trained networks, objectives over some and over all of the images, and what is true of them."""

    def __init__(self) -> None:
        x, y = fashion_mnist.load("train")
        # At a quarter of their size: a repetition must be cheap.
        self.x, self.y = nn.functional.avg_pool2d(x[:POPULATION], 4), y[:POPULATION]
        self.models = [network(0), network(1)]
        for seed, model in enumerate(self.models):
            tw.train(
                model, (self.x[:6000], self.y[:6000]), None, tw.TrainConfig(seed=seed, epochs=3, lr=0.05)
            )
            model.eval()
        self.population = self.over(slice(None))
        self.some = self.over(slice(0, EXAMPLES)).to_dtype(torch.float64)

    def over(self, index: Any, model: int = 0) -> tw.Objective:
        return tw.Objective(self.models[model], (self.x[index], self.y[index]))

    def drawn(self, seed: int, model: int = 0) -> tw.Objective:
        """Other examples of the population for every seed."""
        rng = torch.Generator().manual_seed(seed)
        return self.over(torch.randperm(POPULATION, generator=rng)[:DRAWN], model)

    @cached_property
    def in_batches(self) -> tw.Objective:
        """Some in batches of 64 with statistics of their own: each group is a pass of its own, and dear."""
        part = slice(0, 4000)
        return tw.Objective(self.models[0], (self.x[part], self.y[part]), batch_norm="batch", batch_size=64)

    @cached_property
    def matrix(self) -> Tensor:
        """``(P, P)`` float64, over `some`."""
        H = Hessian(self.some)
        dense = torch.cat([H @ part for part in torch.eye(H.dim, dtype=torch.float64).split(8, 1)], 1)
        return (dense + dense.T) / 2

    @cached_property
    def spectrum(self) -> Tensor:
        return torch.linalg.eigvalsh(self.matrix)

    @property
    def top(self) -> float:
        return float(self.spectrum[-1])

    def block(self, a: Tensor, b: Tensor) -> Tensor:
        return self.matrix[a][:, b]

    @cached_property
    def layers(self) -> list[Tensor]:
        return list(layer_indices(self.some.space).values())

    @cached_property
    def population_trace(self) -> float:
        return exact_trace(self.models[0], self.x)


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Real()
    torch.set_num_threads(threads)


def test_the_dense_hessian_has_the_exact_trace(real: Real) -> None:
    assert exact_trace(real.models[0], real.x[:EXAMPLES]) == pytest.approx(
        float(real.matrix.trace()), rel=1e-9
    )


# -- measures, and what is read off their results -------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """A measure called with a seed, readings of the result against the truth, and how to find that out.

    `by_matrix`: whether it only takes products with the Hessian of `Real.some`. `widest`: by the first word
    of a reading's name, if not 1, how wide its intervals may be on average, in parts of the truth, or for
    layers of the largest layer's; one-sided ones are measured from the truth.
    """

    measure: Callable[[Real, int], Any]
    readings: Callable[[Any, Any], Readings]
    truth: Callable[[Real], Any]
    by_matrix: bool = False
    widest: Mapping[str, float] = field(default_factory=dict)


def width(low: float, high: float, truth: float) -> float:
    """Of an interval; of one that is open at one end, from the truth to the other."""
    one_sided = math.isinf(low) != math.isinf(high)
    return abs((high if math.isinf(low) else low) - truth) if one_sided else high - low


def headline(found: tw.Measurement, truth: float) -> Readings:
    return {"value": (found.interval(0.95), truth)}


def bound(found: Any, truth: float) -> Readings:
    return {"upper bound": ((found.value * (1 - 1e-4), found.upper_bound), truth)}


def each(name: str, estimate: Any, truths: list[float]) -> Readings:
    low, high = estimate.interval(0.95)
    return {f"{name} {i}": ((float(low[i]), float(high[i])), t) for i, t in enumerate(truths)}


def one(estimate: Any, truth: float) -> tuple[Interval, float]:
    low, high = estimate.interval(0.95)
    return (float(low), float(high)), truth


def layer_truths(real: Real) -> list[float]:
    return [float(real.block(a, a).trace()) for a in real.layers]


def of_trace(found: Any, truth: list[float]) -> Readings:
    return {"value": (found.interval(0.95), sum(truth)), **each("layer", found.layer_trace_estimate, truth)}


DAMPING = 1.0


def of_density(found: Any, s: Tensor) -> Readings:
    return {
        "value": (found.interval(0.95), float(s.mean())),
        "norm": one(found.frobenius_norm, float(s.norm())),
        "effective rank": one(found.effective_rank, float(s.sum() ** 2 / s.square().sum())),
        "effective dimension": one(found.effective_dimension(DAMPING), float((s / (s + DAMPING)).sum())),
        "log det": one(found.log_det(DAMPING), float(torch.log(s + DAMPING).sum())),
        "mass": one(found.mass(0.1), float((s >= 0.1).double().mean())),
    }


def of_blocks(found: Any, real: Real) -> Readings:
    squares = torch.stack(
        [torch.stack([real.block(a, b).square().sum() for b in real.layers]) for a in real.layers]
    )
    return {
        "value": (found.interval(0.95), float(1 - squares.trace() / squares.sum())),
        **each("trace", found.trace_estimate, layer_truths(real)),
    }


def of_both_errors(found: Any, truth: float) -> Readings:
    assert found.error.data is not None
    return headline(found, truth)


def of_sampled_eigenvalue(found: Any, truth: float) -> Readings:
    assert found.is_sampled
    return {
        "value": (found.interval(0.95), truth),
        "lower limit": ((found.lower_bound, float("inf")), truth),
        "upper limit": ((float("-inf"), found.upper_bound), truth),
    }


def height(found: tw.LinearPath, truth: float) -> Readings:
    """Of the middle alone: what the grid misses is added to the interval and would hide the rest."""
    assert found.error.data is not None
    half = found.error.data.half_width(0.95)
    return {"value": ((found.value - half, found.value + half), truth)}


def of_slice(found: tw.LineSlice, truth: list[float]) -> Readings:
    assert found.error.data is not None
    rise = float(found.losses[-1]) - found.value
    half = float(stats.t.ppf(0.975, found.error.data.dof)) * float(found.rise_standard_errors[-1])
    return {
        "value": (found.interval(0.95), truth[0]),
        "rise": ((rise - half, rise + half), truth[1]),
    }


def of_noise(found: tw.GradientNoise, truth: tw.GradientNoise) -> Readings:
    assert found.error.data is not None
    half = StandardError(found.signal_to_noise_error, found.dof).half_width(0.95)
    ratio = found.signal_to_noise
    return {
        "value": (found.interval(0.95), truth.value),
        "signal to noise": ((ratio - half, ratio + half), truth.signal_to_noise),
        "scale": (found.noise_scale_interval(0.95), truth.noise_scale),
    }


def spread(objective: tw.Objective, num_batches: int, seed: int) -> tw.SamSharpnessSpread:
    return tw.sam_sharpness_spread(objective, batch_size=50, num_batches=num_batches, seed=seed)


def path(real: Real, choose: Callable[[int], tw.Objective]) -> tw.LinearPath:
    return tw.linear_path(choose(0), choose(1), num_points=3, population=True)


def sliced(objective: tw.Objective, population: bool) -> tw.LineSlice:
    return tw.line_slice(objective, num_points=3, span=0.5, population=population, seed=0)


def slice_truth(real: Real) -> list[float]:
    found = sliced(real.population, False)
    return [found.value, float(found.losses[-1]) - found.value]


def scaled_matrix(real: Real) -> Tensor:
    theta = real.some.params.double().abs()
    return theta[:, None] * real.matrix * theta


COUNTS: dict[str, Count] = {
    "hessian_trace": Count(
        lambda r, s: tw.hessian_trace(r.some, rtol=0.1, seed=s), of_trace, layer_truths, by_matrix=True
    ),
    "hessian_trace, hutchinson": Count(
        lambda r, s: tw.hessian_trace(r.some, rtol=0.2, method="hutchinson", seed=s),
        of_trace,
        layer_truths,
        by_matrix=True,
    ),
    "hessian_trace, sampled": Count(
        lambda r, s: tw.hessian_trace(r.population, rtol=0.1, sampled=True, seed=s),
        of_both_errors,
        lambda r: r.population_trace,
    ),
    "hessian_trace, population": Count(
        lambda r, s: tw.hessian_trace(r.drawn(s), rtol=0.1, population=True, seed=s),
        of_both_errors,
        lambda r: r.population_trace,
    ),
    "hessian_trace, sampled batches": Count(
        lambda r, s: tw.hessian_trace(r.in_batches, rtol=0.2, sampled=True, seed=s),
        of_both_errors,
        lambda r: tw.hessian_trace(r.in_batches, rtol=1e-2, seed=10**6).value,
    ),
    "spectral_density": Count(
        lambda r, s: tw.spectral_density(r.some, num_probes=6, num_steps=12, seed=s),
        of_density,
        lambda r: r.spectrum,
        by_matrix=True,
        # A share of few per cent, to which the mass between two nodes is added whole.
        widest={"mass": 6.0},
    ),
    "curvature_profile": Count(
        lambda r, s: tw.curvature_profile(r.some, max_matvecs=80, seed=s),
        of_trace,
        layer_truths,
        by_matrix=True,
    ),
    "curvature_profile, population": Count(
        lambda r, s: tw.curvature_profile(r.drawn(s), max_matvecs=60, population=True, seed=s),
        of_both_errors,
        lambda r: r.population_trace,
    ),
    "block_curvature": Count(
        lambda r, s: tw.block_curvature(r.some, num_probes=6, num_steps=4, seed=s),
        of_blocks,
        lambda r: r,
        by_matrix=True,
    ),
    "top_eigenvalues": Count(
        lambda r, s: tw.top_eigenvalues(r.some, rtol=0.1, confidence=0.95, seed=s),
        bound,
        lambda r: r.top,
        by_matrix=True,
    ),
    "top_eigenvalues, sampled": Count(
        lambda r, s: tw.top_eigenvalues(r.population, sampled=True, rtol=0.1, confidence=0.95, seed=s),
        of_sampled_eigenvalue,
        lambda r: tw.top_eigenvalues(r.population, rtol=1e-4, seed=0).value,
    ),
    "preconditioned_sharpness": Count(
        lambda r, s: tw.preconditioned_sharpness(r.some, lr=0.1, rtol=0.1, confidence=0.95, seed=s),
        bound,
        lambda r: r.top,
        by_matrix=True,
    ),
    "normalized_curvature": Count(
        lambda r, s: tw.normalized_curvature(r.some, rtol=0.1, confidence=0.95, trace_rtol=0.1, seed=s),
        lambda found, A: {
            **bound(found, float(torch.linalg.eigvalsh(A)[-1])),
            "trace": (found.trace_interval(0.95), float(A.trace())),
        },
        scaled_matrix,
        by_matrix=True,
    ),
    "relative_flatness": Count(
        lambda r, s: tw.relative_flatness(r.some, rtol=0.1, seed=s),
        headline,
        lambda r: tw.relative_flatness(r.some, rtol=1e-9, seed=0).value,
    ),
    "average_sharpness": Count(
        lambda r, s: tw.average_sharpness(r.some, num_samples=8, seed=s),
        headline,
        lambda r: tw.average_sharpness(r.some, num_samples=800, seed=10**6).value,
    ),
    "average_sharpness, population": Count(
        lambda r, s: tw.average_sharpness(r.drawn(s), num_samples=12, population=True, seed=s),
        of_both_errors,
        lambda r: tw.average_sharpness(r.population, num_samples=400, seed=10**6).value,
    ),
    "pac_bayes_sigma": Count(
        lambda r, s: tw.pac_bayes_sigma(r.some, num_samples=6, rtol=5e-3, seed=s),
        headline,
        lambda r: tw.pac_bayes_sigma(r.some, num_samples=400, rtol=5e-3, seed=10**6).value,
    ),
    "basin_width": Count(
        lambda r, s: tw.basin_width(r.some, num_directions=6, rtol=5e-3, seed=s),
        headline,
        lambda r: tw.basin_width(r.some, num_directions=400, rtol=5e-3, seed=10**6).value,
    ),
    "sam_sharpness_spread": Count(
        lambda r, s: spread(r.drawn(s), 12, s),
        headline,
        lambda r: sum(spread(r.population, 400, s).value for s in (1, 2)) / 2,
    ),
    "gradient_noise, population": Count(
        lambda r, s: tw.gradient_noise(r.drawn(s), k=0, population=True, seed=s),
        of_noise,
        lambda r: tw.gradient_noise(r.population, k=0, seed=0),
        # The gradient of a trained network is nearly lost in its noise.
        widest={"scale": 20.0},
    ),
    "line_slice, population": Count(lambda r, s: sliced(r.drawn(s), True), of_slice, slice_truth),
    "linear_path, population": Count(
        lambda r, s: path(r, lambda model: r.drawn(s, model)),
        height,
        lambda r: path(r, lambda model: r.over(slice(None), model)).value,
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_intervals_and_bounds_hold(name: str, real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    # The look at all the data is the same for every seed.
    designs = {o.batch_norm: SamplingDesign.of(o) for o in (real.population, real.in_batches)}
    monkeypatch.setattr(SamplingDesign, "of", lambda objective, **__: designs[objective.batch_norm])
    count = COUNTS[name]
    truth = count.truth(real)
    if count.by_matrix:
        differentiated = count.measure(real, 0)
        use(Known(real.some, real.matrix), monkeypatch)
        assert count.measure(real, 0).value == pytest.approx(differentiated.value, rel=1e-6)
    held: dict[str, int] = {}
    widths: dict[str, float] = {}
    for seed in range(NUM_REPEATS):
        readings = count.readings(count.measure(real, seed), truth)
        for reading, ((low, high), true) in readings.items():
            kind = reading.split()[0]
            largest = max(abs(other) for r, (_, other) in readings.items() if r.split()[0] == kind)
            # What is computed exactly differs from the truth by rounding.
            slack = 1e-12 * largest
            held[reading] = held.get(reading, 0) + (low - slack <= true <= high + slack)
            widths[reading] = widths.get(reading, 0.0) + width(low, high, true) / largest / NUM_REPEATS
    for reading, h in held.items():
        print(f"real network, {name}, {reading}", NUM_REPEATS, h, f"width {widths[reading]:.3g}")
    assert all(h >= FEWEST for h in held.values()), held
    # What covers must also say something: an interval without an end would hold any truth.
    for reading, w in widths.items():
        assert w <= count.widest.get(reading.split()[0], 1.0), widths
