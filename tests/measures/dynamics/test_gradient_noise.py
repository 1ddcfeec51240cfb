"""The noise of the gradient against dense matrices, closed forms, planted spectra and drawn batches."""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from tests import networks
from tests.measures.conftest import Theta, quadratic
from tests.operators import oracle
from tests.operators.cases import BATCH, CASES, ggn_of, hessian_of
from torch import Tensor, nn

import thalweg as tw
from thalweg.core.measurement import StandardError
from thalweg.measures.dynamics.gradient_noise import GradientNoise
from thalweg.objective.objective import Objective

TRACE_ONLY: dict[str, Any] = {"k": 0, "seed": 0}


def linear(rows: Tensor, at: Tensor | None = None, **kwargs: Any) -> Objective:
    """Loss ``rows[i] . theta``: the gradients of the examples are the rows, anywhere."""

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return batch[0] @ model.theta

    return Objective(Theta(torch.zeros_like(rows[0]) if at is None else at), (rows,), loss=loss, **kwargs)


def draws(n: int, spectrum: list[float], seed: int = 0, mean: float = 0.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return mean + torch.randn(n, len(spectrum), generator=rng, dtype=torch.float64) * (
        torch.tensor(spectrum, dtype=torch.float64).sqrt()
    )


# -- the dense oracle -------------------------------------------------------------------------------------


def units_of(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean gradient ``(P,)``, deviations ``(U, P)`` and sizes ``(U,)``, by loops over plain reverse mode."""
    case = CASES[name]
    if case.mode != "batch":
        G = oracle.example_gradients(case.model(), case.data(), case.loss, case.mode)
        sizes = torch.ones(len(G), dtype=torch.float64)
    else:
        model = oracle.prepared(case.model(), case.data(), case.loss, "batch")
        parts = oracle.slices(case.data(), BATCH)
        losses = [oracle.example_losses(model, part, case.loss).mean() for part in parts]
        G = torch.stack([oracle.flat_gradient(x, oracle.trainable(model)) for x in losses])
        sizes = torch.tensor([float(len(part[-1])) for part in parts], dtype=torch.float64)
    g = sizes @ G / sizes.sum()
    return g, G - g, sizes


@cache
def measured(name: str, **kwargs: Any) -> GradientNoise:
    k = 2 if CASES[name].mode == "batch" else 3
    return tw.gradient_noise(CASES[name].objective(), k=k, rtol=1e-9, num_probes=400, seed=0, **kwargs)


NAMES = ["mlp-mse", "encoder-layer", "own-loss", *(n for n in CASES if n.startswith("residual"))]


@pytest.mark.parametrize("population", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_dense_oracle(name: str, population: bool) -> None:
    """Everything that has a dense counterpart; so many probes that the traces are exact."""
    found = measured(name, population=population)
    g, E, sizes = units_of(name)
    U, N = len(sizes), int(sizes.sum())
    C = E.T @ (sizes[:, None] * E) / (U - population)
    G2 = float(g @ g) - (float(C.trace()) / N if population else 0)
    assert found.value == pytest.approx(float(C.trace()), rel=1e-10)
    assert found.gradient_square == pytest.approx(G2, rel=1e-9)
    assert found.signal_to_noise == pytest.approx(G2 / float(C.trace()), rel=1e-9)
    assert found.num_units == U
    values, vectors = torch.linalg.eigh(C)
    k = len(found.eigenvalues)
    torch.testing.assert_close(found.eigenvalues, values.flip(0)[:k], rtol=1e-8, atol=0)
    x = E @ vectors.flip(1)[:, :k] * sizes.sqrt()[:, None]
    if U >= 5:
        m2, m4 = ((x - x.mean(0)).pow(p).mean(0) for p in (2, 4))
        g2 = (U - 1) / ((U - 2) * (U - 3)) * ((U + 1) * (m4 / m2**2 - 3) + 6)
        torch.testing.assert_close(found.kurtosis, g2 / min(BATCH, N), rtol=1e-4, atol=1e-6)
    else:
        assert bool(found.kurtosis.isnan().all())
    curvatures = {"hessian": hessian_of(name)} | ({} if callable(CASES[name].loss) else {"ggn": ggn_of(name)})
    assert (found.ggn is None) == (len(curvatures) == 1)
    for of, A in curvatures.items():
        against = getattr(found, of)
        lambdas, V = torch.linalg.eigh(A)
        V = V.flip(1)[:, :k]
        torch.testing.assert_close(against.eigenvalues, lambdas.flip(0)[:k], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(
            against.noise_along, torch.einsum("pk,pq,qk->k", V, C, V), rtol=1e-5, atol=1e-9
        )
        product = float((A * C).sum())
        assert against.trace_product == pytest.approx(product, rel=1e-8)
        assert against.value == pytest.approx(product / float(A.norm() * C.norm()), rel=1e-8)
        gAg = float(g @ A @ g) - (product / N if population else 0)
        assert against.noise_scale == pytest.approx(product / gAg, rel=1e-7)
        assert against.error.probe is None
        angles = subspace_angles(vectors.flip(1)[:, :k].numpy(), V.numpy())
        np.testing.assert_allclose(against.angles.numpy(), angles, atol=2e-4)


def test_probes_estimate_what_is_summed() -> None:
    objective = CASES["residual-running"].objective()
    exact = measured("residual-running", population=True)
    found = tw.gradient_noise(objective, k=3, num_probes=30, population=True, seed=1)
    for of in ("hessian", "ggn"):
        estimate, truth = getattr(found, of), getattr(exact, of)
        assert estimate.error.probe.dof == 29
        assert 0 < abs(estimate.value - truth.value) < 4 * estimate.error.probe.value
        assert abs(estimate.trace_product - truth.trace_product) < 4 * estimate.trace_product_error
        error = estimate.signal_to_noise_probe_error
        assert abs(estimate.signal_to_noise - truth.signal_to_noise) < 4 * error
        assert estimate.signal_to_noise_data_error == pytest.approx(truth.signal_to_noise_data_error, rel=0.2)
        assert truth.signal_to_noise_probe_error == 0


@pytest.mark.parametrize("name", ["residual-running", "residual-batch"])
def test_an_l2_term_is_in_the_gradient_alone(name: str) -> None:
    objective, decay = CASES[name].objective(weight_decay=0.3), 0.3
    found, plain = tw.gradient_noise(objective, **TRACE_ONLY), measured(name)
    g, _, _ = units_of(name)
    full = g + decay * objective.params
    assert found.value == pytest.approx(plain.value)
    assert found.gradient_square == pytest.approx(float(full @ full))


def test_a_block_of_the_parameters() -> None:
    objective = CASES["residual-running"].objective()
    g, E, _ = units_of("residual-running")
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    found = tw.gradient_noise(objective, params="head", **TRACE_ONLY)
    assert found.value == pytest.approx(float(E[:, index].square().sum(1).mean()))
    assert found.gradient_square == pytest.approx(float(g[index] @ g[index]))


# -- closed forms -----------------------------------------------------------------------------------------


def test_linear_regression() -> None:
    """Loss (x.theta - y)^2 with Gaussian x and noise: Sigma = 4 (sigma^2 I + d d' + |d|^2 I) in closed form.

    d is how far theta is from the true one: Isserlis' theorem for the fourth moments of x.
    """
    P, N, sigma = 4, 10_000, 0.7
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(N, P, generator=rng, dtype=torch.float64)
    true = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    y = x @ true + sigma * torch.randn(N, generator=rng, dtype=torch.float64)
    model = nn.Linear(P, 1, bias=False).double()
    d = torch.tensor([0.6, 0.0, -0.3, 0.2], dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_((true + d)[None])
    found = tw.gradient_noise(
        Objective(model, (x, y[:, None]), loss="mse"), k=2, against=["hessian"], population=True, seed=0
    )
    Sigma = 4 * (sigma**2 + d @ d) * torch.eye(P) + 4 * torch.outer(d, d)
    G = 2 * d  # and the Hessian is 2 I
    assert abs(found.value - float(Sigma.trace())) < 4 * found.error.data.value  # type: ignore[union-attr]
    assert abs(found.gradient_square - float(G @ G)) < 4 * found.gradient_square_error
    scale = float(Sigma.trace() / (G @ G))
    assert found.noise_scale == pytest.approx(scale, rel=0.1)
    low, high = found.noise_scale_interval(0.999)
    assert low < scale < high
    assert found.hessian is not None
    low, high = found.hessian.noise_scale_interval(0.999)
    assert low < scale < high
    assert high < 1.4 * low
    cosine = float(Sigma.trace() / (2 * Sigma.norm()))
    assert found.hessian.value == pytest.approx(cosine, rel=0.04)
    top = float(torch.linalg.eigvalsh(Sigma)[-1])
    assert abs(float(found.eigenvalues[0]) - top) < 5 * float(found.eigenvalue_errors[0])


def test_planted_spectrum() -> None:
    """Gradients whose covariance is known exactly: whitened, coloured, turned."""
    spectrum = torch.tensor([9.0, 4.0, 1.0, *[0.1] * 27], dtype=torch.float64)
    x = draws(200, [1.0] * 30, seed=3)
    x = x - x.mean(0)
    rows = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / 200).T)
    Q = torch.linalg.qr(draws(30, [1.0] * 30, seed=1)).Q
    rows = rows * spectrum.sqrt() @ Q.T + Q[:, 5]
    found = tw.gradient_noise(linear(rows), k=3, rtol=1e-10, against=[], seed=0)
    assert found.value == pytest.approx(float(spectrum.sum()))
    torch.testing.assert_close(found.eigenvalues, spectrum[:3], rtol=1e-9, atol=0)
    assert float((found.eigenvectors.T @ Q[:, :3]).abs().diagonal().min()) > 1 - 1e-8  # type: ignore[union-attr]
    assert found.gradient_square == pytest.approx(1.0)
    assert found.noise_scale == pytest.approx(float(spectrum.sum()))


def test_noise_in_proportion_to_the_curvature() -> None:
    """C = 3 H: the cosine is one, the angles nought, the Rayleigh quotients three times the eigenvalues."""
    spectrum = torch.tensor([5.0, 3.0, 2.0, *[0.2] * 17], dtype=torch.float64)
    x = draws(100, [1.0] * 20, seed=4)
    x = x - x.mean(0)
    rows = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / 100).T) * (3 * spectrum).sqrt()

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return batch[0] @ model.theta + 0.5 * (spectrum * model.theta.square()).sum()

    objective = Objective(Theta(torch.full((20,), 0.1, dtype=torch.float64)), (rows,), loss=loss)
    found = tw.gradient_noise(objective, k=3, rtol=1e-10, num_probes=2, seed=0).hessian
    assert found is not None
    assert found.value == pytest.approx(1.0, abs=1e-12)  # of any probes: they are shared
    assert found.interval()[1] == 1.0
    assert found.subspace_overlap == pytest.approx(1.0)
    torch.testing.assert_close(found.noise_along, 3 * found.eigenvalues, rtol=1e-8, atol=0)
    assert float(found.angles.max()) < 1e-6
    g = 0.1 * spectrum
    scale = 3 * float(spectrum.square().sum() / (g * g * spectrum).sum())
    summed = tw.gradient_noise(objective, k=3, rtol=1e-10, num_probes=20, seed=0).hessian
    assert summed is not None
    assert summed.noise_scale == pytest.approx(scale)


# -- batches ----------------------------------------------------------------------------------------------


def test_batches_with_and_without_replacement() -> None:
    """The stated covariance of a batch's gradient against all batches, and against drawn ones."""
    rows = draws(7, [2.0, 1.0, 0.3], seed=1, mean=0.5)
    found = tw.gradient_noise(linear(rows), batch_size=3, **TRACE_ONLY)
    g = rows.mean(0)
    once = torch.stack([rows[list(b)].mean(0) for b in itertools.combinations(range(7), 3)])
    again = torch.stack([rows[list(b)].mean(0) for b in itertools.product(range(7), repeat=3)])
    assert found.batch_trace == pytest.approx(float((again - g).square().sum(1).mean()))
    assert found.batch_trace_without_replacement == pytest.approx(float((once - g).square().sum(1).mean()))
    assert found.batch_signal_to_noise == pytest.approx(float(g @ g) / found.batch_trace)
    everything = tw.gradient_noise(linear(rows), batch_size=7, **TRACE_ONLY)
    assert everything.batch_trace_without_replacement == 0


def test_drawn_batches_of_a_network() -> None:
    objective = CASES["mlp-mse"].objective()
    found = tw.gradient_noise(objective, batch_size=5, **TRACE_ONLY)
    g, E, _ = units_of("mlp-mse")
    rng = torch.Generator().manual_seed(0)
    for replacement, stated in ((True, found.batch_trace), (False, found.batch_trace_without_replacement)):
        weights = torch.ones(4000, len(E))
        batches = torch.multinomial(weights, 5, replacement, generator=rng)
        squares = E[batches].mean(1).square().sum(1)
        assert abs(float(squares.mean()) - stated) < 4 * float(squares.std()) / math.sqrt(4000)
    one = objective.select(torch.tensor([0, 3, 3, 9, 20])).gradient()  # a batch is what it is taken for
    assert float((one - g - E[[0, 3, 3, 9, 20]].mean(0)).norm()) < 1e-12


def test_kurtosis_is_that_of_drawn_batches() -> None:
    rows = draws(60, [2.0, 0.1], seed=2) ** 3
    found = tw.gradient_noise(linear(rows), batch_size=4, k=1, against=[], seed=0)
    slopes = (rows - rows.mean(0)) @ found.eigenvectors[:, 0]  # type: ignore[index]
    rng = torch.Generator().manual_seed(0)
    noise = slopes[torch.randint(60, (400_000, 4), generator=rng)].mean(1)
    kurtosis = float((noise**4).mean() / (noise**2).mean() ** 2 - 3)
    # G2 of 60 is the finite set's kurtosis, less the bias that it has as a sample.
    m2, m4 = (slopes**2).mean(), (slopes**4).mean()
    assert kurtosis == pytest.approx(float(m4 / m2**2 - 3) / 4, rel=0.05)
    assert float(found.kurtosis[0]) == pytest.approx(kurtosis, rel=0.2)


def test_whole_batches_are_the_units_of_batch_statistics() -> None:
    objective = CASES["residual-batch"].objective()
    found = tw.gradient_noise(objective, **TRACE_ONLY)
    assert (found.unit, found.num_units, found.batch_size) == ("batch", 3, BATCH)
    assert found.batch_trace == found.batch_trace_without_replacement == found.value / BATCH
    assert tw.gradient_noise(objective, batch_size=BATCH, **TRACE_ONLY).value == found.value
    with pytest.raises(ValueError, match=r"`batch_size` must be the objective's own, 8, .* got 4; build"):
        tw.gradient_noise(objective, batch_size=4, **TRACE_ONLY)
    with pytest.raises(ValueError, match="`k` must be at most 2, got 3: the covariance of 3 batches has 2"):
        tw.gradient_noise(objective, k=3, seed=0)


# -- shape ------------------------------------------------------------------------------------------------


def heavy(n: int, dof: float, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_t(dof, (n, 3)) * [2.0, 1.0, 0.5])


def test_heavy_tails_are_warned_of() -> None:
    infinite = tw.gradient_noise(linear(heavy(5000, 1.2)), batch_size=64, k=1, against=[], seed=0)
    assert infinite.tail_index_low < 1.2 < infinite.tail_index_high
    assert infinite.warning is not None
    assert "below 2: the distribution has no covariance" in infinite.warning
    assert ", not Gaussian" in repr(infinite)
    third = tw.gradient_noise(linear(heavy(5000, 2.5)), batch_size=64, k=1, against=[], seed=0)
    assert "below 4: the trace has no finite variance" in (third.warning or "")


def test_a_gaussian_is_not_warned_of() -> None:
    warned = 0
    for seed in range(40):
        rows = draws(400, [3.0, 1.0, 0.2], seed=seed)
        warned += tw.gradient_noise(linear(rows), batch_size=1, k=3, against=[], seed=0).warning is not None
    assert warned <= 3  # the confidence is 95 per cent, for a kurtosis of more than the tolerance


def test_batches_grow_gaussian() -> None:
    """Exponential slopes, of kurtosis 6: a batch of 4 is far from Gaussian, one of 64 is near."""
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.exponential(size=(4000, 2)) * [3.0, 1.0])
    few, many = (tw.gradient_noise(linear(rows), batch_size=B, k=2, against=[], seed=0) for B in (4, 64))
    assert float(few.kurtosis[0]) == pytest.approx(6 / 4, rel=0.2)
    assert "along eigenvector" in (few.warning or "")
    assert "excess kurtosis" in (few.warning or "")
    assert many.warning is None


# -- arguments --------------------------------------------------------------------------------------------


def test_the_micro_batch_changes_no_field() -> None:
    first, second = (
        tw.gradient_noise(CASES["residual-running"].objective(micro_batch=m), k=2, population=True, seed=0)
        for m in (9, 21)
    )
    for name in ("value", "gradient_square", "signal_to_noise_error", "tail_index", "kurtosis_errors"):
        a, b = (torch.as_tensor(getattr(r, name)) for r in (first, second))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    for of in ("hessian", "ggn"):
        for name in (
            "value",
            "noise_along",
            "noise_along_errors",
            "signal_to_noise",
            "signal_to_noise_data_error",
        ):
            a, b = (torch.as_tensor(getattr(getattr(r, of), name)) for r in (first, second))
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_a_sample_of_the_examples() -> None:
    rows = draws(300, [2.0, 1.0], mean=0.5)
    found = tw.gradient_noise(linear(rows), num_examples=100, **TRACE_ONLY)
    whole = tw.gradient_noise(linear(rows), **TRACE_ONLY)
    assert found.num_units == 100
    assert found.error.data is not None
    assert whole.error.data is None
    assert 0 < abs(found.value - whole.value) < 4 * found.error.data.value
    fresh = tw.gradient_noise(linear(rows), num_examples=100, population=True, **TRACE_ONLY)
    assert found.error.data.value == pytest.approx(
        fresh.error.data.value * math.sqrt(2 / 3) * (1 - 1 / 300), rel=1e-9
    )
    assert tw.gradient_noise(linear(rows), num_examples=300, **TRACE_ONLY).error.data is None


def test_no_noise_and_no_gradient() -> None:
    copies = tw.gradient_noise(linear(torch.ones(9, 3, dtype=torch.float64)), seed=0, k=2)
    assert copies.value == 0
    assert copies.noise_scale == 0
    assert len(copies.eigenvalues) == 0
    assert copies.eigenvectors is None
    assert copies.hessian is None
    assert math.isnan(copies.tail_index)
    neither = tw.gradient_noise(linear(torch.zeros(9, 3, dtype=torch.float64)), **TRACE_ONLY)
    assert math.isnan(neither.noise_scale)
    assert all(math.isnan(end) for end in neither.noise_scale_interval())
    rows = draws(9, [1.0, 1.0])
    still = tw.gradient_noise(linear(rows - rows.mean(0)), **TRACE_ONLY)
    assert still.noise_scale > 1e12


def test_a_lost_gradient_has_no_upper_end() -> None:
    found = tw.gradient_noise(linear(draws(50, [1.0] * 5)), population=True, **TRACE_ONLY)
    low, high = found.noise_scale_interval()
    assert 0 < low < math.inf
    assert high == math.inf
    low, high = tw.gradient_noise(
        linear(draws(50, [1.0] * 5, mean=3.0)), population=True, **TRACE_ONLY
    ).noise_scale_interval()
    assert 0 < low < 5 / 45 < high < 1


def test_a_gradient_along_which_the_curvature_could_be_nought() -> None:
    objective = CASES["residual-running"].objective()
    found = tw.gradient_noise(objective, k=2, population=True, seed=0)
    assert found.hessian is not None
    assert found.ggn is not None
    for of, ratio, half, low, high in (
        (found.hessian, 2.0, 1.0, 1 / 3, 1.0),
        (found.hessian, 0.1, 1.0, -math.inf, math.inf),
        (found.ggn, 0.1, 1.0, 1 / 1.1, math.inf),
        (found.hessian, -2.0, 1.0, -1.0, -1 / 3),
        (found.ggn, -2.0, 2.5, 2.0, math.inf),
    ):
        error = half / StandardError(1.0, of.dof).half_width(0.95)
        changed = dataclasses.replace(
            of, signal_to_noise=ratio, signal_to_noise_probe_error=0.0, signal_to_noise_data_error=error
        )
        assert changed.noise_scale_interval() == pytest.approx((low, high))
        assert changed.noise_scale == pytest.approx(1 / ratio)


def test_bad_arguments() -> None:
    objective = CASES["mlp-mse"].objective()
    for wanted, kwargs in (
        ("`batch_size` must be at most the 21 examples .* got 22", {"batch_size": 22}),
        ("`batch_size` must be a whole number of at least 1, got 0", {"batch_size": 0}),
        ("`k` must be a whole number of at least 0, got -1", {"k": -1}),
        ("`k` must be at most 20, got 21: the covariance of 21 examples has 20 directions", {"k": 21}),
        ("`num_probes` must be a whole number of at least 2, got 1", {"num_probes": 1}),
        ("`against` must be among hessian, ggn, each once, got 'fisher'", {"against": "fisher"}),
        ("`against` compares eigenvectors, so that `k` must be at least 1", {"against": ["ggn"], "k": 0}),
        ("`population` must be True or False", {"population": 1}),
        ("`rtol` must lie in", {"rtol": 2.0}),
        ("`num_tail` must be less than the 21 samples", {"num_tail": 21, "k": 0}),
        ("`max_memory_bytes` must hold the directions", {"max_memory_bytes": 1000}),
        ("`num_examples` must be at most the 21 examples", {"num_examples": 22}),
        ("`params` must match trainable parameters", {"params": "nothing"}),
    ):
        with pytest.raises(ValueError, match=wanted):
            tw.gradient_noise(objective, seed=0, **kwargs)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        tw.gradient_noise(objective, k=0, seed=None)  # type: ignore[arg-type]
    with pytest.raises(tw.ConvergenceError, match="max_matvecs"):
        tw.gradient_noise(objective, max_matvecs=6, rtol=1e-12, seed=0)
    with pytest.raises(ValueError, match="not defined for weighted examples"):
        tw.gradient_noise(objective.select(torch.arange(9), weights=torch.ones(9)), seed=0)


def test_the_objective_batch_is_the_default_and_at_most_all() -> None:
    assert tw.gradient_noise(CASES["mlp-mse"].objective(), **TRACE_ONLY).batch_size == BATCH
    assert tw.gradient_noise(Objective(networks.mlp(), networks.vectors()), **TRACE_ONLY).batch_size == 21


def test_one_curvature_by_its_name() -> None:
    found = tw.gradient_noise(CASES["mlp-mse"].objective(), k=1, against="ggn", seed=0)
    assert found.hessian is None
    assert found.ggn is not None
    assert found.provenance["arguments"]["against"] == "ggn"
    assert set(found.provenance["operators"]) == {"gradient_covariance", "ggn"}


def test_the_curvature_of_a_quadratic_is_its_own() -> None:
    H = torch.diag(torch.tensor([4.0, -1.0, 0.5], dtype=torch.float64))
    found = tw.gradient_noise(quadratic(torch.ones(3, dtype=torch.float64), H), k=1, num_probes=2, seed=0)
    assert found.hessian is not None
    assert float(found.hessian.eigenvalues[0]) == pytest.approx(4.0)
    assert found.ggn is None  # the loss takes the model


@pytest.mark.parametrize("seed", [1, 6, 11, 52])
def test_no_pair_is_passed_over_below_eigenvalues_far_larger(seed: int) -> None:
    """Seeds whose Krylov space takes the sixth eigenvalue for the fifth, unless more are solved for."""
    spectrum = torch.tensor([6.61, 6.0, 5.97, 0.345, 0.245, 0.224, 0.197, 0.124, 0.114], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)

    def orthogonal(rows: int, columns: int) -> Tensor:
        return torch.linalg.qr(torch.randn(rows, columns, generator=rng, dtype=torch.float64))[0]

    left, right = orthogonal(160, 150), orthogonal(150, 150)
    rest = 0.114 * torch.exp(-torch.arange(1, 142) / 15.0)
    x = (left * (torch.cat([spectrum, rest]) * 80).sqrt()) @ right.T  # (2 / N) x'x is the Hessian of the mse
    y = torch.randn(160, 1, generator=rng, dtype=torch.float64)
    objective = Objective(nn.Linear(150, 1, bias=False).double(), (x, y), "mse")
    found = tw.gradient_noise(objective, k=5, against=("ggn",), num_probes=2, batch_size=8, seed=seed).ggn
    assert found is not None
    assert found.eigenvalues.tolist() == pytest.approx(spectrum[:5].tolist(), abs=1e-3 * 6.61)
