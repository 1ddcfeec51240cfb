"""Products with the Jacobian of one function, K tangents at a time: what every second derivative is made of.

A point is a tensor or a dictionary of tensors; its tangents are alike, with K in front. By forward mode in
one `vmap`, by forward mode one tangent at a time, or by central differences. Plain reverse mode is here too:
the gradient that a user's own training takes, and what the self-check measures against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp, vmap
from torch.utils import _pytree as pytree

Named = dict[str, Tensor]
Push = Callable[[Callable[..., Any], Any, Any], Any]

# Step of central differences, as a power of the precision and relative to max(1, norm of the point). Somewhat
# smaller than the cube root, which is best for smooth functions: kinks (ReLU) are met in proportion to it.
STEP_POWER = 0.45


def num_columns(tangents: Any) -> int:
    """K."""
    return len(pytree.tree_leaves(tangents)[0])


def column(tangents: Any, i: int) -> Any:
    """Tangent number `i`."""
    return pytree.tree_map(lambda t: t[i], tangents)


def stacked(columns: Sequence[Any]) -> Any:
    """Products of single tangents as those of a block."""
    return pytree.tree_map(lambda *parts: torch.stack(parts), *columns)


def jvp_together(function: Callable[..., Any], point: Any, tangents: Any) -> Any:
    """Forward mode, all K tangents in one `vmap`: the primal pass is shared between them."""
    if num_columns(tangents) == 1:
        # A batch of one gains nothing and costs the batching rules of every layer.
        return jvp_each(function, point, tangents)
    return vmap(lambda t: jvp(function, (point,), (t,))[1])(tangents)


def jvp_each(function: Callable[..., Any], point: Any, tangents: Any) -> Any:
    """Forward mode, one tangent at a time: for layers without a batching rule."""
    columns = [jvp(function, (point,), (column(tangents, i),))[1] for i in range(num_columns(tangents))]
    return stacked(columns)


def differences(function: Callable[..., Any], point: Any, tangents: Any) -> Any:
    """Central differences: needs nothing but the function, and has about half the digits of the precision."""
    scale = max(1.0, _norm(point))
    columns = []
    for i in range(num_columns(tangents)):
        direction = column(tangents, i)
        norm = _norm(direction)
        # Along nought any step will do.
        step = torch.finfo(pytree.tree_leaves(point)[0].dtype).eps ** STEP_POWER * scale / (norm or 1.0)
        ahead, behind = (
            function(pytree.tree_map(lambda p, d, h=h: p + h * d, point, direction)) for h in (step, -step)
        )
        columns.append(pytree.tree_map(lambda a, b, h=step: (a - b) / (2 * h), ahead, behind))
    return stacked(columns)


def backward(
    outputs: Sequence[Tensor],
    leaves: Mapping[str, Tensor],
    weights: Sequence[Tensor],
    *,
    create_graph: bool = False,
) -> Named:
    """Reverse mode by plain autograd: ``sum_i J_i^T weights_i``, noughts where nothing depends on a leaf."""
    used = [(out, weight) for out, weight in zip(outputs, weights, strict=True) if out.requires_grad]
    if not used:
        return {k: torch.zeros_like(leaf) for k, leaf in leaves.items()}
    found = torch.autograd.grad(
        [out for out, _ in used],
        list(leaves.values()),
        [weight for _, weight in used],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(leaves, found, strict=True))


def as_leaves(params: Named) -> Named:
    """The same numbers as leaves of a new graph."""
    return {k: p.detach().requires_grad_() for k, p in params.items()}


def gradient(function: Callable[[Named], Tensor], params: Named, *, create_graph: bool = False) -> Named:
    """Gradient of a scalar function by plain autograd.

    Unlike `torch.func.grad` it takes every `torch.autograd.Function`, those without `setup_context` too.
    """
    with torch.enable_grad():
        leaves = params if create_graph else as_leaves(params)
        value = function(leaves)
        return backward([value], leaves, [torch.ones_like(value)], create_graph=create_graph)


def slope_of_gradient(function: Callable[[Named], Tensor], params: Named, tangent: Named) -> Named:
    """Product of a scalar function's Hessian with one tangent: plain forward mode over plain reverse mode.

    What ``jvp(grad)`` of `torch.func` gives, without its layers of wrapping, which cost a tenth of a product
    on a CPU. Fewer layers have rules for it, and those of some are wrong (``linalg.solve``, in torch 2.13),
    so that who uses it compares it with ``jvp(grad)`` first.
    """
    with forward_ad.dual_level(), torch.enable_grad():
        duals = {k: forward_ad.make_dual(p, tangent[k]) for k, p in as_leaves(params).items()}
        value = function(duals)
        slopes = backward([value], duals, [torch.ones_like(value)])
        moved = {k: forward_ad.unpack_dual(slope).tangent for k, slope in slopes.items()}
        return {k: torch.zeros_like(params[k]) if t is None else t.detach() for k, t in moved.items()}


def _norm(point: Any) -> float:
    return float(torch.stack([t.square().sum() for t in pytree.tree_leaves(point)]).sum().sqrt())
