"""Gradients of single examples, and of whole batches, against plain reverse mode on the user's own model."""

from __future__ import annotations

import pytest
import torch
from tests import networks
from tests.operators import oracle
from tests.operators.cases import BATCH, CASES, deviation
from torch import Tensor, nn

from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.objective.objective import Objective
from thalweg.operators import unit_gradients
from thalweg.operators.batch_gradient_covariance import BatchGradientCovariance
from thalweg.operators.unit_gradients import UnitGradients


def rows(units: UnitGradients) -> Tensor:
    """``(U, P)``: every deviation, in order."""
    found: list[Tensor] = []

    def collect(deviations: dict[str, Tensor], sizes: Tensor) -> Tensor:
        names = units.objective.space.names
        found.append(torch.cat([deviations[name].reshape(len(sizes), -1) for name in names], 1))
        return found[-1].sum(0)

    units.each(collect)
    return torch.cat(found)


def true_rows(name: str) -> tuple[Tensor, Tensor]:
    """Deviations ``(U, P)`` and sizes ``(U,)``; under batch statistics of the batches 8, 8 and 5."""
    case = CASES[name]
    if case.mode == "batch":
        model, data = oracle.prepared(case.model(), case.data(), case.loss, "batch"), case.data()
        params, parts = oracle.trainable(model), oracle.slices(data, BATCH)
        sizes = torch.tensor([len(part[-1]) for part in parts], dtype=torch.float64)
        G = torch.stack(
            [oracle.flat_gradient(oracle.example_losses(model, p, case.loss).mean(), params) for p in parts]
        )
    else:
        G = oracle.example_gradients(case.model(), case.data(), case.loss, case.mode)
        sizes = torch.ones(len(G), dtype=torch.float64)
    return G - (sizes @ G) / sizes.sum(), sizes


@pytest.mark.parametrize("name", CASES)
def test_oracle(name: str) -> None:
    units = UnitGradients(CASES[name].objective())
    E, sizes = true_rows(name)
    assert deviation(rows(units), E) < 1e-12
    assert torch.equal(units.sizes, sizes)
    assert units.composition == ("batches" if name == "residual-batch" else "vmap_grad")


# Whose lengths come without the gradients: all parameters are in known layers, each in one call.
TAPPED = ["residual-running", "residual-recalibrated", "mlp-mse", "group-norm", "relu-max-pool"]


@pytest.mark.parametrize("name", CASES)
def test_lengths(name: str) -> None:
    units = UnitGradients(CASES[name].objective(micro_batch=5))
    assert units.taps == (name in TAPPED)
    E, _ = true_rows(name)
    along = torch.randn(E.shape[1], dtype=torch.float64)
    lengths, products = units.squares(along)
    assert deviation(lengths, E.square().sum(1)) < 1e-12
    assert deviation(products, E @ along) < 1e-12


@pytest.mark.parametrize("name", ["residual-running", "residual-batch"])
def test_lengths_slopes_and_products(name: str) -> None:
    units = UnitGradients(CASES[name].objective(weight_decay=0.3))
    E, sizes = true_rows(name)
    W = torch.randn(E.shape[1], 3, dtype=torch.float64)
    lengths, products = units.squares(W[:, 0])
    assert deviation(lengths, E.square().sum(1)) < 1e-12
    assert deviation(products, E @ W[:, 0]) < 1e-12
    slopes, multiplied = units.slopes(W, 2)
    C = E.T @ (sizes[:, None] * E) / len(sizes)
    assert deviation(slopes, E @ W) < 1e-12
    assert deviation(multiplied, C @ W[:, :2]) < 1e-12


def test_batch_covariance() -> None:
    E, sizes = true_rows("residual-batch")
    operator = BatchGradientCovariance(UnitGradients(CASES["residual-batch"].objective()))
    C = operator @ torch.eye(operator.dim, dtype=torch.float64)
    assert deviation(C, E.T @ (sizes[:, None] * E) / len(sizes)) < 1e-12


@pytest.mark.parametrize("micro_batch", [3, 21])
def test_micro_batch_and_chunks_change_nothing(micro_batch: int) -> None:
    objective = CASES["residual-running"].objective(micro_batch=micro_batch)
    units = UnitGradients(objective, max_memory_bytes=2 * 3 * 8 * objective.space.dim)
    assert units.chunk == 2
    assert deviation(rows(units), true_rows("residual-running")[0]) < 1e-12
    assert UnitGradients(objective, max_memory_bytes=1).chunk == 1


def test_single_precision() -> None:
    units = UnitGradients(CASES["residual-running"].objective(torch.float32))
    assert units.composition == "vmap_grad"
    E, _ = true_rows("residual-running")
    assert deviation(rows(units), E) < 1e-5
    assert units.taps
    assert deviation(units.squares(units.mean)[0], E.square().sum(1)) < 1e-5


def test_what_vmap_cannot_run_goes_one_by_one() -> None:
    model, data = networks.Counting().double(), networks.vectors()  # writes to its buffers
    units = UnitGradients(Objective(model, data, micro_batch=5))
    assert units.composition == "one_by_one"
    G = oracle.example_gradients(model, data, "cross_entropy", "running")
    assert deviation(rows(units), G - G.mean(0)) < 1e-12


def test_wrong_gradients_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = unit_gradients.together
    monkeypatch.setattr(
        unit_gradients, "together", lambda part: {k: 1.001 * g for k, g in right(part).items()}
    )
    units = UnitGradients(CASES["residual-running"].objective())
    assert units.composition == "one_by_one"
    assert deviation(rows(units), true_rows("residual-running")[0]) < 1e-12


class Mixing(nn.Module):
    """Takes the mean over its batch off: an example's loss depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - 0.5 * x.mean(0))


def test_examples_that_depend_on_one_another_are_seen() -> None:
    objective = Objective(Mixing().double(), networks.vectors(), micro_batch=21)
    with pytest.raises(DerivativeError, match=r"do not add up to that of all, by .* depend on the others"):
        UnitGradients(objective)


def test_copies_of_one_example_have_no_length() -> None:
    copies = tuple(t[:1].repeat(12, *[1] * (t.ndim - 1)) for t in networks.images())
    units = UnitGradients(Objective(networks.residual(dtype=torch.float32), (copies[0].float(), copies[1])))
    assert not bool(units.squares(units.mean)[0].any())


def test_trouble_is_named() -> None:
    with pytest.raises(ValueError, match="needs at least two examples; one has no spread"):
        UnitGradients(Objective(networks.mlp(), networks.vectors(1)))
    with pytest.raises(ValueError, match="batches of 32 make one of the 21 examples; one has no spread"):
        UnitGradients(Objective(networks.residual(), networks.images(), batch_norm="batch", batch_size=32))
    weighted = CASES["mlp-mse"].objective().select(torch.arange(4), weights=torch.ones(4))
    with pytest.raises(ValueError, match="not defined for weighted examples"):
        UnitGradients(weighted)
    broken = CASES["mlp-mse"].objective()
    with pytest.raises(NonFiniteLossError, match="example 0, in the batch of examples 0 to 20"):
        UnitGradients(broken.at(torch.full_like(broken.params, torch.nan)))
