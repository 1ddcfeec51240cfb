r"""The generalised Gauss-Newton matrix of an objective as a linear operator.

.. math:: G = \frac1N \sum_{i=1}^N J_i^\top\, \nabla^2_f \ell(f_i, y_i)\, J_i + \lambda I,
   \qquad f_i = f_\theta(x_i), \quad J_i = \partial f_i / \partial\theta

The Hessian of the loss of the *linearised* network: without the curvature of the network itself. It has no
negative eigenvalue where the loss is convex in the outputs.

References
----------
Schraudolph (2002), Neural Computation 14(7), 1723-1738.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
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
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.operators.outputs import (
    Network,
    OutputLoss,
    refuse_loss_of_model,
    split_at_outputs,
)

Composition = Callable[[Network, OutputLoss, Named, Named], Named]


def vmap_jvp_vjp(network: Network, loss: OutputLoss, params: Named, tangents: Named) -> Named:
    """Forward through the network, forward over reverse on the loss, reverse back: all K at once."""
    outputs, pull = _pullback(network, params)
    moved = jvp_together(network, params, tangents)
    curved = jvp_together(grad(loss), outputs, moved)
    return stacked([pull(curved[0])]) if len(curved) == 1 else vmap(pull)(curved)


def jvp_vjp(network: Network, loss: OutputLoss, params: Named, tangents: Named) -> Named:
    """The same, one tangent at a time."""
    outputs, pull = _pullback(network, params)
    moved = jvp_each(network, params, tangents)
    return stacked([pull(c) for c in jvp_each(grad(loss), outputs, moved)])


def double_backward(network: Network, loss: OutputLoss, params: Named, tangents: Named) -> Named:
    """Reverse mode alone: a Jacobian times v is the slope of its transpose times w, in w."""
    with torch.enable_grad():
        leaves = as_leaves(params)
        outputs = network(leaves)
        w = {"w": torch.zeros_like(outputs).requires_grad_()}
        pulled = backward([outputs], leaves, [w["w"]], create_graph=True)
        f = {"f": outputs.detach().requires_grad_()}
        slope = gradient(lambda named: loss(named["f"]), f, create_graph=True)["f"]
        columns = []
        for i in range(num_columns(tangents)):
            moved = backward([pulled[k] for k in leaves], w, [tangents[k][i] for k in leaves])["w"]
            curved = backward([slope], f, [moved])["f"]
            columns.append(backward([outputs], leaves, [curved]))
    return stacked(columns)


def finite_differences(network: Network, loss: OutputLoss, params: Named, tangents: Named) -> Named:
    """Central differences of the outputs and of the loss's gradient in them, plain reverse mode back."""
    leaves = as_leaves(params)
    with torch.enable_grad():
        outputs = network(leaves)
    moved = differences(network, params, tangents)
    curved = differences(lambda f: _slope(loss, f), outputs.detach(), moved)
    return stacked([backward([outputs], leaves, [c]) for c in curved])


GGN_COMPOSITIONS: dict[str, Composition] = {
    "vmap_jvp_vjp": vmap_jvp_vjp,
    "jvp_vjp": jvp_vjp,
    "double_backward": double_backward,
    "finite_differences": finite_differences,
}


class GGN(ObjectiveOperator):
    """G of the mean loss; see `ObjectiveOperator` for its arguments and for how it proves itself.

    Its compositions are ``"vmap_jvp_vjp"``, ``"jvp_vjp"``, ``"double_backward"`` and, last,
    ``"finite_differences"``. For named losses, which are convex in the outputs, the proof also asks for
    curvature that is not negative.

    Raises
    ------
    ValueError
        If the loss is not a function of the model's outputs, or these are not one tensor.
    """

    compositions = GGN_COMPOSITIONS

    def __init__(self, objective: Objective, *args: Any, **kwargs: Any) -> None:
        refuse_loss_of_model(objective)
        super().__init__(objective, *args, **kwargs)

    @classmethod
    def micro_product(cls, composition: str, micro: MicroBatch, params: Named, tangents: Named) -> Named:
        network, loss = split_at_outputs(micro)
        return GGN_COMPOSITIONS[composition](network, loss, params, tangents)

    @classmethod
    def micro_gradient(cls, micro: MicroBatch, params: Named, displacement: Named) -> Named:
        """Gradient of the linearised network's loss; what it moves the outputs by is half a difference."""
        network, loss = split_at_outputs(micro)
        ahead, behind = (
            network({k: p + sign * displacement[k] for k, p in params.items()}) for sign in (1, -1)
        )
        leaves = as_leaves(params)
        with torch.enable_grad():
            outputs = network(leaves)
        slope = _slope(loss, outputs.detach() + (ahead - behind) / 2)
        return backward([outputs], leaves, [slope])

    @classmethod
    def is_convex(cls, objective: Objective) -> bool:
        return objective.loss.is_convex_in_outputs


def _pullback(network: Network, params: Named) -> tuple[Tensor, Callable[[Tensor], Named]]:
    outputs, pull, *_ = vjp(network, params)
    return outputs, lambda weights: pull(weights)[0]


def _slope(loss: OutputLoss, outputs: Tensor) -> Tensor:
    return gradient(lambda named: loss(named["f"]), {"f": outputs})["f"]
