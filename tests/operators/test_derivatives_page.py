"""The numbers of `docs/derivatives.md`, computed; those of curvlinops are `benchmarks/derivatives.py`'s."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.operators import oracle
from tests.operators.cases import deviation
from tests.operators.normalised import LAYERS, problem, ready
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian

PAGE = Path(__file__).parents[2] / "docs" / "derivatives.md"


def dense_by_torch_func(model: nn.Module, data: tuple[Tensor, Tensor], mode: str) -> Tensor:
    """What `torch.func.hessian` says, on the model as a user would call it."""
    model = ready(model, data, mode)
    params = {k: p.detach() for k, p in model.named_parameters()}
    sizes = [p.numel() for p in params.values()]

    def loss(flat: Tensor) -> Tensor:
        named = {k: part.view_as(p) for (k, p), part in zip(params.items(), flat.split(sizes), strict=True)}
        return F.cross_entropy(functional_call(model, named, data[0]), data[1])

    return torch.func.hessian(loss)(torch.cat([p.reshape(-1) for p in params.values()]))


def measured(layer: str) -> tuple[float, float, float]:
    """Relative error of ours, of `torch.func.hessian`, and the asymmetry of the latter."""
    model, data, mode = problem(layer)
    H = oracle.dense_hessian(model, data, mode=mode, batch_size=21)
    operator = Hessian(Objective(model, data, batch_norm=mode, batch_size=21))  # type: ignore[arg-type]
    theirs = dense_by_torch_func(model, data, mode)
    ours = operator @ torch.eye(operator.dim, dtype=torch.float64)
    return deviation(ours, H), deviation(theirs, H), float((theirs - theirs.T).norm() / H.norm())


def rows() -> dict[str, list[str]]:
    """Cells of the page's table by the name of the layer."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    return {c[0]: c[1:] for c in cells if len(c) == 6 and c[0] in LAYERS}


def test_every_layer_is_on_the_page() -> None:
    assert rows().keys() == LAYERS.keys()


@pytest.mark.parametrize("layer", LAYERS)
def test_numbers(layer: str) -> None:
    ours, theirs, asymmetry = measured(layer)
    cells = rows()[layer]
    assert cells[0] == "below 1e-12"
    assert ours < 1e-12
    version = re.search(r"torch (\d+\.\d+)", PAGE.read_text())
    assert version
    if not torch.__version__.startswith(version[1] + "."):
        return  # another torch may be right, or wrong in another way; ours is proved on each
    for found, cell in ((theirs, cells[1]), (asymmetry, cells[2])):
        if cell == "below 1e-12":
            assert found < 1e-12
        else:
            assert f"{found:.0e}" == cell.replace("**", "")
