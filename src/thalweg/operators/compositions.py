"""Ways to differentiate twice, in the order they are tried. Which of them is right depends on the layers.

Each takes one micro-batch's loss sum as a function of named parameters, the point, and K tangents stacked
on a leading dimension, and returns the K products stacked alike. `thalweg.operators.self_check` decides
which to believe.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import grad

from thalweg.operators.jacobians import (
    Named,
    as_leaves,
    backward,
    differences,
    gradient,
    jvp_each,
    jvp_together,
    num_columns,
    stacked,
)

ScalarFunction = Callable[[Named], Tensor]
Composition = Callable[[ScalarFunction, Named, Named], Named]


def vmap_jvp_grad(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Forward over reverse, all K tangents at once: the primal pass is shared between them."""
    return jvp_together(grad(loss), params, tangents)


def jvp_grad(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Forward over reverse, one tangent at a time: for layers without a batching rule."""
    return jvp_each(grad(loss), params, tangents)


def double_backward(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Reverse over reverse: right for every layer whose backward can be differentiated."""
    leaves = as_leaves(params)
    slopes = gradient(loss, leaves, create_graph=True)
    columns = [
        backward([slopes[k] for k in leaves], leaves, [tangents[k][i] for k in leaves])
        for i in range(num_columns(tangents))
    ]
    return stacked(columns)


def finite_differences(loss: ScalarFunction, params: Named, tangents: Named) -> Named:
    """Central differences of the gradient: the last resort, with about half the digits of the precision."""
    return differences(lambda p: gradient(loss, p), params, tangents)


COMPOSITIONS: dict[str, Composition] = {
    "vmap_jvp_grad": vmap_jvp_grad,
    "jvp_grad": jvp_grad,
    "double_backward": double_backward,
    "finite_differences": finite_differences,
}
