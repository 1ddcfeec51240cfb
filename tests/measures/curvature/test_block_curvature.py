"""Blocks of the curvature against dense float64 oracles."""

from __future__ import annotations

import math

import pytest
import torch
from tests.known_matrix import Known, use
from tests.operators.cases import CASES, ggn_of, hessian_of
from torch import Tensor

from thalweg.core.param_space import ParamSpace
from thalweg.measures.curvature.block_curvature import BlockCurvature, block_curvature
from thalweg.measures.curvature.layer_traces import layer_indices


def dense_norms(H: Tensor, indices: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack([H[i][:, j].norm() for j in indices]) for i in indices])


def share(norms: Tensor) -> float:
    squared = norms.square()
    return float(1 - squared.trace() / squared.sum())


def check(found: BlockCurvature, H: Tensor, indices: list[Tensor], probes: int) -> None:
    norms = dense_norms(H, indices)
    assert found.sizes.tolist() == [len(i) for i in indices]
    torch.testing.assert_close(found.block_norms, found.block_norms.T, rtol=1e-12, atol=0)
    # Exact where a block is no larger than the probes are many, else within Student's 99.9 %.
    small = found.sizes <= probes
    exact = small[:, None] | small[None, :]
    torch.testing.assert_close(found.block_norms[exact], norms[exact], rtol=1e-8, atol=1e-12)
    assert (
        float(found.block_norm_errors[exact].abs().max()) < 1e-9 * float(norms.max()) if small.any() else True
    )
    errors = found.block_norm_errors[~exact]
    assert bool(((found.block_norms - norms)[~exact].abs() <= 5.5 * errors + 1e-9).all())
    low, high = found.interval(0.999)
    assert low <= share(norms) <= high
    for density, index in zip(found.densities, indices, strict=True):
        values = torch.linalg.eigvalsh(H[index][:, index])
        assert density.dim == len(index)
        assert abs(density.lambda_max - float(values[-1])) <= 1e-3 * float(values.abs().max())
        lower, upper = density.trace.interval(0.999)
        assert float(lower) - 1e-9 <= float(values.sum()) <= float(upper) + 1e-9


@pytest.mark.parametrize("name", ["residual-running", "residual-recalibrated", "residual-batch", "tied"])
def test_layers(name: str) -> None:
    objective, H = CASES[name].objective(), hessian_of(name)
    indices = layer_indices(objective.space)
    found = block_curvature(objective, num_probes=8, num_steps=10, seed=0)
    assert found.blocks == tuple(indices)
    assert "conv1" not in found.blocks, "frozen"
    check(found, H, list(indices.values()), 8)
    assert 0 < found.value < 1
    assert found.lambda_max.shape == found.lambda_min.shape == found.traces.shape == (len(indices),)


def test_gauss_newton_in_blocks_of_ones_own() -> None:
    objective, H = CASES["residual-running"].objective(), ggn_of("residual-running")
    patterns = ["conv2", "norm*"]
    names = [["conv2.weight"], [n for n in objective.space.names if n.startswith("norm")]]
    indices = [
        torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.name in chosen])
        for chosen in names
    ]
    found = block_curvature(objective, blocks=patterns, num_probes=8, num_steps=12, of="ggn", seed=0)
    assert found.blocks == tuple(patterns)
    check(found, H, indices, 8)


@pytest.mark.parametrize("num", [24, pytest.param(400, marks=pytest.mark.slow)])
def test_standard_errors_are_right(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over seeds: the spread of norms and of the share is that which is stated, about the truth."""
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    use(Known(objective, H), monkeypatch)
    norms = dense_norms(H, list(layer_indices(objective.space).values()))
    runs = [block_curvature(objective, num_probes=6, num_steps=3, seed=seed) for seed in range(num)]
    a, b = 1, 2  # two layers with more parameters than probes
    assert int(runs[0].sizes[[a, b]].min()) > 6
    for values, errors, exact in (
        (
            [float(r.block_norms[a, b]) for r in runs],
            [float(r.block_norm_errors[a, b]) for r in runs],
            norms[a, b],
        ),
        ([r.value for r in runs], [r.error.probe.value for r in runs if r.error.probe], share(norms)),
    ):
        found, stated = torch.tensor(values).double(), torch.tensor(errors).double()
        assert abs(float(found.mean()) - float(exact)) < 4 * float(found.std()) / math.sqrt(num)
        assert float(found.std()) / float(stated.square().mean().sqrt()) == pytest.approx(
            1, abs=0.5 if num < 100 else 0.15
        )


def test_weight_decay_stands_on_the_diagonal_alone() -> None:
    plain = block_curvature(CASES["mlp-mse"].objective(), num_probes=50, seed=0)
    shifted = block_curvature(CASES["mlp-mse"].objective(weight_decay=3.0), num_probes=50, seed=0)
    torch.testing.assert_close(shifted.lambda_max, plain.lambda_max + 3)
    torch.testing.assert_close(shifted.block_norms[0, 1], plain.block_norms[0, 1])
    assert shifted.value < plain.value


def test_parameters_of_the_root_module_are_layers_of_their_own() -> None:
    indices = layer_indices(
        ParamSpace({"scale": torch.Size([]), "a.w": torch.Size([2, 2]), "a.b": torch.Size([2])})
    )
    assert {k: v.tolist() for k, v in indices.items()} == {"scale": [0], "a": [1, 2, 3, 4, 5, 6]}


def test_bad_blocks() -> None:
    objective = CASES["residual-running"].objective()
    with pytest.raises(
        ValueError, match=r"`blocks` must not overlap, but 'conv2' and 'conv\*' both match 'conv2\.w"
    ):
        block_curvature(objective, blocks=["conv2", "conv*"], seed=0)
    with pytest.raises(
        TypeError, match="`blocks` must be a sequence of patterns, each one block, got the text"
    ):
        block_curvature(objective, blocks="conv2", seed=0)
    with pytest.raises(ValueError, match="`blocks` must match trainable parameters, but 'hed'"):
        block_curvature(objective, blocks=["hed"], seed=0)
