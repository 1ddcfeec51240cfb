"""What identifies an objective: the part of every provenance that says which function was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thalweg.core.measurement import hash_tensors

if TYPE_CHECKING:
    from thalweg.objective.objective import Objective


def describe(objective: Objective) -> dict[str, Any]:
    """The body of `Objective.describe`."""
    network = objective._network
    result: dict[str, Any] = {
        "model": type(network.model).__qualname__,
        "model_code": network.code,
        "loss": network.module.name,
        "loss_code": network.module.code,
        "params": hash_tensors(objective.params, *objective._constants.values()),
        "buffers": hash_tensors(*objective.buffers.values(), *network.fixed_buffers.values()),
        "data": objective._examples.hash,
        "num_examples": objective.num_examples,
        "num_params": objective.space.dim,
        "batch_norm": objective.batch_norm,
        "has_batch_norm": objective.has_batch_norm,
        "batch_size": objective.batch_size,
        "micro_batch": objective.micro_batch,
        "weight_decay": objective.weight_decay,
        "dtype": str(objective.dtype).removeprefix("torch."),
        "device": objective.device.type,
    }
    if objective.weight_decay and objective.space.dim < network.space.dim:
        result["l2_term"] = "of the parameters held constant, too"
    if objective._examples.weights is not None:
        result["weights"] = hash_tensors(objective._examples.weights)
    if objective.batch_norm == "recalibrated" and objective.has_batch_norm:
        result["calibration_data"] = objective._calibration.hash
        result["derivatives"] = "hold the statistics of the base point constant"
        if objective._statistics_held:
            # Those of the base point are among the buffers hashed above.
            result["statistics"] = "held"
    return result
