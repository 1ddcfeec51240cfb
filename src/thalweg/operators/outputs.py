"""One micro-batch's loss cut in two at the model's outputs: the network, and the loss of what it puts out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.operators.jacobians import Named

Network = Callable[[Named], Tensor]
OutputLoss = Callable[[Tensor], Tensor]


def refuse_loss_of_model(objective: Objective) -> None:
    """Raise unless the loss is a function of the model's outputs."""
    if objective.loss.takes_model:
        raise ValueError(
            "`of='ggn'` needs a loss of (outputs, targets), since it is defined by what the loss sees of the "
            f"network, but {objective.loss.name} takes (model, batch); pass such a loss, or use of='hessian'."
        )


def split_at_outputs(micro: MicroBatch) -> tuple[Network, OutputLoss]:
    """The outputs as a function of the named parameters, and the loss sum as a function of the outputs."""

    def network(params: Named) -> Tensor:
        outputs = micro.outputs(params)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"`of='ggn'` needs a model that returns one tensor (or has it as .logits), got "
                f"{type(outputs).__name__}; wrap the model, or use of='hessian'."
            )
        return outputs

    return network, lambda outputs: micro.losses_of(outputs).sum()
