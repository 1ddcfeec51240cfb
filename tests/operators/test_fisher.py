"""The Fisher against sums over labels and examples of outer products of gradients by plain reverse mode."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from tests import networks
from tests.operators import oracle
from tests.operators.cases import BATCH, CASES, SPLIT_CASES, deviation, ggn_of, hessian_of
from torch import Tensor, nn

from thalweg.core.errors import DerivativeError
from thalweg.objective.objective import Objective
from thalweg.operators.fisher import Fisher
from thalweg.operators.gauss_newton_form import GAUSS_NEWTON_COMPOSITIONS
from thalweg.operators.ggn import GGN
from thalweg.operators.likelihood import DRAWN_TOGETHER, Categorical, Gaussian

# Cases in which an example has a loss of its own.
ALONE = [name for name, case in CASES.items() if case.mode != "batch"]
KINDS = ("exact", "monte_carlo", "empirical")


def dense(operator: Any) -> Tensor:
    """``(P, P)``."""
    return operator @ torch.eye(operator.dim, dtype=operator.dtype)


@cache
def exact_of(name: str) -> Tensor:
    """By the first composition."""
    return dense(Fisher(CASES[name].objective()))


@cache
def by_double_backward(name: str, kind: Any) -> Tensor:
    return dense(Fisher(CASES[name].objective(), kind, seed=0, composition="double_backward"))


def empirical_of(name: str) -> Tensor:
    case = CASES[name]
    G = oracle.example_gradients(case.model(), case.data(), case.loss, case.mode)
    return G.T @ G / len(G)


def drawn_labels(operator: Fisher) -> list[Tensor]:
    """The labels ``(N, ...)`` of each sample."""
    parts: list[Tensor] = []

    def collect(micro: Any) -> Tensor:
        parts.append(operator.prepared(micro).constants["labels"])
        return torch.zeros(())

    operator.objective.reduce(collect)
    return list(torch.cat(parts, 1))


# -- what it is -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", [name for name in ALONE if name in SPLIT_CASES])
def test_exact_is_the_expectation_over_labels(name: str) -> None:
    case = CASES[name]
    true = oracle.dense_fisher(case.model(), case.data(), case.loss, case.mode)
    assert deviation(exact_of(name), true) < 1e-12


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", SPLIT_CASES)
def test_exact_is_the_ggn(name: str) -> None:
    """Of both named losses; under batch statistics too, given whose outputs the labels are independent."""
    assert deviation(exact_of(name), ggn_of(name)) < 1e-12


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", ALONE)
def test_empirical_is_the_mean_outer_product(name: str) -> None:
    operator = Fisher(CASES[name].objective(), "empirical")
    assert operator.check.composition == "vmap_jvp_vjp" or name == "group-norm"
    assert deviation(dense(operator), empirical_of(name)) < 1e-12


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", ["residual-running", "mlp-mse", "attention"])
def test_monte_carlo_is_the_empirical_one_of_the_drawn_labels(name: str) -> None:
    case = CASES[name]
    operator = Fisher(case.objective(micro_batch=5), "monte_carlo", seed=3, num_samples=4)
    parts = [
        oracle.example_gradients(case.model(), (*case.data()[:-1], y), case.loss, case.mode)
        for y in drawn_labels(operator)
    ]
    G = torch.cat(parts)
    assert deviation(dense(operator), G.T @ G / len(G)) < 1e-12


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("num", [80, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["residual-running", "mlp-mse", "residual-batch"])
def test_monte_carlo_has_the_exact_mean(name: str, num: int) -> None:
    objective = CASES[name].objective()
    exact = oracle_directions(objective)
    draws = torch.stack(
        [quadratic(Fisher(objective, "monte_carlo", seed=seed), objective, exact[0]) for seed in range(num)]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert bool((error < (0.2 if num < 300 else 0.1) * exact[1]).all())
    z = (draws.mean(0) - exact[1]) / error
    assert float(z.abs().max()) < 3.5, z


def oracle_directions(objective: Objective) -> tuple[Tensor, Tensor]:
    """Columns, and the exact quadratic form along them."""
    V = torch.randn(objective.space.dim, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return V, (V * (GGN(objective) @ V)).sum(0)


def quadratic(operator: Fisher, objective: Objective, V: Tensor) -> Tensor:
    """Unchecked, since hundreds are drawn."""
    return (V * operator.data_product(objective, "double_backward", V)).sum(0)


@pytest.mark.usefixtures("proved")
def test_the_three_are_different_matrices() -> None:
    objective = CASES["mlp-mse"].objective()
    exact, drawn, empirical = (dense(Fisher(objective, kind, seed=0)) for kind in KINDS)
    assert deviation(drawn, exact) > 0.1
    assert deviation(empirical, exact) > 0.1
    assert deviation(exact, hessian_of("mlp-mse")) > 0.1


def test_gaussian_of_unit_variance_is_half_as_many_outputs() -> None:
    """The convention: for a model linear in its parameters, F = (2 / D) J' J = (2 / D) mean(x x')."""
    x = networks.vectors()[0]
    objective = Objective(nn.Linear(5, 3, bias=False).double(), (x, torch.zeros(21, 3)), loss="mse")
    block = dense(Fisher(objective))[:5, :5]
    torch.testing.assert_close(block, 2 / 3 * x.T @ x / 21, rtol=1e-12, atol=1e-14)


def test_regression_of_single_numbers() -> None:
    """Outputs ``(B,)``: D is one."""
    model = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)).double()
    x = networks.vectors()[0]
    objective = Objective(model, (x, x[:, 0]), loss="mse")
    one = torch.cat([x, torch.ones(21, 1, dtype=x.dtype)], 1)
    torch.testing.assert_close(dense(Fisher(objective)), 2 * one.T @ one / 21, rtol=1e-12, atol=1e-14)
    assert Fisher(objective, "monte_carlo", seed=0).check.passed


def dense_outputs() -> Objective:
    """Classes at each of 16 positions; some do not count, and an example in which none does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Conv2d(1, 3, 3).double()
    y = torch.randint(3, (21, 4, 4), generator=torch.Generator().manual_seed(0))
    y[:, 0], y[::2, 1:3], y[5] = -100, -100, -100
    return Objective(model, (networks.images()[0], y), micro_batch=8)


@pytest.mark.usefixtures("proved")
def test_positions_that_do_not_count() -> None:
    objective = dense_outputs()
    torch.testing.assert_close(dense(Fisher(objective)), dense(GGN(objective)), rtol=1e-11, atol=1e-14)
    V, exact = oracle_directions(objective)
    draws = torch.stack(
        [quadratic(Fisher(objective, "monte_carlo", seed=s), objective, V) for s in range(80)]
    )
    z = (draws.mean(0) - exact) / (draws.std(0) / len(draws) ** 0.5)
    assert float(z.abs().max()) < 3.5, z


@pytest.mark.usefixtures("proved")
def test_classes_given_as_probabilities() -> None:
    x, y = networks.vectors()
    soft = 0.9 * nn.functional.one_hot(y, 3).double() + 0.1 / 3
    for kind in KINDS[:2]:
        one, other = (dense(Fisher(Objective(networks.mlp(), (x, t)), kind, seed=0)) for t in (soft, y))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


# -- how it is computed ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("composition", GAUSS_NEWTON_COMPOSITIONS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "exact") for name in ("residual-running", "encoder-layer", "tied", "unused", "mlp-mse")),
        *((name, kind) for name in ("residual-running", "mlp-mse") for kind in KINDS[1:]),
    ],
)
def test_every_composition(name: str, kind: Any, composition: str) -> None:
    objective = CASES[name].objective()
    operator = Fisher(objective, kind, seed=0, composition=composition)
    assert operator.check.composition == composition
    true = by_double_backward(name, kind)
    V = torch.randn(operator.dim, operator.block_size + 3, dtype=torch.float64)
    tolerance = 1e-6 if composition == "finite_differences" else 1e-11
    assert deviation(operator @ V, true @ V) < tolerance
    assert deviation(operator @ V[:, 0], true @ V[:, 0]) < tolerance


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [7, 150])
def test_micro_batch_changes_nothing(kind: Any, micro_batch: int) -> None:
    """Over more examples than draw from one generator."""
    assert DRAWN_TOGETHER < 150
    data = networks.vectors(150)
    one, other = (
        dense(Fisher(Objective(networks.mlp(), data, micro_batch=size), kind, seed=0, num_samples=2))
        for size in (micro_batch, 64)
    )
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-15)


def test_labels_depend_on_seed_and_index_alone() -> None:
    """A longer data set draws the same labels for the examples it begins with; samples differ."""
    x, y = networks.vectors(150)
    few, many, again, other = (
        drawn_labels(Fisher(Objective(networks.mlp(), (x[:n], y[:n])), "monte_carlo", seed=s, num_samples=2))
        for n, s in ((100, 0), (150, 0), (150, 0), (150, 1))
    )
    assert torch.equal(few[0], many[0][:100])
    assert torch.equal(many[0], again[0])
    assert not torch.equal(many[0], other[0])
    assert not torch.equal(many[0], many[1])


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind: Any) -> None:
    objective = CASES["residual-running"].objective()
    true = dense(Fisher(objective, kind, seed=0))
    operator = Fisher(CASES["residual-running"].objective(torch.float32), kind, seed=0)
    assert operator.check.dtype == torch.float64
    V = torch.randn(operator.dim, 5)
    assert deviation(operator @ V, true @ V.double()) < 1e-5


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_and_some_parameters(kind: Any) -> None:
    case = CASES["residual-running"]
    F = dense(Fisher(case.objective(), kind, seed=0))
    V = torch.randn(len(F), 3, dtype=torch.float64)
    assert deviation(Fisher(case.objective(weight_decay=0.3), kind, seed=0) @ V, F @ V + 0.3 * V) < 1e-11
    objective = case.objective()
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    part = dense(Fisher(objective.restrict("head"), kind, seed=0))
    assert deviation(part, F[index][:, index]) < 1e-11


@pytest.mark.usefixtures("proved")
def test_over_other_data_is_still_of_its_kind() -> None:
    objective = CASES["mlp-mse"].objective()
    subset = objective.subset(9, seed=0)
    for kind in KINDS:
        operator = Fisher(objective, kind, seed=4, num_samples=2)
        counted: list[int] = []
        other = operator.over(subset).counting(counted.append)
        torch.testing.assert_close(
            dense(other), dense(Fisher(subset, kind, seed=4, num_samples=2)), rtol=1e-11, atol=1e-15
        )
        assert sum(counted) == 9 * operator.dim


def test_the_first_composition_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> Any:
        raise RuntimeError("no batching rule")

    def wrong(*arguments: Any) -> Any:
        return {k: 1.01 * v for k, v in right(*arguments).items()}

    right = GAUSS_NEWTON_COMPOSITIONS["jvp_vjp"]
    monkeypatch.setitem(GAUSS_NEWTON_COMPOSITIONS, "vmap_jvp_vjp", absent)
    monkeypatch.setitem(GAUSS_NEWTON_COMPOSITIONS, "jvp_vjp", wrong)
    check = Fisher(CASES["mlp-mse"].objective()).check
    assert check.composition == "double_backward"
    assert check.rejected[0] == "vmap_jvp_vjp: not available (no batching rule)"
    assert "differs from the slope" in check.rejected[1]
    for name in ("double_backward", "finite_differences"):
        monkeypatch.setitem(GAUSS_NEWTON_COMPOSITIONS, name, wrong)
    with pytest.raises(DerivativeError, match=r"no composition .* differs from the mean of squared slopes"):
        _ = Fisher(CASES["mlp-mse"].objective()).check


@pytest.mark.parametrize(("name", "likelihood"), [("attention", Categorical), ("mlp-mse", Gaussian)])
def test_wrong_information_is_seen_by_the_squared_slopes(
    monkeypatch: pytest.MonkeyPatch, name: str, likelihood: Any
) -> None:
    """Any multiple of M is the slope of some gradient, symmetric and never negative."""
    form = likelihood.form
    monkeypatch.setattr(likelihood, "form", lambda *arguments: 1.001 * form(*arguments))
    with pytest.raises(DerivativeError, match="differs from the mean of squared slopes by 1e-03") as caught:
        _ = Fisher(CASES[name].objective()).check
    assert "differs from the slope of" not in str(caught.value)


def test_network_that_fits_to_rounding() -> None:
    """Where every prediction is certain, the matrix is rounding: the proof moves, and nought is nought."""
    model = networks.mlp()
    with torch.no_grad():
        model[2].weight *= 1e3  # type: ignore[operator]
    x = networks.vectors()[0]
    objective = Objective(model, (x, model(x).argmax(1)))
    for kind in KINDS:
        assert Fisher(objective, kind, seed=0).check.passed


# -- what is refused ------------------------------------------------------------------------------------


def test_losses_without_a_likelihood() -> None:
    for kind in KINDS[:2]:
        with pytest.raises(ValueError, match=r"'exact' and 'monte_carlo' need .* 'mse'\), got .* own_loss"):
            Fisher(CASES["own-loss"].objective(), kind, seed=0)  # type: ignore[arg-type]


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Named like ours, and another function."""
    return (outputs - targets).abs().sum(1)


def test_a_callable_is_not_known_by_its_name() -> None:
    objective = Objective(networks.mlp(), CASES["mlp-mse"].data(), loss=mse)
    with pytest.raises(ValueError, match="got the callable mse"):
        Fisher(objective)
    assert Fisher(objective, "empirical").check.passed


def test_empirical_under_batch_statistics() -> None:
    with pytest.raises(ValueError, match=r"`kind='empirical'` is made of per-example .* kind='exact'"):
        Fisher(CASES["residual-batch"].objective(), "empirical")
    # No batch norm, no batch statistics.
    objective = Objective(networks.mlp(), networks.vectors(), batch_norm="batch", batch_size=BATCH)
    assert Fisher(objective, "empirical").check.passed


def test_bad_arguments() -> None:
    objective = CASES["mlp-mse"].objective()
    with pytest.raises(ValueError, match="`kind` must be one of exact, monte_carlo, empirical, got 'true'"):
        Fisher(objective, "true")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`seed` must be given for kind='monte_carlo'"):
        Fisher(objective, "monte_carlo")
    with pytest.raises(ValueError, match="`num_samples` must be a whole number of at least 1, got 0"):
        Fisher(objective, "monte_carlo", seed=0, num_samples=0)
