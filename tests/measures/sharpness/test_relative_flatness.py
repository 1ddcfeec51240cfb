"""`relative_flatness`: the definition on dense matrices, invariances and what is none, coverage, refusals."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests import networks
from tests.measures.sharpness.rescaled import (
    batch,
    normed,
    permute_units,
    relu_mlp,
    rescale_filters,
    rescale_relu,
    turned,
)
from tests.operators.cases import CASES, hessian_of
from torch import Tensor, nn

import thalweg as tw
from thalweg.measures.sharpness.relative_flatness import RelativeFlatness, relative_flatness
from thalweg.objective.objective import Objective

EXACT: dict[str, Any] = {"rtol": 1e-9, "seed": 0}


def by_definition(W: Tensor, H: Tensor, variant: str) -> float:
    """Sums over pairs of rows, or rows, of blocks of the dense Hessian of W."""
    rows = W.detach().flatten(1)
    d, m = rows.shape
    H = H.view(d, m, d, m)
    if variant == "eigenvalue":
        return sum(float(rows[s] @ rows[s]) * float(torch.linalg.eigvalsh(H[s, :, s])[-1]) for s in range(d))
    return sum(float(rows[s] @ rows[r]) * float(H[s, :, r].trace()) for s in range(d) for r in range(d))


WEIGHTS = {
    "residual-running": ["head.weight", "conv2.weight"],
    "residual-recalibrated": ["head.weight", "conv2.weight"],
    "residual-batch": ["head.weight", "conv2.weight"],
    "mlp-mse": ["2.weight", "0.weight"],
    "tied": ["embed.weight", "inner.weight"],
    "attention": ["head.weight", "attention.in_proj_weight"],
    "unused": ["linear.weight", "unused"],
    "own-loss": ["head.weight"],
}


@pytest.mark.parametrize("variant", ["trace", "eigenvalue"])
@pytest.mark.parametrize(("name", "weight"), [(n, w) for n, names in WEIGHTS.items() for w in names])
def test_definition(name: str, weight: str, variant: Any) -> None:
    case = CASES[name]
    objective = case.objective(weight_decay=2.0)
    (slot,) = (s for s in objective.space if s.name == weight)
    H = hessian_of(name)[slot.start : slot.stop, slot.start : slot.stop]
    W = dict(case.model().named_parameters())[weight].detach()
    true = by_definition(W, H, variant)
    result = relative_flatness(objective, weight=weight, variant=variant, rtol=1e-9, seed=0)
    scale = 1e-8 * float(H.norm() * W.norm() ** 2)
    assert abs(result.value - true) <= scale + (result.error.solver or 0)
    assert (result.weight, result.shape) == (weight, tuple(W.shape))
    if weight == WEIGHTS[name][0]:
        default = relative_flatness(objective, variant=variant, rtol=1e-9, seed=0)
        assert (default.weight, default.value) == (weight, result.value)


def test_least_squares_is_ridge() -> None:
    """For one linear layer of one output under squared error it is 2 ||w||^2 tr(X'X) / N."""
    x = batch("vectors")[0]
    line = nn.Linear(5, 1, bias=False).double()
    result = relative_flatness(Objective(line, (x, x[:, :1]), loss="mse"), **EXACT)
    expected = 2 * float(line.weight.detach().square().sum()) * float(x.square().sum()) / len(x)
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert "exact" in repr(result)


def test_weights_by_rank() -> None:
    """Rows that depend on each other, or are nought, need fewer products."""
    model, data = relu_mlp(), batch("vectors")
    with torch.no_grad():
        model[2].weight[1:] = torch.outer(torch.arange(1.0, 6).double(), model[2].weight[0])
    objective = Objective(model, data)
    full = relative_flatness(objective, weight="2", **EXACT)
    assert full.num_matvecs == 6
    rows = model[2].weight.detach()
    H = objective.restrict("2.weight")
    dense = tw.operators.hessian.Hessian(H) @ torch.eye(36).double()  # type: ignore[attr-defined]
    assert full.value == pytest.approx(by_definition(rows, dense, "trace"), rel=1e-9)
    nn.init.zeros_(model[2].weight)
    for variant in ("trace", "eigenvalue"):
        assert relative_flatness(Objective(model, data), weight="2", variant=variant, **EXACT).value == 0


def wide(seed: int = 0) -> nn.Sequential:
    """Enough entries in the last layer that the trace is estimated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 100), nn.Tanh(), nn.Linear(100, 3)).double()


def repeated(count: int) -> tuple[float, float]:
    """Mean squared deviation in standard errors, and the share of 95 % intervals that cover."""
    objective = Objective(wide(), batch("vectors", 60))
    exact = relative_flatness(objective, **EXACT).value
    squares, covered = 0.0, 0
    for seed in range(count):
        found = relative_flatness(objective, rtol=0.3, seed=seed)
        assert found.method != "exact"
        assert found.error.probe is not None
        squares += ((found.value - exact) / found.error.probe.value) ** 2
        low, high = found.interval()
        covered += low <= exact <= high
    return squares / count, covered / count


def test_standard_errors() -> None:
    square, share = repeated(30)
    assert square == pytest.approx(1, abs=0.7)
    assert share >= 0.83


@pytest.mark.slow
def test_coverage() -> None:
    square, share = repeated(2000)
    assert square == pytest.approx(1, abs=0.1)
    print("relative_flatness", 2000, round(2000 * share))
    assert 0.935 <= share <= 0.965


def test_eigenvalues_say_their_error() -> None:
    objective = Objective(wide(), batch("vectors"))
    tight = relative_flatness(objective, variant="eigenvalue", rtol=1e-9, seed=0).value
    rough = relative_flatness(objective, variant="eigenvalue", rtol=0.1, seed=0)
    assert rough.error.solver
    assert abs(rough.value - tight) <= rough.error.solver


# -- invariances ------------------------------------------------------------------------------------------


def change(before: nn.Module, after: nn.Module, kind: str = "vectors", **arguments: Any) -> float:
    """Relative change between two networks of one function."""
    a, b = (Objective(m, batch(kind)) for m in (before, after))
    assert a.value() == pytest.approx(b.value(), rel=1e-9)
    values = [relative_flatness(o, **EXACT, **arguments).value for o in (a, b)]
    return abs(values[1] / values[0] - 1)


@pytest.mark.parametrize("variant", ["trace", "eigenvalue"])
def test_rescaled_layers(variant: Any) -> None:
    """One factor for a layer leaves it, here in front of it, behind it, and at the last."""
    model = relu_mlp()
    other = rescale_relu(model, unit_by_unit=False)
    for weight in ("0", "2", None):
        assert change(model, other, weight=weight, variant=variant) < 1e-6


@pytest.mark.parametrize("variant", ["trace", "eigenvalue"])
def test_units_one_by_one(variant: Any) -> None:
    """Factors of a layer's own neurons leave it; those of its inputs do not."""
    model = relu_mlp()
    other = rescale_relu(model)
    assert change(model, other, weight="0", variant=variant) < 1e-6
    assert change(model, other, variant=variant) > 0.1
    assert change(model, permute_units(model), weight="2", variant=variant) < 1e-6


@pytest.mark.parametrize("variant", ["trace", "eigenvalue"])
def test_units_one_by_one_with_normalised_features(variant: Any) -> None:
    """Inputs of unit spread make up for any factors; one that is dead is left out."""
    model = relu_mlp()
    with torch.no_grad():
        model[2].bias[3] = -1e3
    other = rescale_relu(model)
    for weight in ("2", None):
        assert change(model, other, weight=weight, variant=variant, normalize_features=True) < 1e-6


@pytest.mark.parametrize("variant", ["trace", "eigenvalue"])
def test_normalised_features_are_those_of_a_scaled_network(variant: Any) -> None:
    """Of a dense layer, and of a convolution, whose channels are scaled by hand."""
    model, data = relu_mlp(), batch("vectors")
    other = copy.deepcopy(model)
    with torch.no_grad():
        spread = model[:4](data[0]).std(0, correction=0)
        divisor = torch.where(spread > 0, spread, 1.0)  # a dead unit stays so, and is read no more
        other[2].weight /= divisor[:, None]
        other[2].bias /= divisor
        other[4].weight *= spread
    found = relative_flatness(Objective(model, data), variant=variant, normalize_features=True, **EXACT)
    expected = relative_flatness(Objective(other, data), variant=variant, **EXACT)
    assert found.value == pytest.approx(expected.value, rel=1e-7)
    images = batch("images")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
        ).double()
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        spread = net[:2](images[0]).std((0, 2, 3), correction=0)
        scaled[0].weight /= spread.view(-1, 1, 1, 1)
        scaled[0].bias /= spread
        scaled[2].weight *= spread.view(1, -1, 1, 1)
    arguments: dict[str, Any] = {"weight": "2", "variant": variant, **EXACT}
    found = relative_flatness(Objective(net, images), normalize_features=True, **arguments)
    expected = relative_flatness(Objective(scaled, images), **arguments)
    assert found.value == pytest.approx(expected.value, rel=1e-7)


def test_features_that_cannot_be_told() -> None:
    for name, weight in (("tied", None), ("attention", "attention.in_proj_weight"), ("tied", "embed")):
        with pytest.raises(ValueError, match=r"`normalize_features` needs a weight that one dense layer"):
            relative_flatness(CASES[name].objective(), weight=weight, normalize_features=True, seed=0)


def test_linear_changes_of_the_neurons() -> None:
    """In a linear network any of them is undone behind; only the trace follows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3)).double()
        A = torch.randn(4, 4).double() + 2 * torch.eye(4).double()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.copy_(A @ model[0].weight)
        other[1].weight.copy_(model[1].weight @ A.inverse())
    assert change(model, other, weight="0") < 1e-9
    assert change(model, other, weight="0", variant="eigenvalue") > 0.01


def test_filters_before_batch_norm() -> None:
    """The last layer does not see them; the filters' own layer follows them, as it follows neurons."""
    model = normed()
    other = rescale_filters(model)
    assert change(model, other, "images") < 1e-9
    assert change(model, other, "images", weight="0") < 1e-9


@pytest.mark.parametrize("where", ["query_key", "value_output"])
def test_attention_before_the_last_layer(where: str) -> None:
    """What the last layer reads is the same."""
    model, data = networks.attention(), networks.tokens()
    a, b = (Objective(m, data) for m in (model, turned(model, where)))
    for normalize in (False, True):
        found = [relative_flatness(o, normalize_features=normalize, **EXACT).value for o in (a, b)]
        assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_raw_curvature_moves() -> None:
    model = relu_mlp()
    values = [
        tw.hessian_trace(Objective(m, batch("vectors")), rtol=1e-9, params="4.weight", seed=0).value
        for m in (model, rescale_relu(model, unit_by_unit=False))
    ]
    assert abs(values[1] / values[0] - 1) > 0.5


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"weight": "5"}, r"`weight` must match trainable parameters, but '5' matches none"),
        ({"weight": "0.bias"}, r"`weight` must name one .* but '0.bias' matches none"),
        ({"weight": "*.weight"}, r"but '\*.weight' matches 0.weight, 2.weight, 4.weight"),
        ({"variant": "norm"}, r"`variant` must be one of trace, eigenvalue, got 'norm'"),
        ({"rtol": 0}, r"`rtol` must lie in \(0, 1\), got 0"),
        ({"max_matvecs": 3}, r"`max_matvecs` must be at least 18, got 3: fewer probes"),
        ({"max_matvecs": 1.5}, r"`max_matvecs` must be a whole number"),
        ({"rtol": 1e-15, "variant": "eigenvalue"}, r"`rtol` must lie in \[1.4e-14, 1\) for torch.float64"),
    ],
)
def test_refusals(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        relative_flatness(Objective(relu_mlp(), batch("vectors")), **arguments, seed=0)


def test_a_network_without_weights() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    model[1].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="this network has no trainable one of two or more dimensions"):
        relative_flatness(Objective(model, batch("vectors")), seed=0)


def test_the_layer_called_last_whatever_its_name() -> None:
    """The head of this network is its first module; a frozen one counts as no choice."""
    model = networks.residual()
    assert relative_flatness(Objective(model, networks.images()), seed=0).weight == "head.weight"
    model.head.weight.requires_grad_(False)  # type: ignore[union-attr]
    assert relative_flatness(Objective(model, networks.images()), seed=0).weight == "conv2.weight"


def test_a_spent_budget_carries_what_there_is() -> None:
    objective = Objective(wide(), batch("vectors"))
    with pytest.raises(tw.ConvergenceError, match="standard error of the relative flatness") as caught:
        relative_flatness(objective, rtol=1e-3, max_matvecs=40, seed=0)
    partial = caught.value.partial
    assert isinstance(partial, RelativeFlatness)
    assert partial.provenance["converged"] is False


def test_memory_is_bounded() -> None:
    """Fewer probes at a time are the same probes; what holds none, or no basis, is refused by name."""
    objective = Objective(wide(), batch("vectors"))
    ample = relative_flatness(objective, rtol=0.1, seed=0)
    assert ample.method != "exact"
    entry = objective.params.element_size() * objective.restrict(ample.weight).space.dim
    tight = relative_flatness(objective, rtol=0.1, max_memory_bytes=20 * entry, seed=0)
    both = math.hypot(*(r.error.probe.value for r in (ample, tight) if r.error.probe))
    assert abs(tight.value - ample.value) <= 4 * both
    with pytest.raises(ValueError, match="`max_memory_bytes` must hold a single probe"):
        relative_flatness(objective, max_memory_bytes=entry, seed=0)
    with pytest.raises(ValueError, match="`max_memory_bytes` must hold the smallest basis"):
        relative_flatness(objective, variant="eigenvalue", max_memory_bytes=100, seed=0)
