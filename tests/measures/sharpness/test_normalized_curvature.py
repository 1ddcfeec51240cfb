"""`normalized_curvature`: dense float64 matrices, a folded network, invariances, refusals."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests import networks
from tests.measures.sharpness.rescaled import (
    batch,
    fold,
    normed,
    permute_units,
    relu_mlp,
    rescale_filters,
    rescale_relu,
)
from tests.operators.cases import CASES, hessian_of
from tests.operators.oracle import dense_ggn, dense_hessian, prepared
from torch import Tensor, nn

import thalweg as tw
from thalweg.measures.sharpness.normalized_curvature import NormalizedCurvature, normalized_curvature
from thalweg.objective.objective import Objective

TIGHT: dict[str, Any] = {"rtol": 1e-7, "certify_rtol": None, "trace_rtol": 1e-9, "seed": 0}
MODES = ("running", "recalibrated", "batch")


def scale_by_hand(model: nn.Module, scaling: str) -> Tensor:
    """D, tensor by tensor."""
    parts = []
    for p in model.parameters():
        if not p.requires_grad:
            continue
        size = p.detach().abs()
        if scaling == "none":
            size = torch.ones_like(size)
        if scaling == "filter" and p.ndim > 1:
            size = p.detach().flatten(1).norm(dim=1).view(-1, *[1] * (p.ndim - 1)).expand_as(p)
        parts.append(size.reshape(-1))
    return torch.cat(parts)


def agrees(result: NormalizedCurvature, M: Tensor) -> None:
    """Largest eigenvalue and trace of a dense matrix, and what is said of their errors."""
    top = float(torch.linalg.eigvalsh(M)[-1])
    scale = float(M.norm())
    assert result.value == pytest.approx(top, abs=1e-6 * scale)
    assert result.trace == pytest.approx(float(M.trace()), abs=1e-8 * scale)
    assert result.trace_error == 0
    assert result.trace_interval() == (result.trace, result.trace)
    slack = 1e-6 * scale
    assert result.lower_bound - slack <= top <= result.upper_bound + slack


@pytest.mark.parametrize("scaling", ["none", "element", "filter"])
@pytest.mark.parametrize(
    "name", ["residual-running", "residual-recalibrated", "residual-batch", "tied", "unused"]
)
def test_dense_matrices(name: str, scaling: Any) -> None:
    """Frozen, tied and unused parameters, a scalar one, and all modes of batch norm."""
    case, H = CASES[name], hessian_of(name)
    D = scale_by_hand(case.model(), scaling)
    result = normalized_curvature(case.objective(), scaling=scaling, **TIGHT)
    agrees(result, D[:, None] * H * D)
    assert result.direction is not None
    d = result.direction.double()
    assert float(d @ H @ d) == pytest.approx(result.value, abs=1e-6 * float(H.norm()))
    moved = D > 0
    assert float((d[moved] / D[moved]).norm()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "scaling"), [("residual-batch", "filter"), ("tied", "element"), ("unused", "none")]
)
def test_the_l2_term_is_none_of_the_functions(name: str, scaling: Any) -> None:
    plain, with_decay = (
        normalized_curvature(CASES[name].objective(**options), scaling=scaling, **TIGHT)
        for options in ({}, {"weight_decay": 3.0})
    )
    assert with_decay.value == plain.value


def test_other_matrices() -> None:
    model, data = relu_mlp(), batch("vectors")
    D = scale_by_hand(model, "element")
    result = normalized_curvature(Objective(model, data), of="ggn", **TIGHT)
    agrees(result, D[:, None] * dense_ggn(model, data) * D)


def lengths(model: nn.Module, names: list[str], D: Tensor) -> Tensor:
    """I - QQ' off the filters of some weights, in the scaled coordinates."""
    total = len(D)
    P = torch.eye(total, dtype=torch.float64)
    start = 0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        for i, row in enumerate(p.detach().flatten(1) if name in names else []):
            q = torch.zeros(total, dtype=torch.float64)
            here = slice(start + i * row.numel(), start + (i + 1) * row.numel())
            q[here] = row / D[here]
            P -= torch.outer(q, q) / (q @ q)
        start += p.numel()
    return P


@pytest.mark.parametrize("scaling", ["none", "element", "filter"])
@pytest.mark.parametrize("mode", MODES)
def test_projected(mode: Any, scaling: Any) -> None:
    model, data = normed(), batch("images")
    H = dense_hessian(model, data, mode=mode)
    D = scale_by_hand(model, scaling)
    P = lengths(model, ["0.weight", "3.weight"], D)
    result = normalized_curvature(
        Objective(model, data, batch_norm=mode, batch_size=8), scaling=scaling, norms="projected", **TIGHT
    )
    agrees(result, P @ (D[:, None] * H * D) @ P)
    assert result.norm_layers == ("1", "4")
    assert result.provenance["norms_kept"] == []


def test_what_is_projected_is_flat_under_batch_statistics() -> None:
    """Along the filter itself there is no slope, and no curvature of its own, but for epsilon."""
    model, data = normed(eps=1e-12), batch("images")
    H = dense_hessian(model, data, mode="batch")
    objective = Objective(model, data, batch_norm="batch", batch_size=8)
    Q = torch.linalg.eigh(
        torch.eye(len(H)).double() - lengths(model, ["0.weight", "3.weight"], torch.ones(len(H)))
    )
    directions = Q.eigenvectors[:, -5:]
    assert Q.eigenvalues[-5:] == pytest.approx(1.0)
    assert float((directions.T @ objective.gradient()).abs().max()) < 1e-10
    assert float((directions.T @ H @ directions).diagonal().abs().max()) < 1e-9 * float(H.norm())


def test_projected_and_filter_scaled_is_the_hessian_on_spheres() -> None:
    """By second differences along a great circle of all filters before batch norm at once."""
    model, data = normed(eps=1e-14), batch("images")
    objective = Objective(model, data, batch_norm="batch", batch_size=8)
    result = normalized_curvature(objective, scaling="filter", norms="projected", **TIGHT)
    assert result.direction is not None
    named, step = objective.named_params, objective.space.unflatten(result.direction)

    def along(t: float) -> float:
        point = {}
        for name, p in named.items():
            if name in ("0.weight", "3.weight"):
                w, d = p.flatten(1), step[name].flatten(1)
                angle = t * d.norm(dim=1, keepdim=True) / w.norm(dim=1, keepdim=True)
                unit = d / d.norm(dim=1, keepdim=True) * w.norm(dim=1, keepdim=True)
                point[name] = (w * angle.cos() + unit * angle.sin()).view_as(p)
            else:
                point[name] = p + t * step[name]
        return objective.at(objective.space.flatten(point)).value()

    h = 1e-3
    second = (along(h) - 2 * along(0.0) + along(-h)) / h**2
    assert second == pytest.approx(result.value, rel=1e-4)


@pytest.mark.parametrize("scaling", ["none", "element", "filter"])
@pytest.mark.parametrize("mode", ["running", "recalibrated"])
def test_folded_is_the_folded_network(mode: Any, scaling: Any) -> None:
    model, data = normed(), batch("images")
    plain = fold(prepared(model, data, "cross_entropy", mode))
    H = dense_hessian(plain, data)
    D = scale_by_hand(plain, scaling)
    objective = Objective(model, data, batch_norm=mode)
    result = normalized_curvature(objective, scaling=scaling, norms="folded", **TIGHT)
    agrees(result, D[:, None] * H * D)
    assert result.norm_layers == ("1", "4")
    same = normalized_curvature(Objective(plain, data), scaling=scaling, **TIGHT)
    assert result.value == pytest.approx(same.value, rel=1e-7)


def test_folded_where_some_parameters_are_frozen() -> None:
    """The layer's bias moves where the norm's shift does not; frozen weights do not; a factor never does."""
    model, data = normed(), batch("images")
    model[1].bias.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    plain = fold(model)
    plain[2].weight.requires_grad_(False)
    for p in (plain[0].bias, plain[2].bias):
        p.requires_grad_(True)
    H = dense_hessian(plain, data)
    result = normalized_curvature(Objective(model, data), scaling="element", norms="folded", **TIGHT)
    D = scale_by_hand(plain, "element")
    agrees(result, D[:, None] * H * D)


def test_without_batch_norm_the_choices_agree() -> None:
    objective = Objective(relu_mlp(), batch("vectors"), batch_norm="batch")
    kept, *others = (
        normalized_curvature(objective, norms=norms, **TIGHT) for norms in ("kept", "projected", "folded")
    )
    assert all(o.value == kept.value and o.norm_layers == () for o in others)  # type: ignore[comparison-overlap]


# -- invariances ------------------------------------------------------------------------------------------


def moved(first: nn.Module, second: nn.Module, kind: str, mode: Any = "running", **arguments: Any) -> float:
    """By which factor the value changes between two networks of one function."""
    objectives = [Objective(m, batch(kind), batch_norm=mode, batch_size=8) for m in (first, second)]
    a, b = (o.value() for o in objectives)
    assert a == pytest.approx(b, rel=1e-9 if mode != "batch" else 1e-6)
    values = [normalized_curvature(o, **{**TIGHT, **arguments}) for o in objectives]
    assert values[0].trace is not None
    assert values[1].trace is not None
    ratios = values[1].value / values[0].value, values[1].trace / values[0].trace
    return max(abs(math.log(abs(r))) if r else math.inf for r in ratios)


@pytest.mark.parametrize(
    ("scaling", "unit_by_unit", "invariant"),
    [
        ("none", False, False),
        ("none", True, False),
        ("filter", False, True),
        ("filter", True, False),
        ("element", False, True),
        ("element", True, True),
    ],
)
def test_rescaled_relu_units(scaling: Any, unit_by_unit: bool, invariant: bool) -> None:
    model = relu_mlp()
    change = moved(model, rescale_relu(model, unit_by_unit), "vectors", scaling=scaling)
    assert change < 1e-6 if invariant else change > 0.1


@pytest.mark.parametrize("scaling", ["none", "element", "filter"])
def test_permuted_units(scaling: Any) -> None:
    model = relu_mlp()
    assert moved(model, permute_units(model), "vectors", scaling=scaling) < 1e-6


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("scaling", "norms", "invariant"),
    [
        ("none", "kept", False),
        ("none", "projected", False),
        ("none", "folded", True),
        ("element", "kept", True),
        ("filter", "kept", True),
        ("element", "projected", True),
        ("filter", "projected", True),
        ("filter", "folded", True),
    ],
)
def test_rescaled_filters_before_batch_norm(mode: Any, scaling: Any, norms: Any, invariant: bool) -> None:
    if mode == "batch" and norms == "folded":
        pytest.skip("there is no such network")
    # With statistics of its own a network cannot make up for epsilon: there it is next to nothing.
    model = normed(eps=1e-12 if mode == "batch" else 1e-3)
    other = rescale_filters(model)
    if mode == "recalibrated":
        # The compensation belongs to the statistics that the objective will have.
        model = prepared(model, batch("images"), "cross_entropy", mode)
        other = rescale_filters(model)  # type: ignore[arg-type]
    change = moved(model, other, "images", mode, scaling=scaling, norms=norms)
    assert change < (1e-5 if mode == "batch" else 1e-6) if invariant else change > 0.1


# -- degenerate weights and refusals ----------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["element", "filter"])
@pytest.mark.parametrize("norms", ["kept", "projected", "folded"])
def test_filters_and_factors_of_nought(scaling: Any, norms: Any) -> None:
    """What has no size has no relative step; nothing is divided by it."""
    model, data = normed(), batch("images")
    with torch.no_grad():
        model[0].weight[1] = 0
        model[1].weight[0] = 0
        model[4].weight[0] = 1e-30
        model[7].weight.mul_(1e-3)
    result = normalized_curvature(Objective(model, data), scaling=scaling, norms=norms, **TIGHT)
    assert math.isfinite(result.value)
    assert result.trace is not None
    assert math.isfinite(result.trace)
    assert result.direction is not None
    assert not bool(result.direction[9:18].any())  # the filter of noughts


def test_nothing_but_noughts() -> None:
    model = relu_mlp()
    for p in model.parameters():
        nn.init.zeros_(p)
    result = normalized_curvature(Objective(model, batch("vectors")), seed=0)
    assert (result.value, result.trace) == (0.0, 0.0)
    assert "99 of 99 parameters at nought do not move" in repr(result)


def test_folded_weights_that_underflow_are_counted_where_they_are_divided() -> None:
    """W = sigma W~ / gamma: folded weights that are sizes like others move by steps that are none."""
    model, data = normed().float(), batch("images")
    with torch.no_grad():
        model[3].weight[1] = 0
        model[3].weight[2] = 1e-40
    result = normalized_curvature(
        Objective(model, (data[0].float(), data[1])), scaling="element", norms="folded", seed=0
    )
    held = result.provenance["at_rest"]
    assert (held["zero"], held["underflow"]) == (18, 18)
    assert held["of"] == sum(p.numel() for p in model.parameters()) - 2 - 3 - 2  # factors, the first bias
    plain = normalized_curvature(Objective(normed(), data), scaling="element", norms="folded", seed=0)
    assert plain.provenance["at_rest"] == {}
    assert "parameters" not in repr(plain)


def test_weights_that_underflow() -> None:
    """Subnormal numbers are sizes like others; their squares are not taken."""
    model = relu_mlp().float()
    with torch.no_grad():
        model[0].weight.mul_(1e-40)
        model[0].bias.mul_(1e-40)
    for scaling in ("element", "filter"):
        result = normalized_curvature(Objective(model, batch("vectors")), scaling=scaling, seed=0)  # type: ignore[arg-type]
        assert math.isfinite(result.value)
        assert result.provenance["at_rest"] == {"zero": 0, "underflow": 36, "of": 99}
        assert "36 of 99 parameters underflow when scaled" in repr(result)
        assert "at nought" not in repr(result)


def test_a_folded_factor_of_nought_cannot_be_undone() -> None:
    model = normed()
    with torch.no_grad():
        model[1].weight[0] = 0
    with pytest.raises(ValueError, match=r"`norms='folded'` with scaling='none' divides by the factors"):
        normalized_curvature(Objective(model, batch("images")), scaling="none", norms="folded", seed=0)


def test_shared_layers_keep_their_lengths() -> None:
    """A filter that is used again elsewhere is not free to be rescaled."""
    model = networks.residual()
    model.conv2.weight = nn.Parameter(model.conv2.weight.detach().clone())  # type: ignore[union-attr]
    objective = Objective(model, networks.images())
    assert normalized_curvature(objective, norms="projected", seed=0).norm_layers == ("norm1", "norm2")
    model.norm2.weight = model.norm1.weight  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"`norms='folded'` needs a batch norm right behind"):
        normalized_curvature(Objective(model, networks.images()), norms="folded", seed=0)


class Around(nn.Module):
    """What the first layer puts out goes around its batch norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(torch.relu(self.norm(x)) + x)


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_that_is_seen_elsewhere_is_not_projected(mode: Any) -> None:
    objective = Objective(Around().double(), batch("vectors"), batch_norm=mode, batch_size=7)
    with pytest.raises(ValueError, match=r"`norms='projected'` needs a batch norm right behind a linear"):
        normalized_curvature(objective, norms="projected", seed=0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"scaling": "layer"}, r"`scaling` must be one of none, element, filter, got 'layer'"),
        ({"norms": "removed"}, r"`norms` must be one of kept, projected, folded, got 'removed'"),
        ({"trace_rtol": 2}, r"`trace_rtol` must lie in \(0, 1\), got 2"),
        ({"max_matvecs": 0}, r"`max_matvecs` must be a whole number of at least 1, got 0"),
        ({"max_matvecs": 20}, r"`max_matvecs` must be at least 36 for a trace .* trace_rtol=None"),
        ({"of": "jacobian"}, r"`of` must be one of hessian"),
    ],
)
def test_refusals(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        normalized_curvature(Objective(normed(), batch("images")), **arguments, seed=0)


def test_batch_statistics_cannot_be_folded() -> None:
    objective = Objective(normed(), batch("images"), batch_norm="batch")
    with pytest.raises(ValueError, match=r"`norms='folded'` needs constant statistics"):
        normalized_curvature(objective, norms="folded", seed=0)


def test_a_partial_result_says_so_and_memory_is_bounded() -> None:
    objective = Objective(normed(), batch("images"))
    spent = normalized_curvature(
        objective,
        rtol=1e-9,
        certify_rtol=None,
        max_matvecs=4,
        trace_rtol=None,
        require_convergence=False,
        seed=0,
    )
    assert spent.provenance["converged"] is False
    assert "not converged" in repr(spent)
    trace = normalized_curvature(
        objective, max_matvecs=36, trace_rtol=1e-4, require_convergence=False, seed=0
    )
    assert trace.trace_error
    assert trace.provenance["converged"] is False
    entry = objective.params.element_size() * objective.space.dim
    wide = normalized_curvature(objective, rtol=1e-4, certify_rtol=None, trace_rtol=None, seed=0)
    narrow = normalized_curvature(
        objective, rtol=1e-4, certify_rtol=None, trace_rtol=None, max_memory_bytes=9 * entry, seed=0
    )
    assert "not converged" not in repr(wide)
    assert narrow.value == pytest.approx(wide.value, rel=2e-4)
    with pytest.raises(ValueError, match=f"`max_memory_bytes` must hold the smallest .* {7 * entry:,} bytes"):
        normalized_curvature(objective, max_memory_bytes=7 * entry - 1, seed=0)


def test_a_spent_budget_carries_what_there_is() -> None:
    objective = Objective(normed(), batch("images"))
    with pytest.raises(tw.ConvergenceError, match="Raise `max_matvecs`") as caught:
        normalized_curvature(objective, rtol=1e-9, certify_rtol=None, max_matvecs=4, trace_rtol=None, seed=0)
    assert isinstance(caught.value.partial, NormalizedCurvature)
    assert caught.value.partial.trace is None
    with pytest.raises(ValueError, match="the trace was not computed"):
        caught.value.partial.trace_interval()
    with pytest.raises(tw.ConvergenceError, match="standard error of the trace") as caught:
        normalized_curvature(objective, max_matvecs=36, trace_rtol=1e-4, seed=0)
    partial = caught.value.partial
    assert isinstance(partial, NormalizedCurvature)
    assert partial.trace_error
    assert partial.provenance["converged"] is False


def repeated(count: int) -> tuple[float, float]:
    """Of the trace: mean squared deviation in standard errors, and the share of intervals that cover."""
    objective = Objective(normed(), batch("images"))
    arguments: dict[str, Any] = {"of": "ggn", "scaling": "filter", "rtol": 0.5, "certify_rtol": None}
    exact = normalized_curvature(objective, **{**arguments, "trace_rtol": 1e-9, "seed": 0}).trace
    assert exact is not None
    squares, covered = 0.0, 0
    for seed in range(count):
        found = normalized_curvature(objective, **arguments, trace_rtol=0.2, seed=seed)
        assert found.trace is not None
        assert found.trace_error
        squares += ((found.trace - exact) / found.trace_error) ** 2
        low, high = found.trace_interval()
        covered += low <= exact <= high
    return squares / count, covered / count


def test_the_trace_has_the_error_it_states() -> None:
    square, share = repeated(16)
    assert square == pytest.approx(1, abs=0.8)
    assert share >= 0.8


@pytest.mark.slow
def test_coverage() -> None:
    square, share = repeated(2000)
    assert square == pytest.approx(1, abs=0.15)
    print("normalized_curvature, trace", 2000, round(2000 * share))
    assert 0.935 <= share <= 0.965


def test_the_model_stays(unchanged: Any) -> None:
    model, data = normed(), batch("images")
    with unchanged(model, data):
        for mode in MODES:
            normalized_curvature(
                Objective(copy.deepcopy(model), data, batch_norm=mode),
                norms="projected",
                seed=0,  # type: ignore[arg-type]
            )
