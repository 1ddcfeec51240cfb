"""Lanczos quadrature on spectra that are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import wasserstein_distance
from tests.oracles import planted_matrix
from torch import Tensor

from thalweg.core.rng import normal
from thalweg.linalg.linear_operator import DenseOperator, LinearOperator
from thalweg.linalg.quadrature import SpectralQuadrature, lanczos_quadrature


class Diagonal(LinearOperator):
    """As good as any: probes on the sphere know no basis."""

    def __init__(self, eigenvalues: Tensor) -> None:
        super().__init__(len(eigenvalues), eigenvalues.dtype)
        self.eigenvalues = eigenvalues

    def matmat(self, V: Tensor) -> Tensor:
        return self.eigenvalues[:, None] * V


def scattered(n: int, scale: float, centre: float = 0.0, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return centre + scale * torch.randn(n, generator=rng, dtype=torch.float64)


def noughts(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64)


SPECTRA: dict[str, Tensor] = {
    # Outliers that fall off slowly, an indefinite bulk, an atom at nought: what a network's looks like.
    "network": torch.cat([100 / torch.arange(1, 21).double() ** 1.2, scattered(180, 0.3), noughts(200)]),
    "clusters": torch.cat(
        [scattered(n, 0.01, c, seed=n) for c, n in ((10.0, 20), (5.0, 60), (0.0, 200), (-2.0, 120))]
    ),
    "atoms": torch.tensor([50.0] + [20.0] * 3 + [1.0] * 96 + [0.0] * 300, dtype=torch.float64),
    "power law": 1 / torch.arange(1, 401, dtype=torch.float64),
}


def run(
    spectrum: Tensor, probes: int = 6, steps: int = 12, seed: int = 0, **kwargs: Any
) -> SpectralQuadrature:
    rng = torch.Generator().manual_seed(seed)
    return lanczos_quadrature(Diagonal(spectrum), probes, steps, rng=rng, **kwargs)


def distance(spectrum: Tensor, found: SpectralQuadrature, raw: bool = False) -> float:
    """Wasserstein-1, as a part of the range."""
    weights = (found.raw_weights if raw else found.weights).mean(0)
    apart = wasserstein_distance(spectrum.numpy(), found.nodes.numpy(), v_weights=weights.numpy())
    return float(apart) / float(spectrum.max() - spectrum.min())


def functionals(spectrum: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    damping = 0.05 * float(spectrum.abs().max()) - min(0.0, float(spectrum.min()))
    return {
        "trace": lambda x: x,
        "squares": lambda x: x.square(),
        "log det": lambda x: torch.log(x + damping),
        "dimension": lambda x: x / (x + damping),
    }


def test_moments_are_those_of_the_probes() -> None:
    A = planted_matrix(SPECTRA["network"][:120])[0]
    found = lanczos_quadrature(DenseOperator(A), 3, 4, rng=torch.Generator().manual_seed(5))
    Z = normal(torch.Generator().manual_seed(5), 3, 120, like=A).T
    Z = Z / Z.norm(dim=0)
    image = Z
    for degree in range(8):
        exact = (Z * image).sum(0)
        moments = found.raw_weights @ found.nodes**degree
        torch.testing.assert_close(moments, exact, rtol=1e-9, atol=0)
        image = A @ image
    assert not torch.allclose(found.raw_weights @ found.nodes**8, (Z * image).sum(0), rtol=1e-9)


@pytest.mark.parametrize("probes", [1, 4, 25])
def test_the_whole_space_is_exact(probes: int) -> None:
    spectrum = scattered(20, 1.0)
    found = run(spectrum, probes, 40)
    torch.testing.assert_close(found.nodes, spectrum.sort(descending=True).values)
    assert found.num_counted == 20
    assert found.num_matvecs == 20
    for f in functionals(spectrum).values():
        torch.testing.assert_close(found.samples(f), f(spectrum).mean().expand(probes))


@pytest.mark.parametrize("name", SPECTRA)
def test_weights_sum_to_one(name: str) -> None:
    found = run(SPECTRA[name])
    for weights in (found.weights, found.raw_weights, found.coarse_weights):
        torch.testing.assert_close(weights.sum(1), torch.ones(6, dtype=torch.float64))
        assert float(weights.min()) >= 0
    assert float(found.nodes.max()) <= float(SPECTRA[name].max()) + 1e-12
    assert float(found.nodes.min()) >= float(SPECTRA[name].min()) - 1e-12
    nearest = (found.nodes[:, None] - SPECTRA[name]).abs().amin(1)
    assert bool((nearest <= found.residuals + 1e-12).all())


@pytest.mark.parametrize(
    ("name", "limit"), [("network", 8e-3), ("clusters", 0.04), ("atoms", 0.02), ("power law", 2e-3)]
)
def test_distance_to_the_spectrum(name: str, limit: float) -> None:
    distances = [distance(SPECTRA[name], run(SPECTRA[name], seed=seed)) for seed in range(3)]
    assert sum(distances) / 3 < limit


def test_one_process_for_all_is_nearer_than_one_each() -> None:
    """At equal products: the measured reason for the choice."""
    spectrum = SPECTRA["network"]
    seeds = range(3)
    together = sum(distance(spectrum, run(spectrum, seed=s)) for s in seeds)
    apart = sum(distance(spectrum, run(spectrum, seed=s, probes_together=1)) for s in seeds)
    assert together < 0.7 * apart


def test_standard_errors_are_right() -> None:
    """Over repetitions, no bias, the spread that is stated, and intervals that cover."""
    spectrum = SPECTRA["network"]
    repetitions = 60
    runs = [run(spectrum, seed=seed) for seed in range(repetitions)]
    for name, f in functionals(spectrum).items():
        exact = float(f(spectrum).mean())
        estimates = [r.mean(f) for r in runs]
        values = torch.tensor([float(e) for e in estimates])
        errors = torch.tensor([float(e.standard_error) for e in estimates])
        bias = (float(values.mean()) - exact) / (float(values.std()) / math.sqrt(repetitions))
        assert abs(bias) < 3.5, name
        assert float(values.std()) / float(errors.square().mean().sqrt()) == pytest.approx(1, abs=0.3), name
        covered = sum(bool(e.interval()[0] <= exact <= e.interval()[1]) for e in estimates)
        assert covered >= 0.86 * repetitions, name


def test_counting_takes_the_outliers_out_of_the_error() -> None:
    spectrum = SPECTRA["network"]
    found = run(spectrum)
    assert found.num_counted >= 5
    counted, raw = found.samples(lambda x: x), found.raw_weights @ found.nodes
    assert float(counted.std()) < 0.2 * float(raw.std())


def test_only_whole_groups_are_counted() -> None:
    """Four copies, shown whole by five probes and not by four; an atom of many by neither."""
    spectrum = torch.cat(
        [torch.full((4,), 9.0).double(), scattered(100, 0.1), torch.full((30,), -3.0).double()]
    )
    whole, cut = run(spectrum, probes=5), run(spectrum, probes=4)
    for found, num in ((whole, 4), (cut, 0)):
        copies = (found.nodes - 9).abs() < 1e-6
        assert int(copies.sum()) == 4
        assert bool((found.weights[:, copies].sum(1) == 4 / len(spectrum)).all()) == (num == 4)
        atom = (found.nodes + 3).abs() < 1e-6
        assert bool((found.weights[:, atom].std(0) > 0).all())


def test_atoms() -> None:
    """Four eigenvalues, two with more copies than probes: the space is exhausted, their weights random."""
    spectrum = SPECTRA["atoms"]
    found = run(spectrum)
    assert found.num_matvecs < 6 * 12
    assert float(found.solver_error(lambda x: x.abs().sqrt())) < 1e-12
    assert float(found.share(-math.inf, 0.5).solver) == 0
    at_nought = found.mean(lambda x: (x.abs() <= 1e-9).double())
    assert abs(float(at_nought) - 0.75) < 4 * float(at_nought.standard_error)
    assert float(at_nought.standard_error) > 0
    assert float(found.mean(lambda x: (x > 10).double())) == pytest.approx(4 / 400, rel=1e-12)


def test_solver_error_shrinks_with_the_steps() -> None:
    spectrum = SPECTRA["clusters"]

    def sharp(x: Tensor) -> Tensor:
        return torch.log(x - spectrum.min() + 1e-3)

    few, many = run(spectrum, steps=4), run(spectrum, steps=16)
    assert float(many.solver_error(sharp)) < 0.2 * float(few.solver_error(sharp))
    assert float(few.solver_error(lambda x: x)) < 1e-12, "linear functions are exact after any steps"


@pytest.mark.parametrize("name", SPECTRA)
def test_shares_are_as_uncertain_as_they_say(name: str) -> None:
    """At jumps within the spectrum, between its parts, and at an atom that lies in a continuous part."""
    spectrum = SPECTRA[name]
    ends = [-math.inf, -1e-9, float(spectrum.quantile(0.8)) + 1e-6, float(spectrum.max()) - 1e-3, math.inf]
    for seed in range(4):
        found = run(spectrum, seed=seed)
        for low, high in itertools.pairwise(ends):
            exact = float(((spectrum >= low) & (spectrum <= high)).double().mean())
            lower, upper = found.share(low, high).interval(0.999)
            assert float(lower) - 1e-12 <= exact <= float(upper) + 1e-12, (low, high)
    assert float(run(spectrum).share(-math.inf, math.inf)) == pytest.approx(1)


def test_memory_splits_the_probes() -> None:
    spectrum = SPECTRA["power law"]
    # Two probes of 12 steps: 2 (12 + 3) vectors of 400 numbers.
    found = run(spectrum, max_memory_bytes=2 * 15 * 400 * 8)
    assert found.weights.shape == (6, 72)
    assert bool((found.weights.bool().sum(1) <= 24).all())
    assert found.num_matvecs == 72
    exact = float(spectrum.mean())
    estimate = found.mean(lambda x: x)
    assert abs(float(estimate) - exact) < 4 * float(estimate.standard_error)
    with pytest.raises(ValueError, match="`max_memory_bytes` must hold 12 steps of 1 probes, got 1,000"):
        run(spectrum, max_memory_bytes=1000)


def test_single_precision() -> None:
    spectrum = SPECTRA["network"]
    double, single = run(spectrum), run(spectrum.float())
    assert single.nodes.dtype == torch.float64
    assert single.resolution > 1e-6
    assert distance(spectrum, single) < 2 * distance(spectrum, double) + 1e-3
    trace = single.mean(lambda x: x)
    assert abs(float(trace) - float(spectrum.mean())) < 4 * float(trace.standard_error)


def test_the_zero_matrix() -> None:
    found = run(noughts(50))
    assert bool((found.nodes == 0).all())
    assert found.num_matvecs == 6
    assert float(found.mean(lambda x: x)) == 0
