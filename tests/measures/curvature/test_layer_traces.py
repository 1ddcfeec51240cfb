"""Traces of layers and of blocks of one's own: what the results that have them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.operators.cases import CASES, ggn_of, hessian_of

import thalweg as tw
from thalweg.measures.curvature.layer_traces import LayerTraces


@pytest.mark.parametrize(
    ("measure", "rough"), [(tw.hessian_trace, {"rtol": 0.3}), (tw.curvature_profile, {"max_matvecs": 100})]
)
def test_blocks_of_ones_own_come_from_the_same_probes(
    measure: Callable[..., LayerTraces], rough: dict[str, Any]
) -> None:
    objective, H = CASES["residual-running"].objective(), hessian_of("residual-running")
    patterns = ["head", "*.weight"]
    with pytest.raises(ValueError, match=r"`blocks` must not overlap, but 'head' and .* both match"):
        measure(objective, blocks=patterns, seed=0)
    patterns = ["head.weight", "head.bias"]
    found = measure(objective, blocks=patterns, seed=0)
    exact = [
        sum(float(H.diagonal()[s.start : s.stop].sum()) for s in objective.space if s.name == name)
        for name in patterns
    ]
    assert found.layers == tuple(patterns)
    assert found.layer_traces.tolist() == pytest.approx(exact, rel=1e-6)
    assert found.value == pytest.approx(sum(exact), rel=1e-6)
    assert found.provenance["arguments"]["blocks"] == patterns
    inside = measure(objective, params="head", blocks=["*.bias"], seed=0)
    assert inside.layers == ("*.bias",)
    assert inside.value == pytest.approx(exact[1], rel=1e-6)
    # Blocks that hold all parameters are estimated by the probes that the layers are.
    names = [s.name for s in objective.space]
    fine, whole = (measure(objective, **rough, blocks=b, seed=0) for b in (names, None))
    assert fine.value == whole.value
    for i, layer in enumerate(whole.layers):
        parts = [
            float(t) for n, t in zip(names, fine.layer_traces, strict=True) if n.rpartition(".")[0] == layer
        ]
        assert sum(parts) == pytest.approx(float(whole.layer_traces[i]), rel=1e-9, abs=1e-9)
    with pytest.raises(TypeError, match="`blocks` must be a sequence of patterns"):
        measure(objective, blocks="head", seed=0)


@pytest.mark.parametrize("of", ["hessian", "ggn"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_chosen_parameters_keep_the_l2_term(of: str, decay: float) -> None:
    """Of every measure: the dense diagonal block, with the factor of the L2 term on its diagonal."""
    case = CASES["residual-running"]
    objective = tw.Objective(case.model(), case.data(), weight_decay=decay)
    undecayed = hessian_of("residual-running") if of == "hessian" else ggn_of("residual-running")
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.layer == "head"])
    block = undecayed[index][:, index] + decay * torch.eye(len(index), dtype=torch.float64)
    values = torch.linalg.eigvalsh(block)
    chosen = {"of": of, "params": "head", "seed": 0}
    both = tw.top_eigenvalues(objective, which="both", rtol=1e-8, **chosen)
    assert both.eigenvalues.tolist() == pytest.approx([float(values[-1]), float(values[0])], abs=1e-6)
    trace = float(block.trace())
    assert tw.hessian_trace(objective, **chosen).value == pytest.approx(trace, rel=1e-9)
    profile = tw.curvature_profile(objective, **chosen)
    assert profile.value == pytest.approx(trace, rel=1e-9)
    torch.testing.assert_close(profile.diagonal, block.diagonal())
    assert float(tw.spectral_density(objective, **chosen).trace) == pytest.approx(trace, rel=1e-6)
