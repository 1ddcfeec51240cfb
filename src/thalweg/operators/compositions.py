"""Ways to differentiate twice, in the order they are tried. Which of them is right depends on the layers.

Each takes one micro-batch's loss sum as a function of named parameters, the point, and K tangents stacked
on a leading dimension, and returns the K products stacked alike. `thalweg.operators.self_check` decides
which to believe.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

Named = dict[str, Tensor]
ScalarFunction = Callable[[Named], Tensor]
Composition = Callable[[ScalarFunction, Named, Named], Named]


def vmap_jvp_grad(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Forward over reverse, all K tangents at once: the primal pass is shared between them."""

    def one(tangent: Named) -> Named:
        return jvp(grad(loss), (params,), (tangent,))[1]

    if _num_columns(tangents) == 1:
        # A batch of one gains nothing and costs the batching rules of every layer.
        return {k: v[None] for k, v in one({k: t[0] for k, t in tangents.items()}).items()}
    return vmap(one)(tangents)


def jvp_grad(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Forward over reverse, one tangent at a time: for layers without a batching rule."""
    columns = [
        jvp(grad(loss), (params,), ({k: t[i] for k, t in tangents.items()},))[1]
        for i in range(_num_columns(tangents))
    ]
    return {k: torch.stack([c[k] for c in columns]) for k in params}


def double_backward(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Reverse over reverse: right for every layer whose backward can be differentiated."""
    with torch.enable_grad():
        leaves = {k: p.detach().requires_grad_() for k, p in params.items()}
        gradient = torch.autograd.grad(
            loss(leaves), list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        # Entries of the gradient that are constant in the parameters have no graph and no second derivative.
        curved = [(g, name) for g, name in zip(gradient, leaves, strict=True) if g.requires_grad]
        columns = []
        for i in range(_num_columns(tangents)):
            if not curved:
                columns.append([torch.zeros_like(p) for p in leaves.values()])
                continue
            columns.append(
                torch.autograd.grad(
                    [g for g, _ in curved],
                    list(leaves.values()),
                    [tangents[name][i] for _, name in curved],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
    return {k: torch.stack([c[j] for c in columns]).detach() for j, k in enumerate(leaves)}


def finite_differences(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Central differences of the gradient: the last resort, accurate to about the root of the precision."""
    gradient_of = grad(loss)
    scale = torch.stack([p.square().sum() for p in params.values()]).sum().sqrt().clamp_min(1.0)
    columns = []
    for i in range(_num_columns(tangents)):
        direction = {k: t[i] for k, t in tangents.items()}
        norm = torch.stack([d.square().sum() for d in direction.values()]).sum().sqrt()
        if norm == 0:
            columns.append({k: torch.zeros_like(p) for k, p in params.items()})
            continue
        # The cube root of the precision balances truncation, of second order, against rounding.
        step = torch.finfo(norm.dtype).eps ** (1 / 3) * scale / norm
        ahead = gradient_of({k: p + step * direction[k] for k, p in params.items()})
        behind = gradient_of({k: p - step * direction[k] for k, p in params.items()})
        columns.append({k: (ahead[k] - behind[k]) / (2 * step) for k in params})
    return {k: torch.stack([c[k] for c in columns]) for k in params}


COMPOSITIONS: dict[str, Composition] = {
    "vmap_jvp_grad": vmap_jvp_grad,
    "jvp_grad": jvp_grad,
    "double_backward": double_backward,
    "finite_differences": finite_differences,
}


def _num_columns(tangents: Named) -> int:
    return len(next(iter(tangents.values())))
