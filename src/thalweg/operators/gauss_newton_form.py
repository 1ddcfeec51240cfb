r"""Matrices of the form J' M J: a network's Jacobian around the curvature of a loss of its outputs.

The generalised Gauss-Newton matrix is one. So is a sum of outer products of scores or of per-example
gradients, with a quadratic function of the outputs in the place of the loss.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from thalweg.objective.micro_batch import MicroBatch
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
from thalweg.operators.outputs import Network, OutputLoss

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


GAUSS_NEWTON_COMPOSITIONS: dict[str, Composition] = {
    "vmap_jvp_vjp": vmap_jvp_vjp,
    "jvp_vjp": jvp_vjp,
    "double_backward": double_backward,
    "finite_differences": finite_differences,
}


class GaussNewtonForm(ObjectiveOperator):
    """J' M J; a sub-class says what is differentiated once, and whose curvature M is.

    Its compositions are ``"vmap_jvp_vjp"``, ``"jvp_vjp"``, ``"double_backward"`` and, last,
    ``"finite_differences"``.
    """

    compositions = GAUSS_NEWTON_COMPOSITIONS

    @abstractmethod
    def split(self, micro: MicroBatch) -> tuple[Network, OutputLoss]:
        """A function of the parameters with Jacobian J, and one of its values with Hessian M."""

    def micro_product(self, composition: str, micro: MicroBatch, params: Named, tangents: Named) -> Named:
        network, loss = self.split(micro)
        return GAUSS_NEWTON_COMPOSITIONS[composition](network, loss, params, tangents)

    def micro_gradient(self, micro: MicroBatch, params: Named, displacement: Named) -> Named:
        """Gradient of the linearised network's loss; what it moves the outputs by is half a difference."""
        network, loss = self.split(micro)
        ahead, behind = (
            network({k: p + sign * displacement[k] for k, p in params.items()}) for sign in (1, -1)
        )
        leaves = as_leaves(params)
        with torch.enable_grad():
            outputs = network(leaves)
        slope = _slope(loss, outputs.detach() + (ahead - behind) / 2)
        return backward([outputs], leaves, [slope])


def _pullback(network: Network, params: Named) -> tuple[Tensor, Callable[[Tensor], Named]]:
    outputs, pull, *_ = vjp(network, params)
    return outputs, lambda weights: pull(weights)[0]


def _slope(loss: OutputLoss, outputs: Tensor) -> Tensor:
    return gradient(lambda named: loss(named["f"]), {"f": outputs})["f"]
