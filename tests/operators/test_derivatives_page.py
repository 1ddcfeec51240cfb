"""The numbers of `docs/derivatives.md`, computed.

Those of curvlinops by the composition that it takes, so that the tests need not install it; the library
itself is run by `benchmarks/derivatives.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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


def hessian_by_torch_func(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """`jacfwd` of `jacrev`."""
    return torch.func.hessian(loss)(at)


def hessian_by_curvlinops_way(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """`jvp` of `jacrev`, a vector at a time: curvlinops 3.0.1, ``hessian.py``."""
    columns = [
        torch.func.jvp(torch.func.jacrev(loss), (at,), (v,))[1] for v in torch.eye(len(at), dtype=at.dtype)
    ]
    return torch.stack(columns, 1)


WAYS = (hessian_by_torch_func, hessian_by_curvlinops_way)


def dense(way: Callable[..., Tensor], model: nn.Module, data: tuple[Tensor, Tensor], mode: str) -> Tensor:
    """What a composition says, on the model as a user would call it."""
    model = ready(model, data, mode)
    params = {k: p.detach() for k, p in model.named_parameters()}
    sizes = [p.numel() for p in params.values()]

    def loss(flat: Tensor) -> Tensor:
        named = {k: part.view_as(p) for (k, p), part in zip(params.items(), flat.split(sizes), strict=True)}
        return F.cross_entropy(functional_call(model, named, data[0]), data[1])

    return way(loss, torch.cat([p.detach().reshape(-1) for p in params.values()]))


def measured(layer: str) -> tuple[float, list[float]]:
    """Relative error of ours; of the others, one after the other, error and asymmetry."""
    model, data, mode = problem(layer)
    H = oracle.dense_hessian(model, data, mode=mode, batch_size=21)
    operator = Hessian(Objective(model, data, batch_norm=mode, batch_size=21))  # type: ignore[arg-type]
    ours = operator @ torch.eye(operator.dim, dtype=torch.float64)
    others = []
    for way in WAYS:
        theirs = dense(way, model, data, mode)
        others += [deviation(theirs, H), float((theirs - theirs.T).norm() / H.norm())]
    return deviation(ours, H), others


def rows() -> dict[str, list[str]]:
    """Cells of the page's table by the name of the layer."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    return {c[0]: c[1:] for c in cells if len(c) == 6 and c[0] in LAYERS}


def test_every_layer_is_on_the_page() -> None:
    assert rows().keys() == LAYERS.keys()


@pytest.mark.parametrize("layer", LAYERS)
def test_numbers(layer: str) -> None:
    ours, others = measured(layer)
    cells = rows()[layer]
    assert cells[0] == "below 1e-12"
    assert ours < 1e-12
    version = re.search(r"torch (\d+\.\d+)", PAGE.read_text())
    assert version
    if not torch.__version__.startswith(version[1] + "."):
        return  # another torch may be right, or wrong in another way; ours is proved on each
    for found, cell in zip(others, cells[1:], strict=True):
        if cell == "below 1e-12":
            assert found < 1e-12
        else:
            assert f"{found:.0e}" == cell.replace("**", "")
